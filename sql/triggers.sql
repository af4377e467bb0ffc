-- The triggers that write herald.log, and the functions that put them where they are missing.
--
-- They run once per statement and read its rows from transition tables. SECURITY DEFINER lets the application's roles
-- write messages without any right in herald; the fixed search_path keeps them from slipping in names of their own.
-- The doorbell (doorbell.sql) is not rung when nothing was logged.
--
-- Where a message lacks one of its two people (an application may set the column to null when an account is deleted)
-- it concerns the other one alone and is logged as that person's; a message without both concerns nobody.
--
-- Not seen: TRUNCATE, rows written while session_replication_role is 'replica', and rows that logical replication
-- applies, because Postgres fires no such triggers then.

create or replace function herald.log_insert() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $herald$
declare
  -- What current_life() finds, unless nobody has looked since a crash; calling it takes longer. Lives begin at 3.
  this_life bigint := pg_sequence_last_value('herald.life'::regclass);
begin
  if this_life is null or this_life < 3 then
    this_life := herald.current_life();
  end if;
  insert into herald.log (life, op, message_id, sender_id, receiver_id, product_id)
  select this_life, 'i', id, coalesce(sender_id, receiver_id), coalesce(receiver_id, sender_id), product_id
    from new_rows
   where coalesce(sender_id, receiver_id) is not null;
  if found and herald.needs_ring() then
    -- Empty, so that it cannot outgrow its limit; Postgres folds the rings of one transaction into one.
    perform pg_notify('herald', '');
  end if;
  return null;
end
$herald$;

create or replace function herald.log_delete() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $herald$
declare
  this_life constant bigint := herald.current_life();
begin
  insert into herald.log (life, op, message_id, sender_id, receiver_id, product_id)
  select this_life, 'd', id, coalesce(sender_id, receiver_id), coalesce(receiver_id, sender_id), product_id
    from old_rows
   where coalesce(sender_id, receiver_id) is not null;
  if found and herald.needs_ring() then
    -- Empty, so that it cannot outgrow its limit; Postgres folds the rings of one transaction into one.
    perform pg_notify('herald', '');
  end if;
  return null;
end
$herald$;

-- The columns of public.messages that public.messages_realtime_view reads, also through views below it. Postgres
-- notes them one by one, except where a view takes the row as a whole (:varattno 0) or asks a function for it; then it
-- is all columns.
create or replace function herald.watched_columns() returns name[]
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  with recursive reads (relation, attribute, whole_row) as (
    select to_regclass('public.messages_realtime_view')::oid, 0, false
    union
    select depend.refobjid, depend.refobjsubid, rewrite.ev_action::text like '%:varattno 0 %'
      from reads
      join pg_rewrite as rewrite on rewrite.ev_class = reads.relation
      join pg_depend as depend
        on depend.classid = 'pg_rewrite'::regclass and depend.objid = rewrite.oid
       and depend.refclassid = 'pg_class'::regclass and depend.refobjid <> reads.relation
  )
  select array_agg(attribute.attname order by attribute.attnum)
    from pg_attribute as attribute
   where attribute.attrelid = 'public.messages'::regclass and attribute.attnum > 0 and not attribute.attisdropped
     and (not exists (select from reads where reads.relation = attribute.attrelid)
          or exists (
            select from reads
             where reads.relation = attribute.attrelid and (reads.attribute = attribute.attnum or reads.whole_row)))
$herald$;

-- The body of herald.log_update(), made to measure: it compares what the view shows and nothing else. `*<>` compares
-- the stored bytes of two records, so it needs no equality operator of the columns' types.
--
-- A message whose id or people changed left one pair of people and reached another: a deletion, then an insertion.
create or replace function herald.log_update_body() returns text
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select format($template$
declare
  this_life constant bigint := herald.current_life();
begin
  insert into herald.log (life, op, message_id, sender_id, receiver_id, product_id)
  select this_life, change.op, change.message_id, change.sender_id, change.receiver_id, change.product_id
    from (select row_number() over () as place, id, product_id,
                 coalesce(sender_id, receiver_id) as sender_id, coalesce(receiver_id, sender_id) as receiver_id,
                 row(%1$s) as shown
            from old_rows) as old_row
    full join
         (select row_number() over () as place, id, product_id,
                 coalesce(sender_id, receiver_id) as sender_id, coalesce(receiver_id, sender_id) as receiver_id,
                 row(%1$s) as shown
            from new_rows) as new_row
      on new_row.id = old_row.id
   cross join lateral (
         select (old_row.id, old_row.sender_id, old_row.receiver_id)
                is distinct from (new_row.id, new_row.sender_id, new_row.receiver_id) as is_so) as moved
   cross join lateral (
         select 1 as step, 'd'::"char" as op,
                old_row.id as message_id, old_row.sender_id, old_row.receiver_id, old_row.product_id
          where moved.is_so and old_row.sender_id is not null
         union all
         select 2, case when moved.is_so then 'i' else 'u' end::"char",
                new_row.id, new_row.sender_id, new_row.receiver_id, new_row.product_id
          where (moved.is_so or old_row.shown *<> new_row.shown) and new_row.sender_id is not null) as change
   order by coalesce(new_row.place, old_row.place), change.step;
  if found and herald.needs_ring() then
    -- Empty, so that it cannot outgrow its limit; Postgres folds the rings of one transaction into one.
    perform pg_notify('herald', '');
  end if;
  return null;
end
$template$, string_agg(quote_ident(attribute), ', '))
    from unnest(herald.watched_columns()) as attribute
