//! A dialogue of the test build alone: it says back what it hears, so that the Autobahn cases can judge how sessions read and
//! write. The loop and the transport are those of every session.

use std::{collections::VecDeque, task::Context, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::{
    End, Inbound, Transport,
    dialogue::{Dialogue, Written},
    live::Live,
    rhythm::{Rhythm, RhythmConfig},
};
use crate::{hub::Outbox, metrics::Metrics, protocol::close::CloseCode};

/// Answers that wait for a blocked transport, as in the native protocol.
const ANSWERS_MAX: usize = 16;

/// No case lasts as long.
const AT_MOST: Duration = Duration::from_secs(600);

/// Says back what is said on a transport until the session ends, and tells the peer how it ended.
pub(crate) async fn echo(metrics: &Metrics, mut transport: impl Transport<Frame = Message>) -> End {
    let outbox = Outbox::new(1);
    let mut echo = Echo::default();
    let now = Instant::now();
    // The cases send more frames, and faster, than a client of the gateway may.
    let config = RhythmConfig {
        frames: RhythmConfig::native_frames(u32::MAX),
        bytes: RhythmConfig::frame_bytes(u32::MAX),
        ..RhythmConfig::default()
    };
    let rhythm = Rhythm::new(config, now, now + AT_MOST);
    let end = Live::new(metrics, &outbox, &mut echo, &mut transport, rhythm).await;
    transport.finish(end).await;
    end
}

#[derive(Debug, Default)]
struct Echo {
    answers: VecDeque<Message>,
}

impl Dialogue for Echo {
    type Frame = Message;

    fn has_room(&self) -> bool {
        self.answers.len() < ANSWERS_MAX
    }

    fn hear(&mut self, inbound: Inbound, rhythm: &mut Rhythm) -> Result<(), CloseCode> {
        rhythm.hear(Instant::now());
        match inbound {
            Inbound::Alive | Inbound::Pong(_) => {}
            Inbound::Unreadable(code) => return Err(code),
            Inbound::Text(text) => self.answers.push_back(Message::Text(text)),
            Inbound::Binary(bytes) => self.answers.push_back(Message::Binary(bytes)),
        }
        Ok(())
    }

    fn poll_work(&mut self, _rhythm: &mut Rhythm, _context: &mut Context<'_>) -> Result<(), End> {
        Ok(())
    }

    fn beat(&mut self) {
        self.answers.push_back(Message::Ping(Bytes::new()));
    }

    fn next_frame(&mut self, _now: Instant) -> Result<Option<Written<Message>>, End> {
        Ok(self.answers.pop_front().map(Written::plain))
    }
}
