//! Finds the places of channels that were joined in the same moment: where they stood when they went, if they were here
//! before, and what they have missed since.
//!
//! Channels that come back to the same position share one question to the log.

use std::sync::Arc;

use crate::{
    hub::Position,
    metrics::ByOutcome,
    protocol::{
        cursor::Cursor,
        phoenix::change::Changes,
        server_frame::{Discontinuity, EventsFrame},
        snapshot::Snapshot,
    },
    session::Sessions,
    store::{
        parking::{ParkingError, Wanted},
        replay::{Replay, ReplayError},
    },
};

/// Why a channel has no place.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum PlacingError {
    #[error(transparent)]
    Parking(#[from] ParkingError),
    #[error("{0}")]
    Replay(Arc<ReplayError>),
}

/// What one channel missed.
#[derive(Debug)]
pub(super) struct Missed {
    /// Where its client was.
    pub(super) from: Cursor,
    /// Where its client is once it has `frames`.
    pub(super) until: Cursor,
    /// What the client has seen already and the feed has not.
    pub(super) ahead: Option<Arc<Snapshot>>,
    /// Everything in between.
    pub(super) frames: Arc<[MissedFrame]>,
    /// Why what it missed cannot be told, if so.
    pub(super) lost: Option<Discontinuity>,
}

/// A part of what was missed, shared by the channels that missed the same.
#[derive(Debug)]
pub(super) struct MissedFrame {
    pub(super) events: EventsFrame,
    pub(super) changes: Changes,
}

/// A channel whose place was not found, and what has to be kept for the next join.
#[derive(Debug)]
pub(super) struct Unplaced {
    pub(super) error: PlacingError,
    /// Where it had stood, if it has been told so: this counts as taken, and has to be parked again.
    pub(super) parked: Option<Cursor>,
}

/// What became of each channel.
pub(super) type Placed = Vec<(Wanted, Result<Missed, Unplaced>)>;

/// Finds the places of channels of one user, which have entered the hub before `position` was read.
///
/// # Cancel safety
/// Safe: what was parked counts as taken by this session then, and is told again to the next.
pub(super) async fn place(sessions: &Sessions, wanted: Vec<Wanted>, position: Arc<Position>) -> Placed {
    let parked = match sessions.parking.find(wanted.clone()).await {
        Ok(parked) => parked,
        Err(error) => {
            let failed = |wanted: Wanted| {
                let unplaced = Unplaced {
                    error: error.into(),
                    parked: None,
                };
                (wanted, Err(unplaced))
            };
            return wanted.into_iter().map(failed).collect();
        }
    };
    let mut replays = Replays {
        sessions,
        position: &position,
        known: Vec::new(),
    };
    let mut placed = Vec::with_capacity(wanted.len());
    let mut failure: Option<PlacingError> = None;
    for (wanted, parked) in wanted.into_iter().zip(parked) {
        // A database that has not answered once is not asked for each of the others: all of them would wait in vain.
        let missed = match &failure {
            Some(error) => Err(error.clone()),
            None => replays.missed(&wanted, parked.clone()).await,
        };
        let missed = missed.map_err(|error| {
            failure.get_or_insert_with(|| error.clone());
            Unplaced { error, parked }
        });
        placed.push((wanted, missed));
    }
    placed
}

/// What was missed since one position, or why that cannot be told.
type Replayed = Result<Arc<[MissedFrame]>, Discontinuity>;

/// What was missed since each position that was asked for.
struct Replays<'a> {
    sessions: &'a Sessions,
    position: &'a Arc<Position>,
    known: Vec<(Cursor, Replayed)>,
}

impl Replays<'_> {
    async fn missed(&mut self, wanted: &Wanted, parked: Option<Cursor>) -> Result<Missed, PlacingError> {
        let mut lost = None;
        // What was parked is older than the join, or nobody knows; then it is tried first.
        for from in [parked, wanted.joined_at.clone()].into_iter().flatten() {
            match self.since(wanted, &from).await? {
                Ok(frames) => {
                    let is_ahead = !self.position.snapshot.covers(&from.snapshot);
                    return Ok(Missed {
                        until: if is_ahead {
                            from.clone()
                        } else {
                            self.position.cursor()
                        },
                        ahead: is_ahead.then(|| Arc::clone(&from.snapshot)),
                        from,
                        frames,
                        lost,
                    });
                }
                Err(reason) => lost = Some(reason),
            }
        }
        Ok(Missed {
            from: self.position.cursor(),
            until: self.position.cursor(),
            ahead: None,
            frames: Arc::default(),
            lost,
        })
    }

    async fn since(&mut self, wanted: &Wanted, from: &Cursor) -> Result<Replayed, PlacingError> {
        if *from == self.position.cursor() {
            return Ok(Ok(Arc::default()));
        }
        if let Some((_, known)) = self.known.iter().find(|(cursor, _)| cursor == from) {
            return Ok(known.clone());
        }
        let metrics = &self.sessions.metrics;
        let count = |outcome| {
            metrics.replays.get_or_create(&ByOutcome { outcome }).inc();
        };
        let user = wanted.key.user();
        let replay = self.sessions.replayer.replay(user, from, self.position).await;
        let outcome = match replay.map_err(|error| {
            count("failed");
            PlacingError::Replay(Arc::new(error))
        })? {
            Replay::Discontinued(reason) => {
                count(reason.name());
                Err(reason)
            }
            Replay::Resumed(frames) => {
                count("resumed");
                let events: u64 = frames.iter().map(|frame| frame.events() as u64).sum();
                metrics.events_replayed.inc_by(events);
                let missed = |events| MissedFrame {
                    events,
                    changes: Changes::default(),
                };
                Ok(frames.into_iter().map(missed).collect())
            }
        };
        self.known.push((from.clone(), outcome.clone()));
        Ok(outcome)
    }
}
