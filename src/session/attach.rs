//! How a session finds its place: what it missed comes from the log, what follows from the live stream, and the two
//! meet at one position of the feed.
//!
//! The session is in the hub already, so that its outbox collects. Whatever it collected up to the position's batch
//! is also in the log up to the position's snapshot, and is dropped from the outbox before anything is waited for.

use std::{collections::VecDeque, sync::Arc};

use super::{Opening, Sessions};
use crate::{
    hub::{Outbox, Position},
    metrics::ByOutcome,
    protocol::{
        cursor::{Cursor, CursorError, Epoch},
        server_frame::{Discontinuity, EventsFrame, Ready},
        snapshot::Snapshot,
    },
    store::replay::{Replay, ReplayError},
    types::BatchNumber,
};

/// Why a session could not find its place.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    #[error("the feed has not begun yet")]
    NoPosition,
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// A session that knows its place.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) ready: Ready,
    pub(super) replayed: VecDeque<EventsFrame>,
    /// Names the log.
    pub(super) epoch: Epoch,
    /// The last batch that is not the live stream's.
    pub(super) batch: BatchNumber,
    /// What the client has seen already and the feed has not.
    pub(super) ahead: Option<Arc<Snapshot>>,
}

/// Finds the place of a session that has entered the hub.
pub(super) async fn attach(
    sessions: &Sessions,
    opening: &Opening,
    cursor: Option<Result<Cursor, CursorError>>,
    outbox: &Outbox,
) -> Result<Attached, AttachError> {
    let position = sessions.hub.position.newest().ok_or(AttachError::NoPosition)?;
    outbox.begin_after(position.batch);
    let outcome = match &cursor {
        None => None,
        Some(Err(_)) => Some(Err(Discontinuity::Malformed)),
        // Boxed, because the question to the database is large, and a session keeps room for it as long as it lives.
        Some(Ok(cursor)) => Some(Box::pin(resume(sessions, opening, cursor, &position)).await?),
    };
    if let Some(outcome) = &outcome {
        let label = outcome.as_ref().err().map_or("resumed", |reason| reason.name());
        sessions
            .metrics
            .replays
            .get_or_create(&ByOutcome { outcome: label })
            .inc();
    }
    let resumed = outcome
        .as_ref()
        .map(|outcome| outcome.as_ref().map(|_| ()).map_err(|reason| *reason));
    let (replayed, cursor, ahead) = match outcome {
        Some(Ok(resumed)) => (resumed.replayed, resumed.cursor, resumed.ahead),
        // Without a cursor, or with one that leads nowhere, the session begins where the feed is.
        None | Some(Err(_)) => (VecDeque::new(), position.cursor(), None),
    };
    let ready = Ready {
        user: opening.identity.user,
        session: opening.session(),
        cursor,
        resumed,
        expires_at: opening.identity.expires_at,
        heartbeat_s: sessions.rhythm.heartbeat.as_secs().max(1),
    };
    Ok(Attached {
        ready,
        replayed,
        epoch: position.epoch.clone(),
        batch: position.batch,
        ahead,
    })
}

struct Resumed {
    replayed: VecDeque<EventsFrame>,
    cursor: Cursor,
    ahead: Option<Arc<Snapshot>>,
}

async fn resume(
    sessions: &Sessions,
    opening: &Opening,
    cursor: &Cursor,
    position: &Position,
) -> Result<Result<Resumed, Discontinuity>, ReplayError> {
    let replay = sessions
        .replayer
        .replay(opening.identity.user, cursor, position)
        .await
        .inspect_err(|_| {
            sessions
                .metrics
                .replays
                .get_or_create(&ByOutcome { outcome: "failed" })
                .inc();
        })?;
    let frames = match replay {
        Replay::Discontinued(reason) => return Ok(Err(reason)),
        Replay::Resumed(frames) => frames,
    };
    sessions
        .metrics
        .events_replayed
        .inc_by(frames.iter().map(|frame| frame.events() as u64).sum());
    let is_ahead = !position.snapshot.covers(&cursor.snapshot);
    // The first frame must not claim what the replayed frames after it have yet to bring.
    let stays = is_ahead || !frames.is_empty();
    Ok(Ok(Resumed {
        replayed: frames.into(),
        cursor: if stays { cursor.clone() } else { position.cursor() },
        ahead: is_ahead.then(|| Arc::clone(&cursor.snapshot)),
    }))
}
