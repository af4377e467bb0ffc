-- The two indexes on public.messages that reading a conversation and a list of conversations need.
--
-- They are built concurrently, which cannot be done inside a function or a transaction. So these functions answer with
-- statements to be run one by one, each on its own; what is not `brief` may take long and blocks no writer, what is
-- `brief` changes the catalog only but takes a lock that writers would queue behind, so it wants a short lock_timeout.

create or replace function herald.indexes() returns table (name name, key_columns text)
language sql immutable
set search_path = pg_catalog, pg_temp
as $herald$
  values ('idx_messages_conversation_lookup'::name, '(sender_id, receiver_id, product_id, created_at desc)'),
         ('idx_messages_user_product_time', '(receiver_id, product_id, created_at desc)')
$herald$;

-- Notes which of the two Herald is about to build and which the application has. It is noted before the build, so that
-- the leftover of an interrupted build is known as Herald's.
create or replace function herald.install_indexes() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
begin
  for entry in
    select format('public.%I', name) as name, key_columns, to_regclass(format('public.%I', name)) as existing from herald.indexes()
  loop
    if entry.existing is null then
      insert into herald.installed values ('index', entry.name, 'installed')
        on conflict (kind, name) do update set origin = excluded.origin where installed.origin <> excluded.origin;
      continue;
    end if;
    insert into herald.installed values ('index', entry.name, 'found') on conflict do nothing;
    if found then
      return query select 'found', 'index ' || entry.name, case when indisvalid then 'it stays as it is'
          else 'it is not valid, so its build is done again or finished' end
        from pg_index where indexrelid = entry.existing;
      if position(upper(entry.key_columns) in upper(pg_get_indexdef(entry.existing))) = 0 then
        return query select 'warning', 'index ' || entry.name,
          format('Herald''s queries expect %s, but it is: %s', entry.key_columns, pg_get_indexdef(entry.existing));
      end if;
    end if;
  end loop;
end
$herald$;

-- What it takes to have a valid index below one of a partitioned table: built concurrently partition by partition and
-- attached, because a partitioned index cannot be built concurrently as a whole.
create or replace function herald.partition_index_statements(parent regclass, parent_index text, name name, key_columns text)
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
create or replace function herald.plain_index_statements(relation regclass, index_name text, key_columns text)
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
    (parse_ident(index_name))[2], relation, key_columns), false;
end
$herald$;

-- All that is left to do, in order; nothing once both indexes are valid.
create or replace function herald.index_statements() returns table (statement text, brief boolean)
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $herald$
declare
  partitioned boolean := (select relkind = 'p' from pg_class where oid = 'public.messages'::regclass);
  wanted record;
begin
  for wanted in select name, format('public.%I', name) as full_name, key_columns from herald.indexes() loop
    if not partitioned then
      return query select * from herald.plain_index_statements('public.messages', wanted.full_name, wanted.key_columns);
      continue;
    end if;
    if exists (select from pg_index where indexrelid = to_regclass(wanted.full_name) and indisvalid) then
      continue;
    end if;
    if to_regclass(wanted.full_name) is null then
      return query select format('create index %I on only public.messages %s', wanted.name, wanted.key_columns), true;
    end if;
    return query select * from herald.partition_index_statements(
      'public.messages', wanted.full_name, wanted.name, wanted.key_columns);
  end loop;
end
$herald$;
