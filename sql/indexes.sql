-- The indexes on public.messages that Herald's queries need, none of them without a use:
--   idx_messages_conversation_lookup  the messages of one conversation newest first, one direction at a time, and what
--                                     somebody has sent in the list of conversations
--   idx_messages_user_product_time    what somebody has received in the list of conversations
--   idx_messages_unread               counting a conversation's unread messages and marking them as read, whatever the
--                                     number of those that have been read
-- With sender or receiver leading, one person's conversations lie side by side; with id last, equal times have an order.
--
-- They are built concurrently, which cannot be done inside a function or a transaction. So these functions answer with
-- statements to be run one by one, each on its own; what is not `brief` may take long and blocks no writer, what is
-- `brief` changes the catalog only but takes a lock that writers would queue behind, so it wants a short lock_timeout.

-- Postgres does not replace a function by one whose parameters or columns have other names.
drop function if exists herald.indexes();
drop function if exists herald.plain_index_statements(regclass, text, text);
drop function if exists herald.partition_index_statements(regclass, text, name, text);

create function herald.indexes() returns table (name name, definition text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $herald$
  values ('idx_messages_conversation_lookup'::name, '(sender_id, receiver_id, product_id, created_at desc, id desc)'),
         ('idx_messages_user_product_time', '(receiver_id, sender_id, product_id, created_at desc, id desc)'),
         ('idx_messages_unread', '(receiver_id, sender_id, product_id) where not is_read')
$herald$;

-- Whether an index can do what one of a definition above does: the same columns in the same order, perhaps more after
-- them, and the same condition. That is read off the catalog, so that it does not depend on how Postgres spells it.
create or replace function herald.index_serves(index regclass, definition text) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select relam = (select oid from pg_am where amname = 'btree')
     and columns[1:cardinality(wanted)] = wanted
     and case when definition like '%) where not is_read'
           then coalesce(pg_get_expr(indpred, indrelid), '') ~* '^\(not \(?is_read\)?(::\w+)?\)$'
           else indpred is null
         end
    from pg_index join pg_class on pg_class.oid = indexrelid
   cross join string_to_array(btrim(split_part(definition, ')', 1), '('), ', ') as wanted
   cross join lateral (
         -- The bits of an option: descending, nulls first. Both together or none is what Postgres does unasked.
         select array_agg(attname || case option when 0 then '' when 3 then ' desc' else ' with nulls elsewhere' end order by place)
           from unnest(indkey::int2[], indoption::int2[]) with ordinality as key (attribute, option, place)
           left join pg_attribute on attrelid = indrelid and attnum = attribute and attribute > 0
          where place <= indnkeyatts) as key (columns)
   where indexrelid = index
$herald$;

-- Notes which of them Herald is about to build and which the application has. It is noted before the build, so that
-- the leftover of an interrupted build is known as Herald's.
create or replace function herald.install_indexes() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
begin
  for entry in
    select format('public.%I', name) as name, definition, to_regclass(format('public.%I', name)) as existing from herald.indexes()
  loop
    if entry.existing is null then
      insert into herald.installed values ('index', entry.name, 'installed')
        on conflict (kind, name) do update set origin = excluded.origin where installed.origin <> excluded.origin;
      continue;
    end if;
    insert into herald.installed values ('index', entry.name, 'found') on conflict do nothing;
    if found then
      return query select 'found', 'index ' || entry.name, case
            when indisvalid then 'it stays as it is'
            when herald.index_serves(indexrelid, entry.definition) then 'it is not valid, so its build is done again or finished'
            else 'it is not valid, and stays as it is'
          end
        from pg_index where indexrelid = entry.existing;
    end if;
    -- Said every time: a definition may have sufficed for an earlier version of Herald, as the one did that the
    -- application's plan names, (sender_id, receiver_id, product_id, created_at desc).
    if not herald.index_serves(entry.existing, entry.definition) then
      return query
        select 'warning', 'index ' || entry.name, format(
                 'it is the application''s and not what Herald needs to list conversations without reading all their messages. '
                 'Herald''s is %s, this is: %s. To have Herald''s: drop index %s%s, then run herald migrate again',
                 entry.definition, pg_get_indexdef(oid), case relkind when 'i' then 'concurrently ' end, entry.name)
          from pg_class
          join herald.installed on installed.kind = 'index' and installed.name = entry.name and installed.origin = 'found'
         where oid = entry.existing;
    end if;
  end loop;
end
$herald$;

-- The indexes that Herald made, and what an interrupted build left on a partition and never attached; `entry` is the name
-- in herald.installed.
create or replace function herald.own_indexes() returns table (entry text, index regclass)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select installed.name, index
    from herald.installed cross join to_regclass(installed.name) as index
   where installed.kind = 'index' and installed.origin = 'installed' and index is not null
  union all
  select installed.name, indexrelid::regclass
    from herald.installed
    join herald.message_tables() as message_table on true
    join pg_index on indrelid = message_table
    join pg_class on pg_class.oid = indexrelid and not pg_class.relispartition
   where installed.kind = 'index' and installed.origin = 'installed'
     and installed.name = format('public.%I', regexp_replace(relname, '_[0-9]+$', '')) and relname ~ '_[0-9]+$'
$herald$;

create or replace function herald.index_removal(index regclass) returns table (statement text, brief boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select format(case relkind when 'I' then 'drop index %s' else 'drop index concurrently %s' end, index), relkind = 'I'
    from pg_class where oid = index
$herald$;

-- The indexes that Herald made by an older definition; they go before those of this version are built. Dropping a
-- partitioned one, which cannot be done concurrently, takes the attached ones along.
create or replace function herald.outdated_index_statements() returns table (statement text, brief boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select removal.statement, removal.brief
    from herald.own_indexes() as own
    join herald.indexes() as wanted on own.entry = format('public.%I', wanted.name)
   cross join herald.index_removal(own.index) as removal
   where not herald.index_serves(own.index, wanted.definition)
$herald$;

-- What it takes to have a valid index below one of a partitioned table: built concurrently partition by partition and
-- attached, because a partitioned index cannot be built concurrently as a whole.
create function herald.partition_index_statements(parent regclass, parent_index text, name name, definition text)
returns table (statement text, brief boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $herald$
declare
  child record;
begin
  for child in
    select relation.oid::regclass as relation, relation.relkind, attached.index as attached,
           made.name as name, to_regclass(made.name) as existing
      from pg_inherits
      join pg_class as relation on relation.oid = inhrelid
      -- The name holds the partition's oid, so that it is unique and short enough whatever the partition is called.
      cross join lateral (
        select format('%I.%I', relation.relnamespace::regnamespace, format('%s_%s', $3, relation.oid)) as name) as made
      left join lateral (
        select index_tree.inhrelid::regclass as index
          from pg_inherits as index_tree join pg_index on indexrelid = index_tree.inhrelid
         where index_tree.inhparent = to_regclass($2) and indrelid = relation.oid) as attached on true
     where inhparent = $1 and relation.relkind in ('r', 'p')
     order by relation.oid
  loop
    if child.relkind = 'p' then
      if child.attached is null and child.existing is null then
        return query select format('create index %I on only %s %s',
          format('%s_%s', $3, child.relation::oid), child.relation, $4), true;
      end if;
      return query select * from herald.partition_index_statements(
        child.relation, coalesce(child.attached::text, child.name), $3, $4);
    elsif child.attached is null then
      return query select * from herald.plain_index_statements(child.relation, child.name, $4);
    end if;
    if child.attached is null then
      return query select format('alter index %s attach partition %s', $2, child.name), true;
    end if;
  end loop;
end
$herald$;

-- What it takes to have a valid index on a table without partitions. An invalid one is what an interrupted build left;
-- it costs every writer and serves nobody.
create function herald.plain_index_statements(relation regclass, index_name text, definition text)
returns table (statement text, brief boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $herald$
declare
  existing regclass := to_regclass(index_name);
  builder integer := (select pid from pg_stat_progress_create_index where index_relid = existing limit 1);
begin
  if builder is not null then
    raise exception using
      errcode = 'HR002',
      message = format('index %s is being built by the process %s; run this again when it has finished', index_name, builder);
  end if;
  if exists (select from pg_index where indexrelid = existing and indisvalid) then
    return;
  end if;
  if existing is not null then
    return query select format('drop index concurrently %s', existing), false;
  end if;
  return query select format('create index concurrently %I on %s %s',
    (parse_ident(index_name))[2], relation, definition), false;
end
$herald$;

-- All that is left to do, in order; nothing once all indexes are valid.
create or replace function herald.index_statements() returns table (statement text, brief boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $herald$
declare
  partitioned boolean := (select relkind = 'p' from pg_class where oid = 'public.messages'::regclass);
  wanted record;
begin
  for wanted in select name, format('public.%I', name) as full_name, definition from herald.indexes() loop
    -- One of another definition is the application's; see herald.outdated_index_statements() for Herald's own.
    continue when not herald.index_serves(to_regclass(wanted.full_name), wanted.definition);
    if not partitioned then
      return query select * from herald.plain_index_statements('public.messages', wanted.full_name, wanted.definition);
      continue;
    end if;
    if exists (select from pg_index where indexrelid = to_regclass(wanted.full_name) and indisvalid) then
      continue;
    end if;
    if to_regclass(wanted.full_name) is null then
      return query select format('create index %I on only public.messages %s', wanted.name, wanted.definition), true;
    end if;
    return query select * from herald.partition_index_statements(
      'public.messages', wanted.full_name, wanted.name, wanted.definition);
  end loop;
end
$herald$;
