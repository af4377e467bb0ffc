-- The least role that a gateway can work as, grant by grant. README.md lists the same.

-- The columns that a view reads, through views that run with their reader's rights as far as the reader needs the right itself.
create or replace function herald.columns_read_by_view() returns table (relation regclass, attribute name)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  with recursive read (reader, relation, number) as (
    select null::oid, to_regclass('public.messages_realtime_view')::oid, null::integer
    union
    select read.relation, dependency.refobjid, dependency.refobjsubid
      from read
      join pg_class as reader on reader.oid = read.relation and reader.relkind = 'v'
       and exists (select from pg_options_to_table(reader.reloptions) where option_name = 'security_invoker' and option_value::boolean)
      join pg_rewrite on pg_rewrite.ev_class = reader.oid
      join pg_depend as dependency
        on dependency.classid = 'pg_rewrite'::regclass and dependency.objid = pg_rewrite.oid
       and dependency.refclassid = 'pg_class'::regclass and dependency.refobjid <> reader.oid
  )
  select read.relation::regclass, pg_attribute.attname
    from read join pg_attribute on attrelid = read.relation and attnum = read.number
   where read.number > 0
$herald$;

-- What the role is granted, and whether it has it. `object` is as a statement names it.
create or replace function herald.gateway_grants(gateway name, of_users name)
returns table (privilege text, object text, is_granted boolean)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select 'usage', format('schema %I', namespace), has_schema_privilege(gateway, namespace, 'usage')
    from unnest(array['herald', 'public']) as namespace
  union all
  -- To read the log, to continue from it, and to remove what is older than the retention.
  select privilege, 'herald.' || relation, has_table_privilege(gateway, 'herald.' || relation, privilege)
    from (values ('log', 'select'), ('log', 'delete'),
                 ('mark', 'select'), ('mark', 'insert'), ('mark', 'delete'),
                 ('state', 'select'), ('installed', 'select'),
                 -- Where the channels of Supabase's clients stand.
                 ('gateway', 'select'), ('gateway', 'insert'), ('gateway', 'update'), ('gateway', 'delete'),
                 ('channel', 'select'), ('channel', 'insert'), ('channel', 'update'), ('channel', 'delete'))
      as granted (relation, privilege)
  union all
  select format('update (%s)', attribute), 'herald.state', has_column_privilege(gateway, 'herald.state', attribute, 'update')
    from unnest(array['pruned_before', 'pruned_life']) as attribute
  union all
  select 'execute', 'function herald.' || function, has_function_privilege(gateway, 'herald.' || function, 'execute')
    from unnest(array['epoch()', 'current_life()', 'unwatched()', 'triggers()', 'message_tables()', 'guarded_row(uuid)',
                      'is_known(uuid, uuid)', 'send(uuid, uuid, uuid, uuid, text, text, text)']) as function
  union all
  -- To read each message as everybody is shown it.
  select 'select', 'public.messages_realtime_view', has_table_privilege(gateway, 'public.messages_realtime_view', 'select')
  union all
  select format('select (%I)', attribute), relation::text, has_column_privilege(gateway, relation, attribute, 'select')
    from (select relation, attribute from herald.columns_read_by_view()
          union
          -- To find out whether an id has been used, by whom, and whether there is such a person or product.
          select to_regclass('public.' || known.relation), known.attribute
            from (values ('messages', 'id'), ('messages', 'sender_id'), ('messages', 'receiver_id'), ('messages', 'product_id'),
                         ('profiles', 'id'), ('products', 'id')) as known (relation, attribute)
           where to_regclass('public.' || known.relation) is not null) as needed
   where relation <> to_regclass('public.messages_realtime_view')
  union all
  -- Where users have no role of their own, their calls are made as this one, and what the caller may see is up to Herald's conditions.
  select privilege, 'public.messages', has_table_privilege(gateway, 'public.messages', privilege)
    from unnest(array['select', 'insert']) as privilege
   where of_users = ''
  union all
  select 'update (is_read)', 'public.messages', has_column_privilege(gateway, 'public.messages', 'is_read', 'update')
   where of_users = ''
  union all
  select 'execute', 'function ' || name, has_function_privilege(gateway, name, 'execute')
    from herald.installed
   where of_users = '' and kind = 'function' and to_regprocedure(name) is not null
  union all
  -- To take on the role of the user who calls. The role does not inherit, so that it has that role's rights in such a call only.
  select null, quote_ident(of_users), pg_has_role(gateway, of_users, 'member')
   where exists (select from pg_roles where rolname = of_users)
$herald$;

-- Makes the role if it is not there, and grants what is missing. Row-level security would hide messages from it: each table on which it is
-- enabled gets a policy that lets this role read. Where users have no role of their own it lets this one write, too.
create or replace function herald.install_gateway_role(gateway name, of_users name)
returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
  role_id oid;
  commands "char" := case when of_users = '' then '*' else 'r' end;
