//! What the attendant asks and tells Postgres, one statement for each purpose, whatever the number of channels.
//!
//! All of a batch is one transaction, sent in one go: first how far the gateway has come, then the notes, then the
//! questions. The order matters twice. The first statement speaks of rows that are older than the look at the sessions,
//! and must not touch those that the second one writes, which know better. And a question sees the notes before it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_postgres::{
    Client, Error, Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{super::log::PLAN_SETTINGS, ChannelId, Key, Note, Wanted};
use crate::{
    metrics::Metrics,
    protocol::{cursor::Cursor, rejoin::Candidate},
    types::{ChannelNumber, SessionId, UserId},
};

/// The most rows that one statement prunes, so that it takes some ten milliseconds and holds nobody up.
pub(super) const PRUNE_ROWS: i64 = 5_000;

/// The channels of one user that are kept parked, for each session that the user may have. Pages hold one or two; more come from a client
/// that joins and breaks off without end, and each join would have to look at all of them.
const PARKED_PER_SESSION: usize = 4;

/// Opens the transaction of a batch, or of pruning, which reads whole tables and takes the planner's own choice.
///
/// Commits are not waited for (`synchronous_commit`): a killed gateway loses nothing by that, and a crash of Postgres the
/// commits of its last moments, of a transaction either all or nothing. Cursors then say less than was reached, and
/// those who come back are told something twice. Only a channel that was joined and went within those moments would
/// be forgotten. In return nobody waits for a disk, and the log's own commits do not share it with a write each second.
pub(super) fn begin(deadline: Duration, settings: &[&str]) -> String {
    let milliseconds = deadline.as_millis();
    let mut begin = format!(
        "begin; set local synchronous_commit = off; set local statement_timeout = {milliseconds}; \
         set local idle_in_transaction_session_timeout = {milliseconds}"
    );
    for setting in settings {
        begin += "; set local ";
        begin += setting;
    }
    begin
}

/// The settings of a batch: every statement of it finds its rows by index.
pub(super) const BATCH_SETTINGS: &[&str] = &PLAN_SETTINGS;

type Parameters<'a> = Vec<(&'a (dyn ToSql + Sync), Type)>;

/// Executes a statement if there is anything to tell.
pub(super) async fn tell(
    client: &Client,
    metrics: &Metrics,
    told: Option<(&str, Parameters<'_>)>,
) -> Result<(), Error> {
    if let Some((statement, parameters)) = told {
        metrics.parking_queries.inc();
        client.execute_typed(statement, &parameters).await?;
    }
    Ok(())
}

/// Asks a question if there is any.
pub(super) async fn ask(
    client: &Client,
    metrics: &Metrics,
    asked: Option<(&str, Parameters<'_>)>,
) -> Result<Vec<Row>, Error> {
    match asked {
        Some((statement, parameters)) => {
            metrics.parking_queries.inc();
            client.query_typed(statement, &parameters).await
        }
        None => Ok(Vec::new()),
    }
}

/// How far the gateway has come, and who is behind.
#[derive(Debug)]
pub(super) struct Round {
    gateway: Uuid,
    cursor: String,
    sessions: Vec<Uuid>,
    users: Vec<Uuid>,
    cursors: Vec<String>,
    sessions_behind: Vec<Uuid>,
}

impl Round {
    pub(super) fn new(gateway: Uuid, settled: &Cursor) -> Self {
        Self {
            gateway,
            cursor: settled.to_string(),
            sessions: Vec::new(),
            users: Vec::new(),
            cursors: Vec::new(),
            sessions_behind: Vec::new(),
        }
    }

    /// Adds a session that is behind, with what has reached the channels of its users.
    pub(super) fn add_behind(&mut self, session: SessionId, places: Vec<(UserId, Cursor)>) {
        self.sessions_behind.push(session.0);
        for (user, cursor) in places {
            self.sessions.push(session.0);
            self.users.push(user.0);
            self.cursors.push(cursor.to_string());
        }
    }

    pub(super) fn statement(&self) -> (&'static str, Parameters<'_>) {
        let parameters: Parameters<'_> = vec![
            (&self.gateway, Type::UUID),
            (&self.cursor, Type::TEXT),
            (&self.sessions, Type::UUID_ARRAY),
            (&self.users, Type::UUID_ARRAY),
            (&self.cursors, Type::TEXT_ARRAY),
            (&self.sessions_behind, Type::UUID_ARRAY),
        ];
        (ROUND, parameters)
    }
}

/// `$1` the gateway, `$2` how far it has come; `$3` sessions, `$4` users, `$5` what has reached their channels; `$6` all
/// sessions that are behind. The channels of other sessions need no cursor of their own any more.
const ROUND: &str = "with behind as ( \
       update herald.channel set cursor = behind.cursor \
       from rows from (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) \
         as behind (session, user_id, cursor) \
       where channel.session = behind.session and channel.user_id = behind.user_id \
         and channel.parked_at is null and channel.cursor is distinct from behind.cursor), \
     caught_up as ( \
       update herald.channel set cursor = null \
       where channel.gateway = $1 and channel.parked_at is null and channel.cursor is not null \
         and channel.session <> all ($6)) \
     insert into herald.gateway (id, cursor, seen_at) values ($1, $2, pg_catalog.now()) \
     on conflict (id) do update set cursor = excluded.cursor, seen_at = excluded.seen_at";

/// The notes of a batch, and what the batch before it found and took.
#[derive(Debug, Default)]
pub(super) struct Writing<'a> {
    gateway: Uuid,
    sessions: Vec<Uuid>,
    numbers: Vec<i64>,
    users: Vec<Uuid>,
    topics: Vec<&'a str>,
    devices: Vec<&'a str>,
    references: Vec<Option<i64>>,
    cursors: Vec<Option<String>>,
    /// Seconds since the channel went; none while it is live.
    ages: Vec<Option<f64>>,
    lefts: Vec<bool>,
    /// Who has taken a channel that goes with this batch.
    taken_by: Vec<Option<Uuid>>,
    taken_sessions: Vec<Uuid>,
    taken_numbers: Vec<i64>,
    takers: Vec<Uuid>,
}

