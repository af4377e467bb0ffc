//! The one task of a gateway that carries notes, questions and answers between the sessions and Postgres.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use deadpool_postgres::Pool;
use futures::try_join;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    ChannelId, Find, Key, Note, Shared, Wanted,
    statements::{self, BATCH_SETTINGS, Found, Keys, PRUNE_ROWS, Pruning, Round, Writing},
};
use crate::{
    backoff::Backoff,
    postgres::{Lent, PooledError, is_of_data},
    protocol::{
        cursor::Cursor,
        rejoin::{Candidate, choose},
    },
    types::SessionId,
};

/// How often it is written down how far the gateway has come: who was connected to a gateway that is killed is told again
/// what this time brought.
const ROUND: Duration = Duration::from_secs(1);

/// A round is not repeated before ten times the time that it took, so that it never keeps the database busy for more
/// than a tenth of the time, however many sessions are behind.
const ROUND_SHARE: u32 = 10;

/// The least distance from one batch to the next. The first one after a pause goes at once; while many come back, each
/// waits for half of this, which no person notices, and a second costs some forty statements.
const BATCHES_APART: Duration = Duration::from_millis(50);

/// Notes of one batch, so that a statement takes some hundred milliseconds at most.
const NOTES_PER_BATCH: usize = 8_192;

/// Channels that one batch asks for, for the same reason. A single question may have more, and goes alone.
const WANTED_PER_BATCH: usize = 8_192;

/// How often what is out of the window is deleted. What is found is judged by the window itself, so this bounds only what
/// the tables hold.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// The longest wait for one batch, connection not included. It is also the patience of those who ask.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first and the longest delay before another attempt: short enough for two or three within the patience of those
/// who ask.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long a gateway that ends goes on trying to write what is left, if the database is away.
const LAST_ATTEMPTS: Duration = Duration::from_secs(5);

/// Carries notes and answers; see [`super::Parking`].
#[derive(Debug)]
pub struct Attendant {
    pool: Pool,
    shared: Arc<Shared>,
    window: Duration,
    gateway: Uuid,
    begin: String,
    begin_pruning: String,
    /// Taken from the queue and not yet written: one for each channel, ascending.
    notes: Vec<(ChannelId, Note)>,
    /// Taken from the queue and not yet answered.
    finds: Vec<Find>,
    /// What was found, by whom, and is not yet marked as taken.
    takes: Vec<(ChannelId, SessionId)>,
    /// Channels of sessions that are here, which have been told where they stood and of which nothing has been noted since.
    standing: BTreeMap<ChannelId, Stood>,
    /// Whether the gateway has its row. It comes before that of any live channel.
    is_announced: bool,
    next_round: Instant,
    next_batch: Instant,
    /// None before there was anything that could have to be pruned.
    next_prune: Option<Instant>,
}

/// Where a channel stood, as it was told.
#[derive(Clone, Debug)]
struct Stood {
    key: Arc<Key>,
    candidate: Candidate,
}

/// What one batch says and asks.
#[derive(Debug)]
struct Batch<'a> {
    round: Option<&'a Round>,
    writing: &'a Writing<'a>,
    keys: &'a Keys<'a>,
}

impl Attendant {
    pub(super) fn new(pool: Pool, shared: Arc<Shared>, window: Duration, gateway: Uuid) -> Self {
        let now = Instant::now();
        Self {
            pool,
            shared,
            window,
            gateway,
            begin: statements::begin(DEADLINE, BATCH_SETTINGS),
            begin_pruning: statements::begin(DEADLINE, &[]),
            notes: Vec::new(),
            finds: Vec::new(),
            takes: Vec::new(),
            standing: BTreeMap::new(),
            is_announced: false,
            next_round: now,
            next_batch: now,
            next_prune: None,
        }
    }

