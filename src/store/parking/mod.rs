//! Where the channels stand whose clients know no cursor, so that one that comes back within the window is told what it
//! missed: by this gateway or another one, after a restart, and after a `kill -9`.
//!
//! Postgres is the only store. Sessions leave notes and wait for answers through [`Parking`]; one task of the gateway,
//! the [`Attendant`], carries them there and back in batches. While one batch is under way the next collects, so that
//! thousands who come back within a second cost a few dozen statements.
//!
//! A channel that goes is parked with its cursor. When a gateway is killed its channels have no chance to be, and writing
//! down each channel's cursor all the time would cost too much. So once a second the attendant writes one
//! row for the whole gateway: how far every live channel has come. Sessions that are behind are the exception, and
//! their channels' rows carry a cursor of their own; see [`Standing`].
//!
//! Invariants:
//! - Whatever the rows say of a channel, its client has everything up to there. They may say too little, by what reached
//!   the client within the last second.
//! - Notes are written in the order in which they were left, and a question sees all notes that were left before it.
//! - Until there is a note on a channel that has found where it stood, it is found there by others: its connection may be
//!   dead, or be just ending, and its client here already by another.
//! - Sessions never wait to leave a note. The queues are bounded; if the database stays away the oldest notes go first.
//! - Nothing relies on a session of Postgres, so the pool may lead through a transaction pooler.

mod attendant;
mod standing;
mod statements;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Pool;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, timeout},
};
use uuid::Uuid;

use self::standing::Progress;
pub use self::{attendant::Attendant, standing::Standing};
use crate::{
    hub::{Hub, Outbox},
    metrics::Metrics,
    protocol::cursor::Cursor,
    types::{ChannelId, SessionId, UserId},
};

/// Notes that wait for the database. A gateway with fifty thousand sessions of a few channels leaves about so many if all
/// of them go at once; a note takes some 150 bytes.
const NOTES_MAX: usize = 262_144;

/// Channels that wait to be found. Their sessions wait with them, and give up after [`FIND_DEADLINE`].
const WANTED_MAX: usize = 65_536;

/// The longest wait for an answer. A client waits ten seconds for its join, and has to be told in time to try again.
const FIND_DEADLINE: Duration = Duration::from_secs(5);

/// The longest part of a topic or a device's name that tells it from others, in bytes. Both are chosen by clients, and an
/// entry of an index has room for less than 2,704 bytes.
const NAME_BYTES_MAX: usize = 512;

/// What a channel that comes back has in common with the one that went.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    user: UserId,
    topic: Box<str>,
    device: Box<str>,
}

impl Key {
    /// A user's channel of this topic, on this device; `device` is empty if nothing is known of it.
    ///
    /// Beyond their first 512 bytes neither topics nor devices are told apart. One that comes back may then be told more
    /// than it missed.
    pub fn new(user: UserId, topic: &str, device: &str) -> Self {
        Self {
            user,
            topic: storable(topic),
            device: storable(device),
        }
    }

    /// Whose channel it is.
    pub const fn user(&self) -> UserId {
        self.user
    }
}

/// The part of a text that is kept. Postgres takes no NUL in a text.
fn storable(text: &str) -> Box<str> {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}").into()
}

/// A channel that is being joined, and may have been here before.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The new channel.
    pub channel: ChannelId,
    /// What it has in common with the one that went.
    pub key: Arc<Key>,
    /// The message reference of the join, if the client sent one.
    pub reference: Option<u64>,
    /// Where the feed was when it was joined, or first joined without a person: it stands there if it was not here before.
    pub joined_at: Option<Cursor>,
}

/// Why it is not known where a channel stood. The client is asked to come back; what was parked still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParkingError {
    /// The database did not answer in time; the log says why.
    #[error("no answer within {0:?} about where the channel stood")]
    Deadline(Duration),
    /// Too many channels wait already.
    #[error("more than {WANTED_MAX} channels wait to learn where they stood")]
    Full,
    /// The attendant has ended.
    #[error("the gateway is stopping")]
    Stopped,
}

/// What is left for the attendant to write about a channel.
#[derive(Clone, Debug)]
enum Note {
    /// It has been joined.
    Live {
        key: Arc<Key>,
        reference: Option<u64>,
        /// Its session's, to tell whether the channel needs a cursor of its own. None for one that never entered.
        progress: Option<Arc<Progress>>,
    },
    /// It went.
    Parked {
        key: Arc<Key>,
        reference: Option<u64>,
        cursor: Cursor,
        at: Instant,
    },
    /// It was left on purpose.
    Left,
}

