//! One connection of a client, from the first frame to its end.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Audience, Ended, Notice, TailConfig, TailError,
    connection::{Connection, Heard, Renewal},
    frame::{Event, Events, Ready, ServerFrame},
    place::Place,
    recovery::Loss,
};

/// How long the first frame may take: a gateway allows a replay ten seconds, and five to wait for its turn.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// The longest heartbeat that is believed; a dead connection should be found within the hour, whatever was announced.
const HEARTBEAT_MAX: Duration = Duration::from_secs(20 * 60);

/// A session that lasted this long was a good one, even if nobody wrote anything.
const LASTED: Duration = Duration::from_secs(10);

/// One connection of a client.
pub(super) struct Session<'a> {
    config: &'a TailConfig,
    place: &'a mut Place,
    connection: Connection,
    began: Instant,
    heard: Instant,
    /// The longest time without a sign of life.
    silence_max: Duration,
    renew_at: Option<Instant>,
    viewer: Option<Uuid>,
    /// Whether it takes over from a connection whose token was about to end, which nobody needs to know.
    is_renewal: bool,
    has_brought_events: bool,
}

/// What to do after something happened.
enum Step {
    Continue,
    Lost(Loss),
    /// The next connection takes over.
    Renew,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a TailConfig,
        place: &'a mut Place,
        connection: Connection,
        renew_at: Option<Instant>,
        is_renewal: bool,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            place,
            connection,
            began: now,
            heard: now,
            silence_max: READY_DEADLINE,
            renew_at,
            viewer: None,
            is_renewal,
            has_brought_events: false,
        }
    }

    /// Shows what comes, until the connection is no more or the client is told to stop.
    pub(super) async fn run(
        mut self,
        audience: &mut impl Audience,
        stopping: &CancellationToken,
    ) -> Result<Ended, TailError> {
        loop {
            let step = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    self.connection.say_goodbye().await;
                    return Ok(Ended::Stopped);
                }
                // What has arrived is a sign of life even if it was not looked at for a long time, so it comes first.
                heard = self.connection.next() => {
                    self.heard = Instant::now();
                    tokio::select! {
                        biased;
                        // An audience that does not take what it is shown must not keep the client from stopping.
                        () = stopping.cancelled() => Step::Continue,
                        step = self.hear(heard, audience) => step?,
                    }
                }
                () = sleep_until(self.heard + self.silence_max) => Step::Lost(Loss::Silent(self.silence_max)),
                () = at(self.renew_at) => self.renew().await?,
            };
            match step {
                Step::Continue => {}
                Step::Renew => return Ok(Ended::Renewing),
                Step::Lost(loss) => {
                    let has_proved = self.has_brought_events || self.began.elapsed() >= LASTED;
                    return Ok(Ended::Lost { loss, has_proved });
                }
            }
        }
    }

    async fn hear(&mut self, heard: Heard, audience: &mut impl Audience) -> Result<Step, TailError> {
        match heard {
            Heard::Text(text) => {
                let frame =
                    ServerFrame::read(&text).map_err(|error| TailError::Protocol(error.to_string()))?;
                self.take(frame, audience).await
            }
            Heard::Alive => Ok(Step::Continue),
            Heard::Closed { code, reason } => Ok(Step::Lost(Loss::Closed { code, reason })),
            Heard::Broken(why) => Ok(Step::Lost(Loss::Broken(why))),
            // It would come again after every reconnect.
            Heard::TooLarge(why) => Err(TailError::Protocol(format!("a frame is too large: {why}"))),
        }
    }

    async fn take(&mut self, frame: ServerFrame, audience: &mut impl Audience) -> Result<Step, TailError> {
        match (frame, self.viewer) {
            (ServerFrame::Ready(ready), None) => self.begin(ready, audience).await?,
            (ServerFrame::Events(events), Some(viewer)) => self.show(viewer, events, audience).await?,
            (ServerFrame::Error(message), _) => audience.note(&Notice::Misunderstood(message)),
            (ServerFrame::Close(close), _) => {
                return Ok(Step::Lost(Loss::Closed {
                    code: close.code,
                    reason: close.reason,
                }));
            }
            (ServerFrame::Ready(_), Some(_)) => {
                return Err(TailError::Protocol("a second ready frame".to_owned()));
            }
            (ServerFrame::Events(_), None) => {
                return Err(TailError::Protocol("events before the ready frame".to_owned()));
            }
            (ServerFrame::Auth | ServerFrame::Other, _) => {}
        }
        Ok(Step::Continue)
    }

    async fn begin(&mut self, ready: Ready, audience: &mut impl Audience) -> Result<(), TailError> {
        if let Some(expected) = self.config.user.filter(|expected| expected.0 != ready.user) {
            return Err(TailError::AnotherUser {
                expected,
                found: ready.user,
            });
        }
        self.viewer = Some(ready.user);
        let heartbeat = Duration::from_secs(ready.heartbeat_s.max(1)).min(HEARTBEAT_MAX);
        self.silence_max = heartbeat * 5 / 2;
        let resumed = ready.resumed == Some(true);
        if !(self.is_renewal && resumed) {
            audience.note(&Notice::Connected {
                user: ready.user,
                session: ready.session,
                resumed,
            });
        }
        if ready.resumed == Some(false) {
            audience
                .show_gap(ready.reason.as_deref().unwrap_or("unknown"))
                .await?;
        }
        self.place.begin(ready.cursor, resumed);
        Ok(())
    }

    async fn show(
        &mut self,
        viewer: Uuid,
        frame: Events,
        audience: &mut impl Audience,
    ) -> Result<(), TailError> {
        self.has_brought_events |= !frame.events.is_empty();
        let new: Vec<&Event> = frame
            .events
            .iter()
            .filter(|event| self.place.admit(&event.key))
            .collect();
        if !new.is_empty() {
            audience.show(viewer, &new).await?;
        }
        if let Some(cursor) = frame.cursor {
            self.place.reach(cursor);
        }
        Ok(())
    }

    /// Sends a new token before the old one ends, or lets a new connection begin with one.
    async fn renew(&mut self) -> Result<Step, TailError> {
        let token = self.config.credentials.token()?;
        self.renew_at = self
            .config
            .credentials
            .renew_after()
            .map(|after| Instant::now() + after);
        Ok(match self.connection.renew(&token).await {
            Renewal::Sent => Step::Continue,
            Renewal::NeedsConnection => Step::Renew,
            Renewal::Broken(why) => Step::Lost(Loss::Broken(why)),
        })
    }
}

/// Resolves at this moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
