-- Version 3: where the channels of clients that know no cursor stand, so that one that comes back is told what it
-- missed, also by another gateway and after a gateway was killed. Both tables are logged, because they have to outlive a
-- crash of Postgres as the log does. They hold cursors and no content.

-- One row for each run of a gateway, written anew every second. Everything up to its cursor had reached every live
-- channel of that run that has no cursor of its own. So one small write speaks for tens of thousands of channels.
create table if not exists herald.gateway (
  id uuid primary key,
  cursor text not null,
  seen_at timestamptz not null
);

-- No index knows the columns that change. With room on its page each new version of a row stays there, and the dead ones
-- are tidied away by whoever reads the page next, without vacuum.
alter table herald.gateway set (fillfactor = 20);

-- One row for each channel that is live, or that went without being left.
--   session, number  names the channel
--   gateway          the run of a gateway that it is or was live at
--   device           tells one of the user's devices from another, as far as anything does; may be empty
--   reference        the highest message reference that was seen from the client; null if it sent none
--   cursor           what had reached the client; null while it is live and has all that the gateway's row says
--   parked_at        when it went; null while it is live
--   taken_by         the session that was told what this channel had missed; null if there was none yet
create table if not exists herald.channel (
  session uuid,
  number bigint,
  gateway uuid not null,
  user_id uuid not null,
  topic text not null,
  device text not null,
  reference bigint,
  cursor text,
  parked_at timestamptz,
  taken_by uuid,
  primary key (session, number),
  check (parked_at is null or cursor is not null)
);
create index if not exists channel_user_id_topic_idx on herald.channel (user_id, topic);
-- The few live channels that were behind when their gateway last looked.
create index if not exists channel_gateway_idx on herald.channel (gateway) where parked_at is null and cursor is not null;

-- A row is updated once or twice, and being taken changes no column of an index.
alter table herald.channel set (fillfactor = 80);

revoke all on herald.gateway, herald.channel from public;