    /// Works until every [`super::Parking`] is gone and what they left is written. If the database is away then, it goes on
    /// trying for five seconds.
    ///
    /// # Cancel safety
    /// Not safe: what has not been written is lost.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut told = None;
        let mut closed_at = None;
        loop {
            // Read first: what the last handle left was left before it was dropped.
            if self.shared.is_closed.load(Ordering::Acquire) {
                let closed_at = *closed_at.get_or_insert_with(Instant::now);
                if !self.has_work() || closed_at.elapsed() > LAST_ATTEMPTS {
                    return self.end();
                }
            } else {
                self.wait().await;
            }
            let Err(error) = self.work().await else {
                backoff.reset();
                told = None;
                continue;
            };
            self.drop_what_is_refused(&error);
            // The other gateways get the time to say that they still live, before their channels are given up.
            self.next_prune = self.next_prune.map(|_| Instant::now() + PRUNE_EVERY);
            let reason = error.to_string();
            if told.as_ref() != Some(&reason) {
                tracing::warn!(%reason, "where channels stand can be neither written nor asked; trying again");
                told = Some(reason);
            }
            let delay = backoff.next_delay(&mut rand::rng());
            sleep(delay).await;
        }
    }

    fn end(&self) {
        let lost = self.notes.len() + self.shared.queue().notes.len();
        if lost > 0 {
            self.count_dropped(lost);
            tracing::warn!(
                notes = lost,
                "positions of channels are lost: the database is away"
            );
        }
    }

    fn count_dropped(&self, notes: usize) {
        let notes = u64::try_from(notes).unwrap_or(u64::MAX);
        self.shared.metrics.parking_dropped.inc_by(notes);
    }

    fn has_work(&self) -> bool {
        let holds = !self.notes.is_empty() || !self.finds.is_empty() || !self.takes.is_empty();
        holds || !self.shared.queue().is_empty()
    }

    /// Resolves once there is something to do.
    async fn wait(&self) {
        loop {
            let round = (!self.shared.standings().is_empty()).then_some(self.next_round);
            let due = [round, self.next_prune].into_iter().flatten().min();
            if self.has_work() {
                // The next batch collects until its time has come.
                return sleep_until(due.map_or(self.next_batch, |due| due.min(self.next_batch))).await;
            }
            let alarm = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = alarm => return,
                () = self.shared.work.notified() => {}
            }
            if self.shared.is_closed.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Writes and answers what waits now, and prunes if it is time to.
    async fn work(&mut self) -> Result<(), PooledError> {
        let begun = Instant::now();
        // Read before the sessions are looked at, and those before the notes are taken: a session that is not found any
        // more has left its last notes before.
        let settled = self.shared.hub.position.settled();
        let settled = settled.map(|position| position.cursor());
        let round = self.round(begun, settled.as_ref());
        let gone = self.gone();
        let is_drained = self.collect();
        if is_drained {
            for channel in gone {
                self.standing.remove(&channel);
            }
        }
        // With notes still to come, one of them may be the only one to say that a channel has stayed behind.
        let round = round.filter(|_| is_drained);
        if round.is_some() || self.holds_anything() {
            self.next_batch = begun + BATCHES_APART;
            self.batch(round.as_ref(), settled.as_ref()).await?;
            self.next_prune.get_or_insert(begun + PRUNE_EVERY);
        }
        if round.is_some() {
            self.is_announced = true;
            self.next_round = begun + ROUND.max(begun.elapsed() * ROUND_SHARE);
        }
        if self.next_prune.is_some_and(|due| due <= begun) {
            let is_more = self.prune().await? >= PRUNE_ROWS;
            self.next_prune = Some(if is_more { begun } else { begun + PRUNE_EVERY });
        }
        Ok(())
    }

    fn holds_anything(&self) -> bool {
        !self.notes.is_empty() || !self.finds.is_empty() || !self.takes.is_empty()
    }

    /// The channels that were told where they stood and whose sessions are no longer here.
    fn gone(&self) -> Vec<ChannelId> {
        let sessions = self.shared.standings();
        let told = self.standing.keys();
        told.filter(|channel| !sessions.contains_key(&channel.session))
            .copied()
            .collect()
    }

    /// Looks at every session, if it is time to.
    fn round(&mut self, now: Instant, settled: Option<&Cursor>) -> Option<Round> {
        if self.is_announced && now < self.next_round {
            return None;
        }
        let entered: Vec<_> = {
            let standings = self.shared.standings();
            let entered = standings.iter();
            entered
                .map(|(session, progress)| (*session, Arc::clone(progress)))
                .collect()
        };
        let Some(settled) = settled.filter(|_| !entered.is_empty()) else {
            self.next_round = now + ROUND;
            return None;
        };
        let mut round = Round::new(self.gateway, settled);
        for (session, progress) in entered {
            if let Some(places) = progress.behind(settled) {
                round.add_behind(session, places);
            }
        }
        Some(round)
    }

    /// Takes notes and questions from the queue, as many as a batch may have. Answers whether no note is left.
    fn collect(&mut self) -> bool {
        let mut queue = self.shared.queue();
        let count = NOTES_PER_BATCH
            .saturating_sub(self.notes.len())
            .min(queue.notes.len());
        self.notes.extend(queue.notes.drain(..count));
        let is_drained = queue.notes.is_empty();
        if is_drained {
            queue.is_overflow_told = false;
            if queue.notes.capacity() > NOTES_PER_BATCH {
                queue.notes = VecDeque::new();
            }
        }
        let taken = queue.noted - queue.notes.len() as u64;
        self.finds.retain(|find| !find.answer.is_closed());
        let mut wanted: usize = self.finds.iter().map(|find| find.wanted.len()).sum();
        while wanted < WANTED_PER_BATCH && queue.finds.front().is_some_and(|find| find.after <= taken) {
            let Some(find) = queue.finds.pop_front() else {
                break;
            };
            queue.wanted -= find.wanted.len();
            if !find.answer.is_closed() {
                wanted += find.wanted.len();
                self.finds.push(find);
            }
        }
        drop(queue);
        // The last note on a channel holds. The order is kept among equals.
        self.notes.sort_by_key(|(channel, _)| *channel);
        self.notes.reverse();
        self.notes.dedup_by_key(|(channel, _)| *channel);
        self.notes.reverse();
        for (channel, note) in &self.notes {
            let stood = self.standing.remove(channel);
            if let (Some(taker), Note::Parked { .. }) =
                (stood.and_then(|stood| stood.candidate.taken_by), note)
            {
                self.takes.push((*channel, taker));
            }
        }
        is_drained
    }

    async fn batch(&mut self, round: Option<&Round>, settled: Option<&Cursor>) -> Result<(), PooledError> {
        let wanted = self.finds.iter().flat_map(|find| &find.wanted);
        let keys = Keys::new(self.gateway, self.window, wanted);
        let writing = Writing::new(self.gateway, &self.notes, &self.takes, settled);
        let batch = Batch {
            round,
            writing: &writing,
            keys: &keys,
        };
        let rows = self.ask(&batch).await?;
        let mut found = {
            let standings = self.shared.standings();
            keys.found(&rows, |session, user, cursor| match standings.get(&session) {
                Some(progress) => progress.doubted(user),
                // It has left since the notes were taken; what it leaves is written with the next.
                None => Some(cursor),
            })?
        };
        self.add_standing(&keys, &mut found);
        let is_here = |session: SessionId| self.shared.standings().contains_key(&session);
        let answers: Vec<Answer> = self
            .finds
            .iter()
            .map(|find| answer(find, &keys, &mut found, is_here))
            .collect();
        let mut takes = Vec::new();
        for (find, answer) in self.finds.drain(..).zip(answers) {
            // Whoever no longer waits was told nothing and has taken nothing: the same session may ask again.
            if find.answer.send(answer.from).is_err() {
                continue;
            }
            self.standing.extend(answer.stood);
            for (channel, taker) in answer.takes {
                match self.standing.get_mut(&channel) {
                    Some(stood) => stood.candidate.taken_by = Some(taker),
                    None => takes.push((channel, taker)),
                }
            }
        }
        self.notes.clear();
        self.takes = takes;
        Ok(())
    }

    /// Adds the channels that stand where they were told to what was found, each for all sessions but its own: one that asks again
    /// has given the channel up.
    fn add_standing(&self, keys: &Keys<'_>, found: &mut [Found]) {
        let wanted = self.finds.iter().flat_map(|find| &find.wanted);
        let asked: HashSet<(SessionId, &Key)> = wanted
            .map(|wanted| (wanted.channel.session, &*wanted.key))
            .collect();
        for (channel, stood) in &self.standing {
            if !asked.contains(&(channel.session, &*stood.key))
                && let Some(found) = keys.index(&stood.key).and_then(|index| found.get_mut(index))
            {
                found.add(*channel, stood.candidate.clone());
            }
        }
    }

    /// Sends a batch in one go, and answers with the rows that were asked for.
    async fn ask(&self, batch: &Batch<'_>) -> Result<Vec<Row>, PooledError> {
        let metrics = &self.shared.metrics;
        let lent = Lent::from(&self.pool).await?;
        let client = lent.client()?;
        let asked = async {
            try_join!(
                client.batch_execute(&self.begin),
                statements::tell(client, metrics, batch.round.map(Round::statement)),
                statements::tell(client, metrics, batch.writing.statement()),
                statements::ask(client, metrics, batch.keys.statement()),
                client.batch_execute("commit"),
            )
        };
        let answered = timeout(DEADLINE, asked).await;
        let ((), (), (), rows, ()) = lent.settle(answered, DEADLINE)?;
        Ok(rows)
    }

    /// Deletes some of what is out of bounds, and answers how many channels.
    async fn prune(&self) -> Result<i64, PooledError> {
        let pruning = Pruning::new(
            self.gateway,
            self.window,
            self.shared.hub.registry.sessions_per_user(),
        );
        let lent = Lent::from(&self.pool).await?;
        let client = lent.client()?;
        let asked = async {
            try_join!(
                client.batch_execute(&self.begin_pruning),
                statements::ask(client, &self.shared.metrics, Some(pruning.statement())),
                client.batch_execute("commit"),
            )
        };
        let answered = timeout(DEADLINE, asked).await;
        let ((), rows, ()) = lent.settle(answered, DEADLINE)?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0))?)
    }

    /// Gives up notes that the database refuses for what they say: they would keep all others from being written.
    fn drop_what_is_refused(&mut self, error: &PooledError) {
        if let PooledError::Query(error) = error
            && is_of_data(error)
        {
            self.count_dropped(self.notes.len());
            self.notes.clear();
            self.takes.clear();
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        let unanswered = {
            let mut queue = self.shared.queue();
            queue.is_unattended = true;
            queue.wanted = 0;
            std::mem::take(&mut queue.finds)
        };
        drop(unanswered);
    }
}

