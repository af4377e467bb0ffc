-- Taking Herald out again: what it installed goes, what it found stays.

-- The caller holds an exclusive lock on public.messages; see unlink.sql.
create or replace function herald.remove_triggers() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
begin
  for entry in
    select tgname, tgrelid::regclass as relation
      from pg_trigger join pg_proc on pg_proc.oid = tgfoid
     where pronamespace = 'herald'::regnamespace
     order by tgrelid, pg_trigger.oid
  loop
    execute format('drop trigger %I on %s', entry.tgname, entry.relation);
    return query select 'removed', format('trigger %s on %s', entry.tgname, entry.relation), null;
  end loop;
end
$herald$;

create or replace function herald.remove_functions() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
begin
  for entry in
    select name, origin from herald.installed where kind = 'function' and to_regprocedure(name) is not null order by name
  loop
    if entry.origin = 'installed' then
      -- Without CASCADE, as with the view.
      execute format('drop routine %s', entry.name);
      return query select 'removed', 'function ' || entry.name, null;
    else
      return query select 'kept', 'function ' || entry.name, 'it was there before Herald';
    end if;
  end loop;
end
$herald$;

create or replace function herald.remove_view() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
begin
  if to_regclass('public.messages_realtime_view') is null then
    return;
  end if;
  if exists (select from herald.installed where kind = 'view' and origin = 'installed') then
    -- Without CASCADE: what the application has built on the view is not Herald's to drop.
    drop view public.messages_realtime_view;
    return query select 'removed', 'view public.messages_realtime_view', null;
  else
    return query select 'kept', 'view public.messages_realtime_view', 'it was there before Herald';
  end if;
end
$herald$;

-- Statements like those of herald.index_statements(), the other way round.
create or replace function herald.index_removal_statements() returns table (statement text, brief boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select removal.statement, removal.brief from herald.own_indexes() as own cross join herald.index_removal(own.index) as removal
$herald$;
