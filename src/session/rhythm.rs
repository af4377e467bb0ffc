//! When a session pings, when it takes a silent peer for gone, when its token ends, and how much a client may say.
//!
//! Pure: time is an argument, so that every deadline is tested without a clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::protocol::close::CloseCode;

/// The tenth frame that is not understood closes the session.
const MISTAKES_MAX: u32 = 10;

/// Heartbeats and limits on what a client sends.
#[derive(Clone, Copy, Debug)]
pub struct RhythmConfig {
    /// Time between the gateway's pings. A peer that has been silent for two and a half of them is gone.
    pub heartbeat: Duration,
    /// A client that was sent no cursor for this long is sent one without events, so that its own does not grow older
    /// than the log. It is looked at with each heartbeat.
    pub cursor_age: Duration,
    /// Frames that a client may send at once.
    pub frames_burst: u32,
    /// Frames a second that a client may send for ever.
    pub frames_per_second: u32,
}

impl Default for RhythmConfig {
    fn default() -> Self {
        Self {
            // Proxies commonly cut connections that are idle for 30 or 60 s.
            heartbeat: Duration::from_secs(25),
            // Far below any sensible retention, and rare enough to cost nothing.
            cursor_age: Duration::from_secs(600),
            // A native client says a handful of things an hour; this leaves room for one that pings every frame it draws.
            frames_burst: 120,
            frames_per_second: 60,
        }
    }
}

impl RhythmConfig {
    /// The same, with cursors renewed often enough for a log that is kept this long.
    #[must_use]
    pub fn within(self, log_retention: Duration) -> Self {
        Self {
            cursor_age: self.cursor_age.min(log_retention / 4),
            ..self
        }
    }
}

/// What a deadline asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Ask the peer for a sign of life.
    Heartbeat,
    /// End the session.
    Close(CloseCode),
}

/// The time-keeping of one session.
#[derive(Debug)]
pub struct Rhythm {
    config: RhythmConfig,
    expires: Instant,
    heard: Instant,
    next_heartbeat: Instant,
    mistakes: u32,
    frames: f64,
    frames_counted: Instant,
}

impl Rhythm {
    /// A session that begins now, whose token ends at `expires`.
    pub fn new(config: RhythmConfig, now: Instant, expires: Instant) -> Self {
        Self {
            config,
            expires,
            heard: now,
            next_heartbeat: now + config.heartbeat,
            mistakes: 0,
            frames: f64::from(config.frames_burst),
            frames_counted: now,
        }
    }

    /// The peer gave a sign of life of any kind.
    pub const fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The peer sent a frame. Answers with a code if that was one too many.
    ///
    /// # Errors
    /// [`CloseCode::TooManyFrames`].
    pub fn count_frame(&mut self, now: Instant) -> Result<(), CloseCode> {
        self.hear(now);
        let earned =
            now.duration_since(self.frames_counted).as_secs_f64() * f64::from(self.config.frames_per_second);
        self.frames = (self.frames + earned).min(f64::from(self.config.frames_burst));
        self.frames_counted = now;
        if self.frames < 1.0 {
            return Err(CloseCode::TooManyFrames);
        }
        self.frames -= 1.0;
        Ok(())
    }

    /// The peer sent something that was not understood.
    ///
    /// # Errors
    /// [`CloseCode::ProtocolError`] with the tenth.
    pub const fn count_mistake(&mut self) -> Result<(), CloseCode> {
        self.mistakes += 1;
        if self.mistakes >= MISTAKES_MAX {
            Err(CloseCode::ProtocolError)
        } else {
            Ok(())
        }
    }

    /// A new token was accepted.
    pub const fn renew(&mut self, expires: Instant) {
        self.expires = expires;
    }

    /// When to ask [`Self::due`] again.
    pub fn deadline(&self) -> Instant {
        self.next_heartbeat.min(self.expires).min(self.gone_at())
    }

    /// What is due at this moment. A heartbeat that is due counts as sent.
    pub fn due(&mut self, now: Instant) -> Due {
        if now >= self.expires {
            return Due::Close(CloseCode::TokenExpired);
        }
        if now >= self.gone_at() {
            return Due::Close(CloseCode::GoingAway);
        }
        if now >= self.next_heartbeat {
            self.next_heartbeat = now + self.config.heartbeat;
            return Due::Heartbeat;
        }
        Due::Nothing
    }

    /// Whether a peer that shows no progress for this long is as good as gone.
    pub fn is_too_long(&self, silence: Duration) -> bool {
        silence >= self.silence_max()
    }

    fn silence_max(&self) -> Duration {
        self.config.heartbeat * 5 / 2
    }

    fn gone_at(&self) -> Instant {
        self.heard + self.silence_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rhythm(now: Instant) -> Rhythm {
        Rhythm::new(RhythmConfig::default(), now, now + SECOND * 3600)
    }

    #[test]
    fn a_peer_that_answers_is_pinged_every_heartbeat() {
        let start = Instant::now();
        let mut rhythm = rhythm(start);
        for beat in 1..10 {
            let now = start + SECOND * 25 * beat;
            assert_eq!(rhythm.deadline(), now);
            assert_eq!(rhythm.due(now), Due::Heartbeat);
            rhythm.hear(now);
        }
    }

    #[test]
    fn a_peer_that_is_silent_for_two_and_a_half_heartbeats_is_gone() {
        let start = Instant::now();
        let mut rhythm = rhythm(start);
        assert_eq!(rhythm.due(start + SECOND * 25), Due::Heartbeat);
        assert_eq!(rhythm.due(start + SECOND * 50), Due::Heartbeat);
        assert_eq!(rhythm.deadline(), start + SECOND * 125 / 2);
        assert_eq!(rhythm.due(start + SECOND * 62), Due::Nothing);
        assert_eq!(rhythm.due(start + SECOND * 63), Due::Close(CloseCode::GoingAway));
    }

    #[test]
    fn a_token_ends_and_a_new_one_goes_on() {
        let start = Instant::now();
        let mut rhythm = Rhythm::new(RhythmConfig::default(), start, start + SECOND * 10);
        assert_eq!(rhythm.deadline(), start + SECOND * 10);
        rhythm.renew(start + SECOND * 20);
        assert_eq!(rhythm.due(start + SECOND * 19), Due::Nothing);
        assert_eq!(
            rhythm.due(start + SECOND * 20),
            Due::Close(CloseCode::TokenExpired)
        );
    }

    #[test]
    fn frames_are_limited_in_bursts_and_in_the_long_run() {
        let start = Instant::now();
        let mut rhythm = rhythm(start);
        let burst = (0..1_000)
            .take_while(|_| rhythm.count_frame(start).is_ok())
            .count();
        assert_eq!(burst, 120);
        let later = (0..1_000)
            .take_while(|_| rhythm.count_frame(start + SECOND).is_ok())
            .count();
        assert_eq!(later, 60);
        assert_eq!(rhythm.count_frame(start + SECOND), Err(CloseCode::TooManyFrames));
    }

    #[test]
    fn the_tenth_mistake_is_one_too_many() {
        let mut rhythm = rhythm(Instant::now());
        let forgiven = (0..100).take_while(|_| rhythm.count_mistake().is_ok()).count();
        assert_eq!(forgiven, 9);
    }
}