/// A session's question.
#[derive(Debug)]
struct Find {
    /// How many notes had been left when it was asked; it waits until they are written.
    after: u64,
    wanted: Vec<Wanted>,
    answer: oneshot::Sender<Vec<Option<Cursor>>>,
}

#[derive(Debug, Default)]
struct Queue {
    notes: VecDeque<(ChannelId, Note)>,
    /// How many notes were ever left.
    noted: u64,
    finds: VecDeque<Find>,
    /// Channels in all of `finds`.
    wanted: usize,
    /// Whether the overflow that goes on was told of.
    is_overflow_told: bool,
    /// Whether there is no attendant any more, so that nobody would be answered.
    is_unattended: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.notes.is_empty() && self.finds.is_empty()
    }

    /// Forgets questions whose askers no longer wait.
    fn forget_given_up(&mut self) {
        self.finds.retain(|find| !find.answer.is_closed());
        self.wanted = self.finds.iter().map(|find| find.wanted.len()).sum();
    }
}

/// What the sessions and the attendant share.
#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    standings: Mutex<HashMap<SessionId, Arc<Progress>>>,
    /// Whether there is any work, or none will come any more.
    work: Notify,
    is_closed: AtomicBool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standings(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Progress>>> {
        self.standings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, channel: ChannelId, note: Note) {
        let overflowed = {
            let mut queue = self.queue();
            let is_full = queue.notes.len() >= NOTES_MAX;
            if is_full {
                queue.notes.pop_front();
            }
            queue.notes.push_back((channel, note));
            queue.noted += 1;
            is_full.then(|| std::mem::replace(&mut queue.is_overflow_told, true))
        };
        if let Some(is_told) = overflowed {
            self.metrics.parking_dropped.inc();
            if !is_told {
                tracing::warn!(
                    notes = NOTES_MAX,
                    "positions of channels are being lost: too many wait for the database"
                );
            }
        }
        self.work.notify_one();
    }
}

/// Ends the attendant with the last handle.
#[derive(Debug)]
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.work.notify_one();
    }
}

/// Makes the two sides for one run of a gateway, which `gateway` names: it has to be another one for each run.
///
/// A channel may come back for as long as `window` after it went.
pub fn parking(
    pool: Pool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    window: Duration,
    gateway: Uuid,
) -> (Parking, Attendant) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        standings: Mutex::default(),
        work: Notify::new(),
        is_closed: AtomicBool::new(false),
        hub,
        metrics,
    });
    let parking = Parking {
        _alive: Arc::new(Alive(Arc::clone(&shared))),
        shared: Arc::clone(&shared),
    };
    (parking, Attendant::new(pool, shared, window, gateway))
}

/// The sessions' side. Clones share everything; when the last one is dropped, the attendant writes what is left and ends.
///
/// All but [`Self::find`] never wait, and may be called from a poll or a drop.
#[derive(Clone, Debug)]
pub struct Parking {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

impl Parking {
    /// Lets a session in that is about to join channels: to be called before it reads the hub's position and before
    /// any of its channels is [`Self::live`]. It begins as busy.
    pub fn enter(&self, session: SessionId, outbox: Arc<Outbox>) -> Standing {
        // A channel that is joined later begins at this position or a later one, unless it is told otherwise.
        let newest = self.shared.hub.position.newest();
        let progress = Arc::new(Progress::new(outbox, newest.map(|position| position.cursor())));
        self.shared.standings().insert(session, Arc::clone(&progress));
        Standing::new(Arc::clone(&self.shared), session, progress)
    }

    /// A channel was joined. `reference` is the highest message reference that its client has sent.
    ///
    /// If a replay is on its way to it, the session has said so before, by [`Standing::acknowledged`] with the cursor from
    /// which it begins: a gateway that is killed meanwhile must not have claimed what the replay was to bring.
    pub fn live(&self, channel: ChannelId, key: Arc<Key>, reference: Option<u64>) {
        let progress = self.shared.standings().get(&channel.session).map(Arc::clone);
        let note = Note::Live {
            key,
            reference,
            progress,
        };
        self.shared.note(channel, note);
    }

    /// A channel went, and its client has everything up to the cursor. To be called before the session's [`Standing`]
    /// is dropped.
    pub fn park(&self, channel: ChannelId, key: Arc<Key>, cursor: Cursor, reference: Option<u64>) {
        self.shared.metrics.parked.inc();
        let note = Note::Parked {
            key,
            reference,
            cursor,
            at: Instant::now(),
        };
        self.shared.note(channel, note);
    }

