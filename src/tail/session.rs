//! One connection of a client, from the first frame to its end.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::{
    Error as SocketError, Message,
    protocol::{CloseFrame, frame::coding::CloseCode as SocketCloseCode},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Audience, Ended, Notice, TailConfig, TailError,
    connection::Socket,
    frame::{Event, Events, Ready, ServerFrame},
    place::Place,
    recovery::Loss,
};

/// How long the first frame may take: a gateway allows a replay ten seconds, and five to wait for its turn.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// The longest heartbeat that is believed; a dead connection should be found within the hour, whatever was announced.
const HEARTBEAT_MAX: Duration = Duration::from_secs(20 * 60);

/// How long sending something may take. A client's frames are short, so that a connection that takes none is broken.
const SEND_DEADLINE: Duration = Duration::from_secs(10);

/// How long saying goodbye may take; the gateway notices anyway.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);

/// A session that lasted this long was a good one, even if nobody wrote anything.
const LASTED: Duration = Duration::from_secs(10);

/// One connection of a client.
pub(super) struct Session<'a> {
    config: &'a TailConfig,
    place: &'a mut Place,
    socket: Socket,
    began: Instant,
    heard: Instant,
    /// The longest time without a sign of life.
    silence_max: Duration,
    renew_at: Option<Instant>,
    viewer: Option<Uuid>,
    has_brought_events: bool,
}

/// What to do after something happened.
enum Step {
    Continue,
    Lost(Loss),
}

impl<'a> Session<'a> {
    pub(super) fn new(
        config: &'a TailConfig,
        place: &'a mut Place,
        socket: Socket,
        renew_at: Option<Instant>,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            place,
            socket,
            began: now,
            heard: now,
            silence_max: READY_DEADLINE,
            renew_at,
            viewer: None,
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
                    self.say_goodbye().await;
                    return Ok(Ended::Stopped);
                }
                // What has arrived is a sign of life even if it was not looked at for a long time, so it comes first.
                message = self.socket.next() => {
                    self.heard = Instant::now();
                    tokio::select! {
                        biased;
                        // An audience that does not take what it is shown must not keep the client from stopping.
                        () = stopping.cancelled() => Step::Continue,
                        step = self.hear(message, audience) => step?,
                    }
                }
                () = sleep_until(self.heard + self.silence_max) => Step::Lost(Loss::Silent(self.silence_max)),
                () = at(self.renew_at) => self.renew().await?,
            };
            if let Step::Lost(loss) = step {
                let has_proved = self.has_brought_events || self.began.elapsed() >= LASTED;
                return Ok(Ended::Lost { loss, has_proved });
            }
        }
    }

    async fn hear(
        &mut self,
        message: Option<Result<Message, SocketError>>,
        audience: &mut impl Audience,
    ) -> Result<Step, TailError> {
        match message {
            Some(Ok(Message::Text(text))) => {
                let frame =
                    ServerFrame::read(&text).map_err(|error| TailError::Protocol(error.to_string()))?;
                self.take(frame, audience).await?;
                Ok(Step::Continue)
            }
            Some(Ok(Message::Close(Some(frame)))) => Ok(Step::Lost(Loss::Closed {
                code: frame.code.into(),
                reason: frame.reason.as_str().to_owned(),
            })),
            Some(Ok(Message::Close(None))) | None => Ok(Step::Lost(Loss::Broken(
                "it was closed without a reason".to_owned(),
            ))),
            // Pings are answered by the library; all of these are signs of life.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_))) => {
                Ok(Step::Continue)
            }
            Some(Err(SocketError::Capacity(error))) => {
                // It would come again after every reconnect.
                Err(TailError::Protocol(format!("a frame is too large: {error}")))
            }
            Some(Err(error)) => Ok(Step::Lost(Loss::Broken(error.to_string()))),
        }
    }

    async fn take(&mut self, frame: ServerFrame, audience: &mut impl Audience) -> Result<(), TailError> {
        match (frame, self.viewer) {
            (ServerFrame::Ready(ready), None) => self.begin(ready, audience).await,
            (ServerFrame::Events(events), Some(viewer)) => self.show(viewer, events, audience).await,
            (ServerFrame::Error(message), _) => {
                audience.note(&Notice::Misunderstood(message));
                Ok(())
            }
            (ServerFrame::Ready(_), Some(_)) => Err(TailError::Protocol("a second ready frame".to_owned())),
            (ServerFrame::Events(_), None) => {
                Err(TailError::Protocol("events before the ready frame".to_owned()))
            }
            (ServerFrame::Auth | ServerFrame::Other, _) => Ok(()),
        }
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
        audience.note(&Notice::Connected {
            user: ready.user,
            session: ready.session,
            resumed,
        });
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
        self.has_brought_events = true;
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

    /// Sends a new token before the old one ends.
    async fn renew(&mut self) -> Result<Step, TailError> {
        let token = self.config.credentials.token()?;
        self.renew_at = self
            .config
            .credentials
            .renew_after()
            .map(|after| Instant::now() + after);
        let frame = json!({"type": "auth", "token": token.expose()}).to_string();
        Ok(
            match timeout(SEND_DEADLINE, self.socket.send(Message::Text(frame.into()))).await {
                // A connection that is being closed tells its reason to the one who goes on reading.
                Ok(Ok(()) | Err(SocketError::ConnectionClosed | SocketError::Protocol(_))) => Step::Continue,
                Ok(Err(error)) => Step::Lost(Loss::Broken(error.to_string())),
                Err(_) => Step::Lost(Loss::Broken("nothing can be sent any more".to_owned())),
            },
        )
    }

    async fn say_goodbye(&mut self) {
        let frame = CloseFrame {
            code: SocketCloseCode::Normal,
            reason: "".into(),
        };
        // The process ends either way.
        let _said = timeout(GOODBYE_DEADLINE, self.socket.close(Some(frame))).await;
    }
}

/// Resolves at this moment, or never.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
