-- The name of this very log: 16 hexadecimal digits that differ as soon as a cursor taken elsewhere could not be trusted
-- here. Herald reinstalled: another state.epoch and another table. Restored from a dump: another cluster. Copied within
-- a cluster: another database. Promoted from a standby: another timeline, whose last commits may be missing.
create or replace function herald.epoch() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select encode(substr(sha256(convert_to(concat_ws('/',
           state.epoch,
           (select system_identifier from pg_control_system()),
           left(pg_walfile_name(pg_current_wal_lsn()), 8),
           (select oid from pg_database where datname = current_database()),
           'herald.log'::regclass::oid
         ), 'UTF8')), 1, 8), 'hex')
    from herald.state
$herald$;

-- Empties a log that came with a dump. Its transaction numbers belong to another cluster: some lie in this cluster's
-- future, and readers would take them for news again and again.
create or replace function herald.forget_foreign_log() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  horizon xid8 := pg_snapshot_xmax(pg_current_snapshot());
begin
  if exists (select from herald.log where xid >= horizon)
     or exists (select from herald.mark where pg_snapshot_xmin(snapshot) > horizon)
     or exists (select from herald.state where pruned_before > horizon)
     or exists (select from herald.life where is_called and last_value > horizon::text::bigint) then
    delete from herald.log;
    delete from herald.mark;
    -- Their cursors are of another epoch, so that nothing would be replayed from them either way.
    delete from herald.channel;
    delete from herald.gateway;
    update herald.state set epoch = gen_random_uuid(), pruned_before = '0', pruned_life = 0;
    perform setval('herald.life', 1, false);
    return query select 'removed', 'rows of herald.log', 'they came with a dump of another cluster';
  end if;
end
$herald$;