impl<'a> Writing<'a> {
    /// Of notes on different channels in ascending order, so that gateways lock rows in one order.
    pub(super) fn new(
        gateway: Uuid,
        notes: &'a [(ChannelId, Note)],
        takes: &[(ChannelId, SessionId)],
        settled: Option<&Cursor>,
    ) -> Self {
        let mut writing = Self {
            gateway,
            ..Self::default()
        };
        for (channel, note) in notes {
            writing.add(*channel, note, settled);
        }
        let mut takes = takes.to_vec();
        takes.sort_unstable_by_key(|(channel, _)| *channel);
        for (channel, taker) in takes {
            if let Ok(index) = notes.binary_search_by_key(&channel, |(noted, _)| *noted) {
                // It was taken while it was live, and goes in the same batch.
                writing.taken_by[index] = Some(taker.0);
            } else {
                writing.taken_sessions.push(channel.session.0);
                writing.taken_numbers.push(integer(channel.number.0));
                writing.takers.push(taker.0);
            }
        }
        writing
    }

    fn add(&mut self, channel: ChannelId, note: &'a Note, settled: Option<&Cursor>) {
        let (key, reference, cursor, age) = match note {
            Note::Live {
                key,
                reference,
                progress,
            } => {
                let progress = progress.as_ref();
                let cursor = progress.and_then(|progress| progress.place(key.user, settled));
                (Some(key), *reference, cursor, None)
            }
            Note::Parked {
                key,
                reference,
                cursor,
                at,
            } => (
                Some(key),
                *reference,
                Some(cursor.clone()),
                Some(at.elapsed().as_secs_f64()),
            ),
            Note::Left => (None, None, None, None),
        };
        self.sessions.push(channel.session.0);
        self.numbers.push(integer(channel.number.0));
        self.users.push(key.map_or(Uuid::nil(), |key| key.user.0));
        self.topics.push(key.map_or("", |key| &key.topic));
        self.devices.push(key.map_or("", |key| &key.device));
        self.references.push(reference.map(integer));
        self.cursors.push(cursor.map(|cursor| cursor.to_string()));
        self.ages.push(age);
        self.lefts.push(key.is_none());
        self.taken_by.push(None);
    }

    pub(super) fn statement(&self) -> Option<(&'static str, Parameters<'_>)> {
        if self.sessions.is_empty() && self.takers.is_empty() {
            return None;
        }
        let parameters: Parameters<'_> = vec![
            (&self.gateway, Type::UUID),
            (&self.sessions, Type::UUID_ARRAY),
            (&self.numbers, Type::INT8_ARRAY),
            (&self.users, Type::UUID_ARRAY),
            (&self.topics, Type::TEXT_ARRAY),
            (&self.devices, Type::TEXT_ARRAY),
            (&self.references, Type::INT8_ARRAY),
            (&self.cursors, Type::TEXT_ARRAY),
            (&self.ages, Type::FLOAT8_ARRAY),
            (&self.lefts, Type::BOOL_ARRAY),
            (&self.taken_by, Type::UUID_ARRAY),
            (&self.taken_sessions, Type::UUID_ARRAY),
            (&self.taken_numbers, Type::INT8_ARRAY),
            (&self.takers, Type::UUID_ARRAY),
        ];
        Some((WRITE, parameters))
    }
}