    /// A channel was left on purpose: there is nothing to come back to.
    pub fn leave(&self, channel: ChannelId) {
        self.shared.note(channel, Note::Left);
    }

    /// From where each of these channels is to be replayed, in the same order; none for one that was not here within the
    /// window.
    ///
    /// # Errors
    /// [`ParkingError`] if there was no answer; the client may try again.
    ///
    /// # Cancel safety
    /// Safe. If it is given up before the answer, nothing is taken. If it is dropped at the moment of the answer, what was
    /// parked counts as taken by this session, which is not told of it again unless it parks it; a later session is
    /// replayed from there all the same, and then again by one after it.
    pub async fn find(&self, wanted: Vec<Wanted>) -> Result<Vec<Option<Cursor>>, ParkingError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            if queue.is_unattended {
                return Err(ParkingError::Stopped);
            }
            if queue.wanted + wanted.len() > WANTED_MAX {
                queue.forget_given_up();
            }
            if queue.wanted + wanted.len() > WANTED_MAX {
                return Err(ParkingError::Full);
            }
            queue.wanted += wanted.len();
            let after = queue.noted;
            queue.finds.push_back(Find {
                after,
                wanted,
                answer,
            });
        }
        self.shared.work.notify_one();
        match timeout(FIND_DEADLINE, answered).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_dropped)) => Err(ParkingError::Stopped),
            Err(_elapsed) => Err(ParkingError::Deadline(FIND_DEADLINE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        postgres::{Settings, pool},
        types::ChannelNumber,
    };

    /// With an attendant that does nothing, before a database that is away.
    fn unattended() -> (Parking, Attendant) {
        let settings = Settings::parse("postgresql://nobody@127.0.0.1:1/none").unwrap();
        parking(
            pool(&settings, 1, FIND_DEADLINE).unwrap(),
            Arc::new(Hub::new(1, Arc::new(Metrics::new()))),
            Arc::new(Metrics::new()),
            Duration::from_secs(120),
            Uuid::nil(),
        )
    }

    fn channel(number: u64) -> ChannelId {
        ChannelId {
            session: SessionId(Uuid::nil()),
            number: ChannelNumber(number),
        }
    }

    #[test]
    fn the_oldest_notes_go_first_when_there_are_too_many() {
        let (parking, _attendant) = unattended();
        for number in 0..NOTES_MAX as u64 + 10 {
            parking.leave(channel(number));
        }
        let queue = parking.shared.queue();
        assert_eq!(queue.notes.len(), NOTES_MAX);
        assert_eq!(queue.notes.front().unwrap().0, channel(10));
        assert_eq!(parking.shared.metrics.parking_dropped.get(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_questions_are_refused_until_those_before_are_given_up() {
        let (parking, attendant) = unattended();
        let key = Arc::new(Key::new(UserId(Uuid::nil()), "topic", ""));
        let wanted = Wanted {
            channel: channel(1),
            key,
            reference: None,
            joined_at: None,
        };
        let as_many = vec![wanted.clone(); WANTED_MAX];
        let first = parking.find(as_many.clone());
        let second = async {
            tokio::task::yield_now().await;
            parking.find(vec![wanted.clone()]).await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(first, Err(ParkingError::Deadline(FIND_DEADLINE)));
        assert_eq!(second, Err(ParkingError::Full));
        let third = parking.find(as_many).await;
        assert_eq!(third, Err(ParkingError::Deadline(FIND_DEADLINE)));
        // Those who still wait when it ends wait no longer, and nobody after them.
        let asked = Instant::now();
        let last = parking.find(vec![wanted.clone()]);
        let ended = async { drop(attendant) };
        let (last, ()) = tokio::join!(last, ended);
        assert_eq!(last, Err(ParkingError::Stopped));
        assert_eq!(parking.find(vec![wanted]).await, Err(ParkingError::Stopped));
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }

    #[test]
    fn names_are_cut_between_characters_and_hold_no_nul() {
        let user = UserId(Uuid::nil());
        let long = "é".repeat(NAME_BYTES_MAX);
        let key = Key::new(user, &format!("a{long}"), "phone\0");
        assert_eq!(key.topic.len(), NAME_BYTES_MAX - 1);
        assert_eq!(&*key.device, "phone\u{fffd}");
        assert_eq!(
            &*Key::new(user, "realtime:messages", "").topic,
            "realtime:messages"
        );
    }
}