/// What one question is answered with.
#[derive(Debug, Default)]
struct Answer {
    /// From where each channel is replayed.
    from: Vec<Option<Cursor>>,
    /// What is taken thereby, if the answer arrives.
    takes: Vec<(ChannelId, SessionId)>,
    /// Where each channel stands from then on.
    stood: Vec<(ChannelId, Stood)>,
}

/// Chooses for all channels of one question, which see what those before them have taken. `is_here` tells whether a session has
/// entered and not left.
fn answer(find: &Find, keys: &Keys<'_>, found: &mut [Found], is_here: impl Fn(SessionId) -> bool) -> Answer {
    if find.answer.is_closed() {
        return Answer::default();
    }
    let mut takes = Vec::new();
    let mut choose_one = |wanted: &Wanted| {
        let found = found.get_mut(keys.index(&wanted.key)?)?;
        let joining = wanted.channel.session;
        let choice = choose(&found.candidates, joining, wanted.reference);
        if let Some(index) = choice.takes {
            found.candidates[index].taken_by = Some(joining);
            takes.push((found.channels[index], joining));
        }
        choice.from
    };
    let from: Vec<Option<Cursor>> = find.wanted.iter().map(&mut choose_one).collect();
    let mut stood = Vec::new();
    for (wanted, from) in find.wanted.iter().zip(&from) {
        let Some(cursor) = from.as_ref().or(wanted.joined_at.as_ref()) else {
            continue;
        };
        if !is_here(wanted.channel.session) {
            continue;
        }
        let candidate = Candidate {
            cursor: cursor.clone(),
            reference: wanted.reference,
            taken_by: None,
        };
        if let Some(found) = keys.index(&wanted.key).and_then(|index| found.get_mut(index)) {
            found.add(wanted.channel, candidate.clone());
        }
        let key = Arc::clone(&wanted.key);
        stood.push((wanted.channel, Stood { key, candidate }));
    }
    Answer { from, takes, stood }
}
