//! The feed's life: connect, listen, read what is new, hand it over, wait for the next ring; and all over again.
//!
//! Reconnecting is no special case: the first read on a new connection asks for what is new since the last snapshot,
//! like every other read. If the database cannot give that any more (another log, a failover that lost commits, a log
//! pruned past the snapshot), every session is closed and told to come back, where its cursor is judged in turn.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;

use super::{
    Watchdog,
    doorbell::{Doorbell, Question, Step},
    link::{Link, LinkError},
    reader::{Chunk, Handed, ReadError, Reader, Span},
    watchdog::Progressing,
};
use crate::{
    backoff::Backoff,
    fanout::{Fanout, Outgoing},
    hub::{FeedState, FeedStatus, History, Hub, Position},
    metrics::{Metrics, observe},
    migrate::SCHEMA_VERSION,
    postgres::{Failure, Settings, is_of_data},
    protocol::{
        close::CloseCode,
        cursor::Epoch,
        event::Event,
        phoenix::{
            relation::{Column, Relation},
            table::RealtimeTable,
        },
        snapshot::Snapshot,
    },
    store::log::{PLAN_SETTINGS, Pruned, ViewAccess, life},
    types::BatchNumber,
};

/// The columns of the view are asked for again after this time, so that one that was added to it is soon known by its type.
const COLUMNS_AGE_MAX: Duration = Duration::from_secs(60);

/// How patient the feed is.
#[derive(Clone, Copy, Debug)]
pub struct FeedConfig {
    /// A read is done after this time even if nothing rang. Together with the deadline it bounds how long a
    /// connection can be dead without being found out.
    pub idle_tick: Duration,
    /// The longest wait for an answer, or for the next row of one.
    pub deadline: Duration,
    /// The first ceiling of the delay between attempts.
    pub backoff_base: Duration,
    /// The last ceiling. It bounds how long what was written waits after the database has come back.
    pub backoff_cap: Duration,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            idle_tick: Duration::from_secs(5),
            deadline: Duration::from_secs(8),
            backoff_base: Duration::from_millis(50),
            backoff_cap: Duration::from_secs(2),
        }
    }
}

/// Why a connection of the feed ended.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(
        "the database has version {found} of Herald's schema and this gateway needs {SCHEMA_VERSION}: run `herald migrate` of this version"
    )]
    Version { found: i32 },
    #[error("the log's bookkeeping has an unexpected shape: run `herald migrate` with this version")]
    Bookkeeping,
}

/// The first read of a connection may take this many deadlines: it may have a day's backlog to sort, and the greeting has
/// just shown that the connection is alive.
const FIRST_READ_DEADLINES: u32 = 8;

/// The feed of one gateway.
#[derive(Debug)]
pub struct Feed {
    settings: Settings,
    config: FeedConfig,
    hub: Arc<Hub>,
    fanout: Fanout,
    status: FeedStatus,
    metrics: Arc<Metrics>,
    progress: Option<Progress>,
    backoff: Backoff,
    /// As whose changes Supabase's clients are told of.
    table: RealtimeTable,
    /// How the next connection asks the view.
    access: ViewAccess,
    progressing: Progressing,
}

/// How far the feed has come.
#[derive(Debug)]
struct Progress {
    epoch: Epoch,
    batch: BatchNumber,
    since: Arc<Snapshot>,
    /// A batch that was begun and whose connection broke.
    begun: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    outgoing: Outgoing,
    handed: Handed,
}

/// What the database says of its log when a connection begins.
#[derive(Debug)]
struct Greeting {
    epoch: Epoch,
    pruned: Pruned,
    now: Arc<Snapshot>,
    log: u32,
    commit_times: bool,
}

impl Feed {
    /// A feed that has not begun.
    pub fn new(
        settings: Settings,
        config: FeedConfig,
        hub: Arc<Hub>,
        status: FeedStatus,
        metrics: Arc<Metrics>,
        table: RealtimeTable,
    ) -> Self {
        Self {
            settings,
            table,
            config,
            fanout: Fanout::new(Arc::clone(&hub), Arc::clone(&metrics)),
            hub,
            status,
            metrics,
            progress: None,
            backoff: Backoff::new(config.backoff_base, config.backoff_cap),
            access: ViewAccess::Direct,
            progressing: Progressing::default(),
        }
    }

