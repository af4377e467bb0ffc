//! How long a peer may take to say what it wants, and how many may be about to: the handshake of TLS if there is one, and the first
//! request's headers.
//!
//! A peer that has sent nothing yet costs nothing but its connection. From its first byte on it takes one of the places for
//! handshakes. When all are taken, newcomers wait in their own tasks, and a handshake that has had its fair time by then makes
//! room for them, the oldest first. So peers that begin and do not go on cannot keep others out, and a crowd that comes back at
//! once is served in its order instead of being cut off.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use crate::metrics::{GaugeGuard, Metrics};

/// How patient the gateway is with peers that have not said what they want.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// The time from a connection's acceptance until its first request's headers are complete, and from the end of a request until the
    /// next one's are.
    pub deadline: Duration,
    /// The time that a handshake has to itself even while others wait for its place. It suffices for slow mobile networks.
    pub fair_time: Duration,
    /// The most handshakes at once. Each takes some 12 KiB, and up to 64 KiB of headers.
    pub at_once: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(15),
            fair_time: Duration::from_secs(2),
            at_once: 4096,
        }
    }
}

/// Why a handshake was given up; what is counted is its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// It was not done in time.
    Deadline,
    /// Others waited for its place.
    Crowded,
}

/// The handshakes of a gateway.
#[derive(Debug)]
pub struct Handshakes {
    places: Arc<Semaphore>,
    /// Told when somebody needs a place.
    wanted: Notify,
    limits: HandshakeLimits,
    metrics: Arc<Metrics>,
}

/// One handshake that has begun. Dropped, it leaves its place to another.
#[derive(Debug)]
pub(super) struct Handshake {
    handshakes: Arc<Handshakes>,
    _place: OwnedSemaphorePermit,
    _counted: GaugeGuard,
    fair_until: Instant,
    deadline: Instant,
}

impl Handshakes {
    /// None so far.
    pub fn new(limits: HandshakeLimits, metrics: Arc<Metrics>) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.at_once.min(Semaphore::MAX_PERMITS))),
            wanted: Notify::new(),
            limits,
            metrics,
        }
    }

    /// Waits for the first byte of a peer that has connected right now, and for a place. `None` if it took too long; the connection is to
    /// be closed then.
    ///
    /// # Cancel safety
    /// Safe: nothing was read.
    pub(super) async fn begin(self: &Arc<Self>, stream: &TcpStream) -> Option<Handshake> {
        let deadline = Instant::now() + self.limits.deadline;
        let begun = timeout_at(deadline, async {
            // A peer that has left is found out by whoever reads.
            let _peeked = stream.peek(&mut [0]).await;
            self.place().await
        });
        let Ok(place) = begun.await else {
            self.give_up(Reason::Deadline);
            return None;
        };
        Some(Handshake {
            handshakes: Arc::clone(self),
            _place: place?,
            _counted: self.metrics.count_handshake_under_way(),
            fair_until: Instant::now() + self.limits.fair_time,
            deadline,
        })
    }

    /// Waits for a place, and asks for one as long as it waits. The semaphore is never closed, so that there always is one.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let mut acquiring = pin!(Arc::clone(&self.places).acquire_owned());
        loop {
            self.wanted.notify_one();
            // Nobody may have had its fair time yet.
            if let Ok(place) = timeout(self.limits.fair_time, &mut acquiring).await {
                return place.ok();
            }
        }
    }

    fn give_up(&self, reason: Reason) {
        let name = match reason {
            Reason::Deadline => "deadline",
            Reason::Crowded => "crowded",
        };
        tracing::debug!(reason = name, "a peer did not say in time what it wants");
        self.metrics.give_up_handshake(name);
    }
}

impl Handshake {
    /// The time that the headers of a later request may take. It is longer than the handshake's deadline, which counts from the acceptance,
    /// so that of a first request that deadline comes first and is counted.
    pub(super) fn headers_deadline(&self) -> Duration {
        self.handshakes.limits.deadline + Duration::from_secs(1)
    }

    /// Resolves when the handshake has to be given up: it was not done in time, or it has had its fair time and somebody waits for
    /// its place.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn given_up(&self) {
        let crowded = async {
            sleep_until(self.fair_until).await;
            loop {
                self.handshakes.wanted.notified().await;
                // Whoever asked may have found a place by now.
                if self.handshakes.places.available_permits() == 0 {
                    return;
                }
            }
        };
        let reason = match timeout_at(self.deadline, crowded).await {
            Ok(()) => Reason::Crowded,
            Err(_) => Reason::Deadline,
        };
        self.handshakes.give_up(reason);
    }
}
