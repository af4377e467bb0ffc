//! How much may be open at once and from whom, how long a peer may take, and how much it may say.

use clap::Args;

use super::{
    Mistakes, quantity,
    setting::{check_count, check_duration, if_set},
};
use crate::{
    edge::{AddressConfig, ForwardedHeader, HandshakeLimits, TrustedProxies},
    memory,
    session::RhythmConfig,
};

/// The variable of the memory's limit.
const MEMORY_VARIABLE: &str = "HERALD_MEMORY_LIMIT";

/// What a gateway needs beside what it has when its settings are read, in bytes: its pool, its threads, and some connections.
const MEMORY_LEAST: u64 = 16 << 20;

/// Limits on connections, as typed.
#[derive(Args, Clone, Debug)]
pub(super) struct LimitFlags {
    /// Connections at once; beyond it requests are answered with 503.
    #[arg(
        long,
        env = "HERALD_MAX_CONNECTIONS",
        default_value = "100000",
        value_name = "COUNT"
    )]
    max_connections: String,
    /// Connections of one address at once (of IPv6, of one /64 network); beyond it requests are answered with 429. By default a tenth
    /// of all connections. Behind a trusted proxy it counts sessions, and requests under way, by the address that the proxy tells.
    #[arg(long, env = "HERALD_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    connections_per_address: Option<String>,
    /// Proxies that tell their clients' addresses: addresses and networks separated by commas, `loopback`, `private` or `none`. They
    /// are not limited themselves.
    #[arg(
        long,
        env = "HERALD_TRUSTED_PROXIES",
        default_value = "loopback",
        value_name = "NETWORKS"
    )]
    trusted_proxies: String,
    /// The header in which they tell them: X-Forwarded-For or Forwarded (RFC 7239).
    #[arg(
        long,
        env = "HERALD_FORWARDED_HEADER",
        default_value = "X-Forwarded-For",
        value_name = "HEADER"
    )]
    forwarded_header: String,
    /// Requests a second of one address that are refused (status 4xx) at once, and at once those of two seconds; further refusals wait for
    /// their turn, up to five seconds.
    #[arg(
        long,
        env = "HERALD_REFUSALS_PER_SECOND",
        default_value = "20",
        value_name = "COUNT"
    )]
    refusals_per_second: String,
    /// Sessions of one user at once; beyond it the oldest is closed.
    #[arg(
        long,
        env = "HERALD_SESSIONS_PER_USER",
        default_value = "64",
        value_name = "COUNT"
    )]
    sessions_per_user: String,
    /// Connections at once that have begun to say what they want, by TLS or in a request's headers, and have not come to the end. When
    /// there are more, one that has had two seconds makes room.
    #[arg(
        long,
        env = "HERALD_MAX_HANDSHAKES",
        default_value = "4096",
        value_name = "COUNT"
    )]
    max_handshakes: String,
    /// The time from a connection's acceptance until its first request's headers are complete.
    #[arg(
        long,
        env = "HERALD_HANDSHAKE_DEADLINE",
        default_value = "15s",
        value_name = "DURATION"
    )]
    handshake_deadline: String,
    /// Frames a second that a client may send; at once those of two seconds. Beyond it the session is closed.
    #[arg(
        long,
        env = "HERALD_FRAMES_PER_SECOND",
        default_value = "60",
        value_name = "COUNT"
    )]
    frames_per_second: String,
    /// Frames a second that a Supabase client may send; at once those of five seconds.
    #[arg(
        long,
        env = "HERALD_PHOENIX_FRAMES_PER_SECOND",
        default_value = "200",
        value_name = "COUNT"
    )]
    phoenix_frames_per_second: String,
    /// Bytes a second that a client may send in frames; at once those of four seconds, and one frame in any case. Beyond it the
    /// session is closed.
    #[arg(
        long,
        env = "HERALD_FRAME_BYTES_PER_SECOND",
        default_value = "1MiB",
        value_name = "SIZE"
    )]
    frame_bytes_per_second: String,
    /// The memory beyond which no connection is taken in; requests on further ones are answered with 503. By default four fifths of what the
    /// container or the machine has.
    #[arg(long, env = MEMORY_VARIABLE, value_name = "SIZE")]
    memory_limit: Option<String>,
}

/// Limits on connections, checked.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// Connections at once.
    pub(super) connections_max: usize,
    /// Connections of one address at once, and who tells addresses.
    pub(super) addresses: AddressConfig,
    /// Sessions of one user at once.
    pub(super) sessions_per_user: usize,
    /// How patient the gateway is with peers that have not said what they want.
    pub(super) handshakes: HandshakeLimits,
    /// What a session's client may say.
    pub(super) rhythm: RhythmConfig,
    /// The memory beyond which no connection is taken in, in bytes, if it can be measured.
    pub(super) memory: Option<u64>,
}