    /// Whoever watches that this feed does not stand still.
    pub fn watchdog(&self) -> Watchdog {
        let longest_wait = self.config.idle_tick + self.config.deadline * FIRST_READ_DEADLINES;
        Watchdog::new(
            self.progressing.clone(),
            longest_wait,
            self.status.clone(),
            Arc::clone(&self.metrics),
        )
    }

    /// Feeds the hub until the process stops.
    ///
    /// # Errors
    /// The reason, if the database refuses for a reason that a person must change and the feed had never begun. Once
    /// it has begun, it goes on trying: the sessions stay open, and `/readyz` says why nothing comes.
    ///
    /// # Cancel safety
    /// Not safe: a batch may be half handed over. Stop it through the token.
    pub async fn run(mut self, stopping: CancellationToken) -> Result<(), String> {
        loop {
            let ended = tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(()),
                ended = self.connection() => ended,
            };
            let Err(error) = ended;
            self.progressing.note_step();
            self.metrics.feed_asleep.set(0);
            self.choose_access(&error);
            let failure = self.judge(&error);
            let reason = failure.reason().to_owned();
            if failure.is_fatal() && self.progress.is_none() {
                self.status.enter(FeedState::Refused(reason.clone()));
                return Err(reason);
            }
            let delay = self.backoff.next_delay(&mut rand::rng());
            let fatal = failure.is_fatal();
            let state = if fatal {
                FeedState::Refused(reason.clone())
            } else {
                FeedState::Waiting(reason.clone())
            };
            // A reason that stays is told once; an hour without a database should not fill the log.
            if *self.status.current() == state {
                tracing::debug!(%reason, fatal, ?delay, "the feed is still without a connection");
            } else {
                tracing::warn!(%reason, fatal, ?delay, "the feed has no connection and goes on trying");
            }
            self.status.enter(state);
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// A row for which the view raises an error is stepped over by the next connection; the one after it asks directly
    /// again.
    fn choose_access(&mut self, error: &FeedError) {
        let failed = match error {
            FeedError::Link(LinkError::Postgres(error))
            | FeedError::Read(ReadError::Link(LinkError::Postgres(error))) => is_of_data(error),
            _ => false,
        };
        self.access = if failed && self.access == ViewAccess::Direct {
            tracing::error!(
                "messages_realtime_view raises an error for a message: such messages are not delivered; \
                 the log of Postgres names them"
            );
            ViewAccess::Guarded
        } else {
            ViewAccess::Direct
        };
    }

    /// One connection, from its opening to its end.
    async fn connection(&mut self) -> Result<Infallible, FeedError> {
        let mut link = Link::open(&self.settings, self.config.deadline).await?;
        // Listening comes before the first look at the log: what is committed in between rings or is read.
        let greeting = self.greet(&mut link).await?;
        let (client, wire) = link.split();
        if self.progress.is_some() {
            self.metrics.feed_reconnects.inc();
        }
        let reader = Reader::prepare(
            client,
            wire,
            greeting.now.life(),
            greeting.log,
            greeting.commit_times,
            self.access,
            self.config.deadline,
        )
        .await?;
        // The columns are known before sessions are let in, which is once there is a position.
        let mut described = self.describe(&mut link).await?;
        self.take_up(&greeting);
        let mut patience = self.config.deadline * FIRST_READ_DEADLINES;
        let mut doorbell = Doorbell::new(self.config.idle_tick);
        loop {
            let events = self.read(&mut link, &reader, patience).await?;
            self.progressing.note_read();
            patience = self.config.deadline;
            if *self.status.current() != FeedState::Listening {
                self.status.enter(FeedState::Listening);
                self.backoff.reset();
                tracing::info!(database = %self.settings.describe(), "the feed listens");
            }
            if described.elapsed() > COLUMNS_AGE_MAX {
                described = self.describe(&mut link).await?;
            }
            self.rest(&mut link, &mut doorbell, events > 0).await?;
        }
    }

    /// Waits until it is time for the next read.
    async fn rest(&self, link: &mut Link, doorbell: &mut Doorbell, found: bool) -> Result<(), LinkError> {
        let mut step = doorbell.after_read(found);
        loop {
            match step {
                Step::Ask(question) => {
                    let (client, wire) = link.split();
                    // Without a prepared statement one question would take two round trips.
                    let asked = client.query_typed(question.statement(), &[]);
                    let rows = wire.drive(self.config.deadline, asked).await?;
                    let answer = rows.first().ok_or(LinkError::Closed)?.try_get(0)?;
                    if question == Question::GetUp {
                        self.metrics.feed_rushes.inc();
                    }
                    step = doorbell.answered(question, answer, Instant::now());
                }
                Step::Wait(pause) => {
                    self.metrics.feed_asleep.set(doorbell.is_asleep().into());
                    let had_rung = link.ring(Instant::now() + pause).await?;
                    doorbell.waited(had_rung);
                    return Ok(());
                }
            }
        }
    }

    async fn greet(&self, link: &mut Link) -> Result<Greeting, FeedError> {
        let deadline = self.config.deadline;
        // The server gives up when the gateway has, so that a question nobody waits for does not run on. The life is asked
        // for before the greeting, whose snapshot must not be older than it.
        let set_up = format!(
            "set {}; set plan_cache_mode = force_generic_plan; set statement_timeout = {}; \
             set idle_session_timeout = 0; listen herald; select herald.current_life()",
            PLAN_SETTINGS.join("; set "),
            (deadline * FIRST_READ_DEADLINES).as_millis(),
        );
        let (client, wire) = link.split();
        wire.drive(deadline, client.batch_execute(&set_up)).await?;
        let row = wire.drive(deadline, client.query_one(GREETING, &[])).await?;
        let greeting = Greeting::read(&row)?;
        self.warn(&row)?;
        Ok(greeting)
    }

    /// Learns which columns the rows of the view have, and answers when.
    async fn describe(&self, link: &mut Link) -> Result<Instant, FeedError> {
        let (client, wire) = link.split();
        let rows = wire
            .drive(self.config.deadline, client.query(COLUMNS, &[]))
            .await?;
        let column = |row: &Row| {
            let text = |index| row.try_get::<_, &str>(index).map_err(|_| FeedError::Bookkeeping);
            Ok(Column {
                name: text(0)?.into(),
                kind: text(1)?.into(),
            })
        };
        let columns = rows.iter().map(column).collect::<Result<Vec<_>, FeedError>>()?;
        let RealtimeTable { schema, table } = &self.table;
        let relation = Relation::new(schema.as_str(), table.as_str(), columns);
        // What was made with the columns that are still the same need not be made again.
        if self.hub.relation.load().as_deref() != Some(&relation) {
            self.hub.relation.store(Some(Arc::new(relation)));
        }
        Ok(Instant::now())
    }

    /// Tells the operator what would keep changes from being delivered although everything seems to run.
    fn warn(&self, row: &Row) -> Result<(), FeedError> {
        let database = self.settings.describe();
        if row.try_get("filtered").map_err(|_| FeedError::Bookkeeping)? {
            tracing::warn!(
                %database,
                "row-level security applies to the feed's role: messages that its policies hide are not delivered; \
                 connect as the role that `herald migrate --gateway-role` makes, or as the owner of public.messages"
            );
        }
        let unwatched: Option<&str> = row.try_get("unwatched").map_err(|_| FeedError::Bookkeeping)?;
        if let Some(tables) = unwatched {
            tracing::warn!(
                %database,
                tables,
                "changes that are written directly to these tables are not delivered: run `herald migrate` again"
            );
        }
        Ok(())
    }

    /// Goes on from the last snapshot if the database can still tell what came after it; begins anew otherwise.
    fn take_up(&mut self, greeting: &Greeting) {
        let broken = match &self.progress {
            None => None,
            Some(progress) if progress.epoch != greeting.epoch => Some("the log is another one than before"),
            Some(progress) if !greeting.now.covers(&progress.since) => {
                Some("the database has lost commits that were seen before")
            }
            Some(progress) if greeting.pruned.reaches(&progress.since) => {
                Some("the log was pruned past the last read")
            }
            Some(progress) => {
                // A crash may have taken commits that were told and never reached the disk.
                if greeting.now.life() != progress.since.life() {
                    self.hub.history.forget();
                }
                return;
            }
        };
        let batch = self
            .progress
            .as_ref()
            .map_or_else(BatchNumber::default, |progress| progress.batch.next());
        let since = Arc::clone(&greeting.now);
        let position = Position {
            epoch: greeting.epoch.clone(),
            batch,
            snapshot: Arc::clone(&since),
        };
        let position = Arc::new(position);
        self.hub.history.begin(&position);
        self.hub.position.publish(Arc::clone(&position));
        self.progress = Some(Progress {
            epoch: greeting.epoch.clone(),
            batch,
            since,
            begun: None,
        });
        if let Some(reason) = broken {
            tracing::error!(
                reason,
                "continuity cannot be proved: every session is closed and judged by its cursor"
            );
            self.metrics.feed_discontinuities.inc();
            for outbox in self.hub.registry.outboxes() {
                outbox.close(CloseCode::GoingAway);
            }
        }
        // Only now: a session that is not closed yet must not take the new position for one that it has reached.
        self.hub.position.settle(position);
    }

    /// Reads one batch and hands it over, chunk by chunk. Answers how many events it held.
    async fn read(
        &mut self,
        link: &mut Link,
        reader: &Reader,
        patience: Duration,
    ) -> Result<usize, FeedError> {
        let Some(progress) = &mut self.progress else {
            return Err(FeedError::Bookkeeping);
        };
        let asked = Instant::now();
        self.metrics.feed_reads.inc();
        let (client, wire) = link.split();
        let mut batch = reader.begin(client, wire, &progress.span(), patience).await?;
        let snapshot = Arc::clone(&batch.snapshot);
        let mut events = 0;
        loop {
            let chunk = batch.next_chunk().await?;
            events += chunk.events.len();
            let is_last = chunk.is_last;
            self.metrics.events_vanished.inc_by(chunk.vanished);
            progress
                .hand_over(&self.fanout, &self.hub.history, &snapshot, chunk)
                .await;
            self.progressing.note_step();
            if is_last {
                break;
            }
            // Sessions get a turn between the chunks of a large batch, so that those who read keep up with it.
            tokio::task::yield_now().await;
        }
        if events > 0 {
            self.metrics.batches.inc();
            self.metrics
                .batch_size
                .observe(f64::from(u32::try_from(events).unwrap_or(u32::MAX)));
            observe(&self.metrics.enrich_duration, asked.elapsed());
        }
        Ok(events)
    }

    fn judge(&self, error: &FeedError) -> Failure {
        match error {
            FeedError::Link(link) | FeedError::Read(ReadError::Link(link)) => match link {
                LinkError::Connect(error) => Failure::of_connect(error, &self.settings),
                LinkError::Postgres(error) => Failure::of(error, &self.settings),
                LinkError::Closed | LinkError::Deadline(_) => Failure::Retryable(error.to_string()),
            },
            FeedError::Read(ReadError::LogReplaced | ReadError::Pruned) => {
                Failure::Retryable(error.to_string())
            }
            FeedError::Version { .. }
            | FeedError::Bookkeeping
            | FeedError::Read(ReadError::Row(_) | ReadError::NoSnapshot) => Failure::Fatal(error.to_string()),
        }
    }
}

impl Progress {
    fn span(&self) -> Span {
        Span {
            since: Arc::clone(&self.since),
            handed: self.begun.as_ref().map(|begun| begun.handed.clone()),
        }
    }