/// `$1` the gateway, `$2` to `$11` the columns of the notes, `$12` to `$14` of what was taken by whom beside these.
///
/// A person who signs in anew may be known by another device from then on, by which the channel is looked for when it comes back.
/// A channel that is taken while it is live stays taken when it goes: its client has most likely come back already, before its
/// old connection was found to be dead. The same holds if both is learned in one batch.
const WRITE: &str = "with note as materialized ( \
       select * from rows from (pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4), \
           pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), \
           pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11)) \
         as note (session, number, user_id, topic, device, reference, cursor, age, is_left, taken_by)), \
     gone as ( \
       delete from herald.channel using note \
       where note.is_left and channel.session = note.session and channel.number = note.number), \
     taken as ( \
       update herald.channel set taken_by = take.taken_by \
       from rows from (pg_catalog.unnest($12), pg_catalog.unnest($13), pg_catalog.unnest($14)) \
         as take (session, number, taken_by) \
       where channel.session = take.session and channel.number = take.number and channel.taken_by is null) \
     insert into herald.channel (session, number, gateway, user_id, topic, device, reference, cursor, parked_at, \
       taken_by) \
     select note.session, note.number, $1, note.user_id, note.topic, note.device, note.reference, note.cursor, \
       pg_catalog.now() - pg_catalog.make_interval(secs => note.age), \
       case when note.age is not null then note.taken_by end \
     from note where not note.is_left order by note.session, note.number \
     on conflict (session, number) do update set gateway = excluded.gateway, device = excluded.device, \
       reference = excluded.reference, \
       cursor = excluded.cursor, parked_at = excluded.parked_at, \
       taken_by = case when excluded.parked_at is not null and channel.parked_at is null \
         then coalesce(excluded.taken_by, channel.taken_by) end";

/// The candidates of one key, in the order in which they were parked.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Which channels they are.
    pub(super) channels: Vec<ChannelId>,
    /// What they have to offer.
    pub(super) candidates: Vec<Candidate>,
}

impl Found {
    /// Adds a candidate behind those that are known.
    pub(super) fn add(&mut self, channel: ChannelId, candidate: Candidate) {
        self.channels.push(channel);
        self.candidates.push(candidate);
    }
}

/// The different keys that a batch asks for.
#[derive(Debug)]
pub(super) struct Keys<'a> {
    gateway: Uuid,
    window: f64,
    indexes: HashMap<&'a Key, usize>,
    users: Vec<Uuid>,
    topics: Vec<&'a str>,
    devices: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(gateway: Uuid, window: Duration, wanted: impl Iterator<Item = &'a Wanted>) -> Self {
        let mut keys = Self {
            gateway,
            window: window.as_secs_f64(),
            indexes: HashMap::new(),
            users: Vec::new(),
            topics: Vec::new(),
            devices: Vec::new(),
        };
        for wanted in wanted {
            let key = Arc::as_ref(&wanted.key);
            let next = keys.users.len();
            if *keys.indexes.entry(key).or_insert(next) == next {
                keys.users.push(key.user.0);
                keys.topics.push(&key.topic);
                keys.devices.push(&key.device);
            }
        }
        keys
    }

    pub(super) fn statement(&self) -> Option<(&'static str, Parameters<'_>)> {
        if self.users.is_empty() {
            return None;
        }
        let parameters: Parameters<'_> = vec![
            (&self.gateway, Type::UUID),
            (&self.window, Type::FLOAT8),
            (&self.users, Type::UUID_ARRAY),
            (&self.topics, Type::TEXT_ARRAY),
            (&self.devices, Type::TEXT_ARRAY),
        ];
        Some((FIND, parameters))
    }

    /// The index of a key among what [`Self::found`] answers with.
    pub(super) fn index(&self, key: &Key) -> Option<usize> {
        self.indexes.get(key).copied()
    }

    /// The candidates of each key. What is no cursor, or none of this version, is none that could be continued from.
    ///
    /// Of the channels that are live at this gateway those are candidates whose clients have not acknowledged everything:
    /// their connections may be dead without anybody knowing it, and their clients here already by another. `doubted`
    /// tells their places, and nothing of a session that is not to be doubted.
    pub(super) fn found(
        &self,
        rows: &[Row],
        doubted: impl Fn(SessionId, UserId, Cursor) -> Option<Cursor>,
    ) -> Result<Vec<Found>, Error> {
        let mut found: Vec<Found> = Vec::new();
        found.resize_with(self.users.len(), Found::default);
        for row in rows {
            let ordinal: i64 = row.try_get("ordinal")?;
            // Ordinality counts from one.
            let index = usize::try_from(ordinal - 1).ok();
            let (Some(found), Ok(cursor)) = (
                index.and_then(|index| found.get_mut(index)),
                row.try_get::<_, &str>("cursor")?.parse(),
            ) else {
                continue;
            };
            let session = SessionId(row.try_get("session")?);
            let cursor = if row.try_get("is_live_here")? {
                match doubted(session, UserId(row.try_get("user_id")?), cursor) {
                    Some(cursor) => cursor,
                    None => continue,
                }
            } else {
                cursor
            };
            let reference: Option<i64> = row.try_get("reference")?;
            found.channels.push(ChannelId {
                session,
                number: ChannelNumber(u64::try_from(row.try_get::<_, i64>("number")?).unwrap_or(0)),
            });
            found.candidates.push(Candidate {
                cursor,
                reference: reference.and_then(|reference| u64::try_from(reference).ok()),
                taken_by: row.try_get::<_, Option<Uuid>>("taken_by")?.map(SessionId),
            });
        }
        Ok(found)
    }
}

