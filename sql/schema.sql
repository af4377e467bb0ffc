-- The schema herald and its tables. Everything that Herald keeps is in here; nobody else needs a right in it.

create schema if not exists herald;
revoke all on schema herald from public;

-- What changed in public.messages: one row per message that a statement inserted, updated or deleted. It names the
-- message and its two people and holds no content; readers join it with public.messages_realtime_view.
--
-- life tells apart transactions that had the same number before and after a crash; see life.sql.
-- xid leads the primary key because readers ask for the rows of transactions their snapshot has not seen. seq is drawn
-- while the statement runs, so it follows cause and effect: who answers a message he has read draws a greater one.
create table if not exists herald.log (
  life bigint not null,
  xid xid8 not null default pg_current_xact_id(),
  seq bigint generated always as identity,
  op "char" not null check (op in ('i', 'u', 'd')),
  message_id uuid not null,
  sender_id uuid not null,
  receiver_id uuid not null,
  product_id uuid,
  logged_at timestamptz not null default clock_timestamp(),
  primary key (xid, seq)
);
create index if not exists log_receiver_id_xid_idx on herald.log (receiver_id, xid);
create index if not exists log_sender_id_xid_idx on herald.log (sender_id, xid);

-- Rows are appended, never updated, and leave from the oldest end in small batches. Pages are therefore filled to the
-- brim, and vacuum goes by fixed numbers of rows instead of a share of the table: the freed pages are soon used again,
-- and new ones are soon marked all-visible.
alter table herald.log set (
  fillfactor = 100,
  autovacuum_vacuum_scale_factor = 0,
  autovacuum_vacuum_threshold = 20000,
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 100000,
  autovacuum_analyze_scale_factor = 0,
  autovacuum_analyze_threshold = 100000
);

-- Snapshots that the gateway takes now and then. They turn an age into a transaction: rows with an xid below the xmin
-- of a mark were committed before that mark was taken, so retention may delete them once the mark is old enough.
create table if not exists herald.mark (
  taken_at timestamptz primary key default clock_timestamp(),
  life bigint not null,
  snapshot pg_snapshot not null
);

-- One row about the installation as a whole.
--   epoch           drawn anew whenever the log starts over; see herald.epoch()
--   pruned_before   every row of the log with a lower xid may be gone
--   pruned_life     the life of the snapshot that pruned_before was taken from
--   schema_version  which version of these tables and functions is installed
create table if not exists herald.state (
  singleton boolean primary key default true check (singleton),
  epoch uuid not null default gen_random_uuid(),
  pruned_before xid8 not null default '0',
  pruned_life bigint not null default 0,
  schema_version integer not null
);
insert into herald.state (schema_version) values (1) on conflict do nothing;

-- Which objects in the application's schema Herald made ('installed') and which it met there ('found'). Uninstalling
-- removes the first kind and leaves the second.
create table if not exists herald.installed (
  kind text not null check (kind in ('view', 'index')),
  name text not null,
  origin text not null check (origin in ('installed', 'found')),
  primary key (kind, name)
);

revoke all on all tables in schema herald from public;
revoke all on all sequences in schema herald from public;