    /// Hands over a chunk of the batch that ends at `until`, publishing the batch with its first chunk.
    ///
    /// # Cancel safety
    /// Not safe, as [`Fanout::hand_over`] is not.
    async fn hand_over(&mut self, fanout: &Fanout, history: &History, until: &Arc<Snapshot>, chunk: Chunk) {
        let begun = self.begun.take();
        let nothing_new = begun.is_none() && chunk.last_seq.is_none();
        if nothing_new && *until == self.since {
            return;
        }
        let events: Arc<[Event]> = chunk.events.into();
        history.add(Arc::clone(&events));
        if begun.is_none() {
            self.batch = self.batch.next();
        }
        let position = Position {
            epoch: self.epoch.clone(),
            batch: self.batch,
            snapshot: Arc::clone(until),
        };
        if chunk.is_last {
            history.finish(&position);
        }
        let (mut outgoing, before) = match begun {
            Some(begun) => (begun.outgoing, Some(begun.handed.seq)),
            None => (fanout.publish(position), None),
        };
        let now = Instant::now();
        let committed = now.checked_sub(chunk.oldest_age).unwrap_or(now);
        fanout
            .hand_over(&mut outgoing, &events, committed, chunk.is_last)
            .await;
        if chunk.is_last {
            self.since = Arc::clone(until);
        } else {
            let seq = chunk.last_seq.max(before).unwrap_or_default();
            self.begun = Some(Begun {
                outgoing,
                handed: Handed {
                    until: Arc::clone(until),
                    seq,
                },
            });
        }
    }
}

/// The columns of the view in order, each with the name of its type.
const COLUMNS: &str = "select attname::text, typname::text \
     from pg_catalog.pg_attribute join pg_catalog.pg_type on pg_type.oid = atttypid \
     where attrelid = 'public.messages_realtime_view'::pg_catalog.regclass and attnum > 0 and not attisdropped \
     order by attnum";

/// What a new connection has to know before it reads.
const GREETING: &str = "select herald.epoch() as epoch, state.schema_version, state.pruned_before::text, state.pruned_life, \
       pg_catalog.pg_current_snapshot()::text as now, herald.current_life() as life, \
       'herald.log'::pg_catalog.regclass::oid as log, \
       pg_catalog.current_setting('track_commit_timestamp') = 'on' as commit_times, \
       pg_catalog.row_security_active('public.messages') and (\
         not exists (select from pg_catalog.pg_policy \
           where polrelid = 'public.messages'::pg_catalog.regclass and polname = 'herald_gateway' \
             and polroles @> array[(select oid from pg_catalog.pg_roles where rolname = current_user)]) \
         or exists (select from pg_catalog.pg_policy, pg_catalog.unnest(polroles) as role \
           where polrelid = 'public.messages'::pg_catalog.regclass and polcmd in ('*', 'r') and not polpermissive \
             and (role = 0 or pg_catalog.pg_has_role(role, 'usage')))) as filtered, \
       (select pg_catalog.string_agg(relation::text, ', ') from herald.unwatched() as relation) as unwatched \
     from herald.state";

impl Greeting {
    fn read(row: &Row) -> Result<Self, FeedError> {
        let text = |name| row.try_get::<_, &str>(name).map_err(|_| FeedError::Bookkeeping);
        let found: i32 = row
            .try_get("schema_version")
            .map_err(|_| FeedError::Bookkeeping)?;
        if found != SCHEMA_VERSION {
            return Err(FeedError::Version { found });
        }
        let number: i64 = row.try_get("life").map_err(|_| FeedError::Bookkeeping)?;
        let life = life(number).map_err(|_| FeedError::Bookkeeping)?;
        let now = Snapshot::read(life, text("now")?).map_err(|_| FeedError::Bookkeeping)?;
        Ok(Self {
            epoch: Epoch::new(text("epoch")?).map_err(|_| FeedError::Bookkeeping)?,
            pruned: Pruned::read(row).map_err(|_| FeedError::Bookkeeping)?,
            now: Arc::new(now),
            log: row.try_get("log").map_err(|_| FeedError::Bookkeeping)?,
            commit_times: row.try_get("commit_times").map_err(|_| FeedError::Bookkeeping)?,
        })
    }
}