/// `$1` the gateway, `$2` the window in seconds, `$3` to `$5` the keys.
const FIND: &str = "select wanted.ordinal, channel.session, channel.number, channel.reference, channel.taken_by, \
       channel.user_id, coalesce(channel.cursor, gateway.cursor) as cursor, \
       channel.parked_at is null and channel.gateway = $1 as is_live_here \
     from rows from (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5)) \
         with ordinality as wanted (user_id, topic, device, ordinal) \
       join herald.channel on channel.user_id = wanted.user_id and channel.topic = wanted.topic \
         and channel.device = wanted.device \
       left join herald.gateway on gateway.id = channel.gateway \
     where channel.parked_at > pg_catalog.now() - pg_catalog.make_interval(secs => $2) \
       or channel.parked_at is null \
         and gateway.seen_at > pg_catalog.now() - pg_catalog.make_interval(secs => $2) \
     order by wanted.ordinal, channel.parked_at, channel.session, channel.number";

/// The bounds of what is kept.
#[derive(Debug)]
pub(super) struct Pruning {
    gateway: Uuid,
    window: f64,
    parked_per_user: i64,
}

impl Pruning {
    pub(super) fn new(gateway: Uuid, window: Duration, sessions_per_user: usize) -> Self {
        let parked_per_user = sessions_per_user.saturating_mul(PARKED_PER_SESSION);
        Self {
            gateway,
            window: window.as_secs_f64(),
            parked_per_user: i64::try_from(parked_per_user).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn statement(&self) -> (&'static str, Parameters<'_>) {
        let parameters: Parameters<'_> = vec![
            (&self.gateway, Type::UUID),
            (&self.window, Type::FLOAT8),
            (&self.parked_per_user, Type::INT8),
            (&PRUNE_ROWS, Type::INT8),
        ];
        (PRUNE, parameters)
    }
}

/// `$1` the gateway, `$2` the window in seconds, `$3` the most parked channels of a user, `$4` the most rows. Answers with
/// the number of channels that were deleted.
///
/// The lock is of the transaction, so that it works through a transaction pooler; its key is "Herald" in ASCII and the
/// number three. The tables are small enough to be read as a whole every ten seconds by one of the gateways. A gateway
/// goes one pruning after its last channel, because this statement still sees what it deletes.
const PRUNE: &str = "with turn as materialized (select pg_catalog.pg_try_advisory_xact_lock(5216701506134474755) as mine), \
     horizon as materialized ( \
       select pg_catalog.now() - pg_catalog.make_interval(secs => $2) as parked_before from turn where turn.mine), \
     outdated as materialized ( \
       (select channel.ctid as place from herald.channel, horizon where channel.parked_at <= horizon.parked_before limit $4) \
       union \
       (select channel.ctid from herald.channel, horizon \
        where channel.parked_at is null and channel.gateway <> $1 and not exists ( \
          select from herald.gateway where gateway.id = channel.gateway and gateway.seen_at > horizon.parked_before) \
        limit $4) \
       union \
       (select ranked.place from horizon, ( \
          select channel.ctid as place, \
            pg_catalog.row_number() over (partition by channel.user_id order by channel.parked_at desc) as rank \
          from herald.channel where channel.parked_at is not null and channel.user_id in ( \
            select many.user_id from herald.channel as many where many.parked_at is not null \
            group by many.user_id having pg_catalog.count(*) > $3)) as ranked \
        where ranked.rank > $3 limit $4)), \
     deleted as ( \
       delete from herald.channel where channel.ctid = any (array(select outdated.place from outdated limit $4)) \
       returning 1), \
     ended as ( \
       delete from herald.gateway using horizon \
       where gateway.id <> $1 and gateway.seen_at <= horizon.parked_before \
         and not exists (select from herald.channel where channel.gateway = gateway.id)) \
     select pg_catalog.count(*) from deleted";

/// A number as a parameter. Neither channels nor messages are counted up to where the sign would matter.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
