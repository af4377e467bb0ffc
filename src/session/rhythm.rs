//! When a session pings, when it takes a silent peer for gone, when its token ends, and how much a client may say.
//!
//! Pure: time is an argument, so that every deadline is tested without a clock.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    protocol::{
        client_frame::CLIENT_FRAME_BYTES_MAX, close::CloseCode, phoenix::message::PHOENIX_FRAME_BYTES_MAX,
    },
    quota::Rate,
};

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
    /// Frames that a native client may send.
    pub frames: Rate,
    /// Frames that a client of Phoenix channels may send.
    pub phoenix_frames: Rate,
    /// Bytes in the frames that a client may send.
    pub bytes: Rate,
}

impl Default for RhythmConfig {
    fn default() -> Self {
        Self {
            // Proxies commonly cut connections that are idle for 30 or 60 s.
            heartbeat: Duration::from_secs(25),
            // Far below any sensible retention, and rare enough to cost nothing.
            cursor_age: Duration::from_secs(600),
            // A native client says a handful of things an hour; this leaves room for one that pings every frame it draws.
            frames: Self::native_frames(60),
            // Somebody who draws for others sends sixty a second, on some topics at once.
            phoenix_frames: Self::phoenix_frames(200),
            // Four of the largest frames a second; broadcasts are meant to be small.
            bytes: Self::frame_bytes(1 << 20),
        }
    }
}

impl RhythmConfig {
    /// So many frames a second for ever, and those of two seconds at once.
    pub fn native_frames(per_second: u32) -> Rate {
        Rate::new(per_second, Duration::from_secs(2))
    }

    /// So many frames a second for ever, and those of five seconds at once: a page that comes back joins a hundred channels, and hands
    /// each its token.
    pub fn phoenix_frames(per_second: u32) -> Rate {
        Rate::new(per_second, Duration::from_secs(5))
    }

    /// So many bytes a second for ever; at once those of four seconds, and the largest frame in any case.
    pub fn frame_bytes(per_second: u32) -> Rate {
        let largest = PHOENIX_FRAME_BYTES_MAX.max(CLIENT_FRAME_BYTES_MAX);
        let seconds = u32::try_from(largest)
            .unwrap_or(u32::MAX)
            .div_ceil(per_second.max(1));
        Rate::new(per_second, Duration::from_secs(u64::from(seconds.max(4))))
    }

    /// The same for a client of Phoenix channels.
    #[must_use]
    pub(super) const fn of_phoenix(self) -> Self {
        Self {
            frames: self.phoenix_frames,
            ..self
        }
    }

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
    /// When the client may again send as many frames, and bytes, as it may at once.
    frames_full_at: Instant,
    bytes_full_at: Instant,
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
            frames_full_at: now,
            bytes_full_at: now,
        }
    }

    /// The peer gave a sign of life of any kind.
    pub const fn hear(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The peer sent a frame of so many bytes. Answers with a code if that was too much.
    ///
    /// # Errors
    /// [`CloseCode::TooManyFrames`].
    pub fn count_frame(&mut self, now: Instant, bytes: usize) -> Result<(), CloseCode> {
        self.hear(now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let is_allowed = self.config.frames.take(&mut self.frames_full_at, 1, now)
            && self.config.bytes.take(&mut self.bytes_full_at, bytes, now);
        is_allowed.then_some(()).ok_or(CloseCode::TooManyFrames)
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
            .take_while(|_| rhythm.count_frame(start, 10).is_ok())
            .count();
        assert_eq!(burst, 120);
        let later = (0..1_000)
            .take_while(|_| rhythm.count_frame(start + SECOND, 10).is_ok())
            .count();
        assert_eq!(later, 60);
        assert_eq!(
            rhythm.count_frame(start + SECOND, 10),
            Err(CloseCode::TooManyFrames)
        );
    }

    #[test]
    fn bytes_are_limited_in_bursts_and_in_the_long_run_and_the_largest_frame_always_passes() {
        let start = Instant::now();
        let config = RhythmConfig {
            frames: RhythmConfig::native_frames(1_000_000),
            bytes: RhythmConfig::frame_bytes(1 << 20),
            ..RhythmConfig::default()
        };
        let mut rhythm = Rhythm::new(config, start, start + SECOND * 3600);
        let mut passing = |now: Instant, bytes: usize| {
            (0..1_000)
                .take_while(|_| rhythm.count_frame(now, bytes).is_ok())
                .count()
        };
        assert_eq!(passing(start, 64 << 10), 64);
        assert_eq!(passing(start + SECOND, 64 << 10), 16);
        // However little is allowed a second.
        let config = RhythmConfig {
            bytes: RhythmConfig::frame_bytes(1000),
            ..config
        };
        let mut rhythm = Rhythm::new(config, start, start + SECOND * 3600);
        assert_eq!(rhythm.count_frame(start, PHOENIX_FRAME_BYTES_MAX), Ok(()));
        assert_eq!(
            rhythm.count_frame(start, PHOENIX_FRAME_BYTES_MAX),
            Err(CloseCode::TooManyFrames)
        );
    }

    #[test]
    fn the_tenth_mistake_is_one_too_many() {
        let mut rhythm = rhythm(Instant::now());
        let forgiven = (0..100).take_while(|_| rhythm.count_mistake().is_ok()).count();
        assert_eq!(forgiven, 9);
    }
}