impl LimitFlags {
    /// Notes what is wrong, and answers the rest.
    pub(super) fn check(self, mistakes: &mut Mistakes) -> Option<Limits> {
        let connections_max = check_count(
            "HERALD_MAX_CONNECTIONS",
            &self.max_connections,
            "100000",
            mistakes,
        );
        let handshakes = self.check_handshakes(mistakes);
        let rhythm = self.check_rhythm(mistakes);
        let addresses = self.check_addresses(connections_max.unwrap_or(1) as usize, mistakes);
        let sessions_per_user = check_count(
            "HERALD_SESSIONS_PER_USER",
            &self.sessions_per_user,
            "64",
            mistakes,
        );
        let memory = check_memory(self.memory_limit.filter(|limit| !limit.is_empty()), mistakes);
        Some(Limits {
            connections_max: connections_max? as usize,
            addresses: addresses?,
            sessions_per_user: sessions_per_user? as usize,
            handshakes: handshakes?,
            rhythm: rhythm?,
            memory,
        })
    }

    fn check_addresses(&self, connections_max: usize, mistakes: &mut Mistakes) -> Option<AddressConfig> {
        let per_address = self
            .connections_per_address
            .as_deref()
            .filter(|count| !count.is_empty());
        let per_address =
            per_address.map(|count| check_count("HERALD_CONNECTIONS_PER_ADDRESS", count, count, mistakes));
        let trusted_proxies = mistakes.check(
            "HERALD_TRUSTED_PROXIES",
            if_set(&self.trusted_proxies, "loopback").parse::<TrustedProxies>(),
        );
        let header = mistakes.check(
            "HERALD_FORWARDED_HEADER",
            if_set(&self.forwarded_header, "X-Forwarded-For").parse::<ForwardedHeader>(),
        );
        let refusals_per_second = check_count(
            "HERALD_REFUSALS_PER_SECOND",
            &self.refusals_per_second,
            "20",
            mistakes,
        );
        let default = AddressConfig::within(connections_max);
        Some(AddressConfig {
            trusted_proxies: trusted_proxies?,
            header: header?,
            connections_max: match per_address {
                Some(count) => count? as usize,
                None => default.connections_max,
            },
            refusals_per_second: refusals_per_second?,
        })
    }

    fn check_handshakes(&self, mistakes: &mut Mistakes) -> Option<HandshakeLimits> {
        let at_once = check_count("HERALD_MAX_HANDSHAKES", &self.max_handshakes, "4096", mistakes);
        let deadline = check_duration(
            "HERALD_HANDSHAKE_DEADLINE",
            &self.handshake_deadline,
            "15s",
            mistakes,
        );
        Some(HandshakeLimits {
            deadline: deadline?,
            at_once: at_once? as usize,
            ..HandshakeLimits::default()
        })
    }

    fn check_rhythm(&self, mistakes: &mut Mistakes) -> Option<RhythmConfig> {
        let frames = check_count(
            "HERALD_FRAMES_PER_SECOND",
            &self.frames_per_second,
            "60",
            mistakes,
        );
        let phoenix_frames = check_count(
            "HERALD_PHOENIX_FRAMES_PER_SECOND",
            &self.phoenix_frames_per_second,
            "200",
            mistakes,
        );
        let bytes = quantity::bytes(if_set(&self.frame_bytes_per_second, "1MiB"));
        let bytes = mistakes.check("HERALD_FRAME_BYTES_PER_SECOND", bytes);
        Some(RhythmConfig {
            frames: RhythmConfig::native_frames(frames?),
            phoenix_frames: RhythmConfig::phoenix_frames(phoenix_frames?),
            bytes: RhythmConfig::frame_bytes(u32::try_from(bytes?).unwrap_or(u32::MAX)),
            ..RhythmConfig::default()
        })
    }
}

/// A limit that is given, or else one that leaves a fifth of all to the kernel's buffers and to whoever else is there.
fn check_memory(limit: Option<String>, mistakes: &mut Mistakes) -> Option<u64> {
    let Some(limit) = limit else {
        return memory::limit().map(|all| all / 5 * 4);
    };
    let bytes = mistakes.check(MEMORY_VARIABLE, quantity::bytes(&limit))?;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    match memory::resident() {
        None => mistakes.note(
            MEMORY_VARIABLE,
            "memory cannot be measured on this system; leave it out",
        ),
        Some(resident) if bytes < resident + MEMORY_LEAST => mistakes.note(
            MEMORY_VARIABLE,
            format!(
                "`{limit}` is too little; the gateway needs {} MiB before anybody connects",
                (resident + MEMORY_LEAST) >> 20
            ),
        ),
        Some(_) => {}
    }
    Some(bytes)
}