begin
  if not exists (select from pg_roles where rolname = gateway) then
    execute format('create role %I login noinherit', gateway);
    execute format('comment on role %I is %L', gateway, 'made by herald migrate');
    return query select 'installed', format('role %I', gateway),
      format('it has no password yet; psql sets one: \password %I', gateway);
  end if;
  select oid, rolsuper, rolinherit, rolbypassrls into entry from pg_roles where rolname = gateway;
  role_id := entry.oid;
  if entry.rolsuper then
    return query select 'warning', format('role %I', gateway), 'it is a superuser, who may do everything; name another one for the gateway';
    return;
  elsif entry.rolinherit and of_users <> '' then
    return query select 'warning', format('role %I', gateway), format(
      'it has the rights of %I at all times, and not only in calls of its users: alter role %I noinherit', of_users, gateway);
  end if;

  for entry in select * from herald.gateway_grants(gateway, of_users) as needed where not needed.is_granted loop
    execute case when entry.privilege is null
      then format('grant %s to %I', entry.object, gateway)
      else format('grant %s on %s to %I', entry.privilege, entry.object, gateway) end;
    return query select 'installed', format('%s for role %I', coalesce(entry.privilege || ' on ', 'membership in ') || entry.object, gateway), null;
  end loop;
  if of_users <> '' and not exists (select from pg_roles where rolname = of_users) then
    return query select 'warning', format('role %I', of_users),
      'there is no such role, so the gateway cannot take it on for users who call the HTTP API: create it, or name the right one, and run this again';
  end if;

  if (select rolbypassrls from pg_roles where oid = role_id) then
    return;
  end if;
  for entry in
    select needed.relation, roles, coalesce(role_id = any (polroles) and polcmd in ('*', commands), false) as has_it
      from (select read.relation from herald.columns_read_by_view() as read
            union
            select to_regclass('public.messages')) as needed (relation)
      join pg_class on pg_class.oid = needed.relation and relrowsecurity
      left join pg_policy on polrelid = needed.relation and polname = 'herald_gateway'
     cross join lateral (
       -- Those of other gateways stay in it.
       select string_agg(quote_ident(rolname), ', ' order by rolname)
         from pg_roles where pg_roles.oid = role_id or pg_roles.oid = any (polroles)) as policy (roles)
     order by needed.relation
  loop
    continue when entry.has_it;
    execute format('drop policy if exists herald_gateway on %s', entry.relation);
    execute format('create policy herald_gateway on %s for %s to %s using (true)',
      entry.relation, case when commands = '*' then 'all' else 'select' end, entry.roles);
    return query select 'installed', format('policy herald_gateway on %s for role %I', entry.relation, gateway), null;
  end loop;
end
$herald$;

-- Takes back what is in the application's tables, and the role if Herald made it and nothing else depends on it.
create or replace function herald.remove_gateway_roles() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
  object regclass;
  function text;
begin
  for entry in
    select polrelid::regclass as relation from pg_policy where polname = 'herald_gateway' order by polrelid
  loop
    execute format('drop policy herald_gateway on %s', entry.relation);
    return query select 'removed', format('policy herald_gateway on %s', entry.relation), null;
  end loop;
  for entry in
    select distinct rolname
      from pg_class, aclexplode(relacl) as acl join pg_roles on pg_roles.oid = acl.grantee
     where pg_class.oid = to_regclass('herald.log') and acl.grantee <> relowner
  loop
    for object in
      select distinct pg_class.oid::regclass
        from pg_class
        left join pg_attribute on attrelid = pg_class.oid and attnum > 0
       cross join lateral (
         select grantee from aclexplode(relacl) union all select grantee from aclexplode(attacl)) as acl
       where acl.grantee = (select oid from pg_roles where rolname = entry.rolname)
         and relnamespace <> 'herald'::regnamespace
         and (pg_class.oid = to_regclass('public.messages_realtime_view') or pg_class.oid = to_regclass('public.messages')
              or pg_class.oid = to_regclass('public.profiles') or pg_class.oid = to_regclass('public.products')
              or pg_class.oid in (select read.relation from herald.columns_read_by_view() as read))
    loop
      -- The rights on the columns go with those on the table.
      execute format('revoke all on %s from %I', object, entry.rolname);
      return query select 'removed', format('rights on %s of role %I', object, entry.rolname), null;
    end loop;
    for function in
      select name from herald.installed
       where kind = 'function' and exists (
         select from pg_proc, aclexplode(proacl) as acl join pg_roles on pg_roles.oid = acl.grantee
          where pg_proc.oid = to_regprocedure(name) and rolname = entry.rolname)
       order by name
    loop
      execute format('revoke all on function %s from %I', function, entry.rolname);
      return query select 'removed', format('rights on function %s of role %I', function, entry.rolname), null;
    end loop;
    return query select 'kept', format('role %I', entry.rolname), format('drop role %I, if nothing else needs it', entry.rolname);
  end loop;
end
$herald$;