$herald$;

-- public.messages and every table below it: partitions of all levels, or children by inheritance.
create or replace function herald.message_tables() returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  with recursive tree (relation) as (
    select to_regclass('public.messages')::oid
    union
    select inhrelid from tree join pg_inherits on inhparent = tree.relation
  )
  select tree.relation::regclass
    from tree join pg_class on pg_class.oid = tree.relation
   where pg_class.relkind in ('r', 'p')
   order by tree.relation
$herald$;

-- Which trigger is where: one row for each that every table should have; enabled is null where it is missing.
create or replace function herald.triggers() returns table (relation regclass, name name, enabled boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select message_table, wanted, tgenabled in ('O', 'A')
    from herald.message_tables() as message_table
   cross join unnest(array['herald_insert', 'herald_update', 'herald_delete']::name[]) with ordinality as names (wanted, place)
    left join pg_trigger
      on tgrelid = message_table and tgname = wanted
     and tgfoid = to_regproc('herald.' || replace(wanted::text, 'herald_', 'log_'))
   order by message_table::oid, place
$herald$;

-- Tables whose rows can change without being logged when they are written directly: a partition attached since the last
-- migration, or a trigger that was disabled. Empty when all is well; `herald migrate` adds what is missing.
create or replace function herald.unwatched() returns setof regclass
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select relation from herald.triggers() group by relation having not bool_and(coalesce(enabled, false)) order by relation::oid
$herald$;

-- Puts the triggers where they are missing, also on partitions: a statement that names a partition fires that partition's
-- triggers only, and one that names the parent the parent's only, so nothing is logged twice. Takes them off tables that
-- are no longer partitions.
--
-- The caller holds the lock that creating triggers needs; see lock.sql.
create or replace function herald.install_triggers() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  body text := herald.log_update_body();
  entry record;
begin
  if body is distinct from (select prosrc from pg_proc where oid = to_regprocedure('herald.log_update()')) then
    execute format(
      'create or replace function herald.log_update() returns trigger language plpgsql security definer '
      'set search_path = pg_catalog, pg_temp as %L', body);
    revoke all on function herald.log_update() from public;
    return query select 'installed', 'function herald.log_update()',
      'watches ' || array_to_string(herald.watched_columns(), ', ');
  end if;

  for entry in select * from herald.triggers() where enabled is null loop
    execute format('create trigger %I after %s on %s referencing %s for each statement execute function herald.%I()',
      entry.name, replace(entry.name, 'herald_', ''), entry.relation,
      case entry.name
        when 'herald_insert' then 'new table as new_rows'
        when 'herald_delete' then 'old table as old_rows'
        else 'old table as old_rows new table as new_rows'
      end,
      replace(entry.name, 'herald_', 'log_'));
    return query select 'installed', format('trigger %s on %s', entry.name, entry.relation), null;
  end loop;

  for entry in
    select tgname, tgrelid::regclass as relation
      from pg_trigger join pg_proc on pg_proc.oid = tgfoid
     where pronamespace = 'herald'::regnamespace and tgrelid not in (select herald.message_tables())
  loop
    execute format('drop trigger %I on %s', entry.tgname, entry.relation);
    return query select 'removed', format('trigger %s on %s', entry.tgname, entry.relation), 'no longer a partition of public.messages';
  end loop;

  return query
    select 'warning', format('trigger %s on %s', name, relation), format(
             'it is disabled, so changes are not logged; enable it: alter table %s enable trigger %I', relation, name)
      from herald.triggers() where not enabled;
end
$herald$;
