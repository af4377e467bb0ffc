-- The two functions in the schema public: the list of somebody's conversations, and marking one as read. Applications
-- call them by name, through PostgREST or in SQL; the names of parameters and columns are part of that contract.
--
-- They run with the rights of whoever calls them, so the application's grants and row-level security hold. Beyond that
-- nobody asks for another person: the caller is the claim `sub` of request.jwt.claims, or the setting
-- request.jwt.claim.sub that older PostgREST makes. auth.uid() is not needed; an application need not have it.
--
-- The one that writes sets no search_path: the application's triggers run inside, and find their names where they always do.

-- What each is made of. `privilege` is the one on public.messages whose holders may call it. A plan for any caller is as
-- good as one for this caller, and making it takes as long as running it.
create or replace function herald.public_functions()
returns table (signature text, parameters text, result text, volatility text, settings text[], privilege text, body text)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  values (
    'public.get_user_conversation_previews(uuid)', 'user_id uuid',
    'TABLE(conversation_id text, other_user_id uuid, other_username text, other_avatar text, product_id uuid, '
      || 'product_title text, last_message text, last_message_time timestamp with time zone, unread_count integer)',
    'stable', array['search_path=pg_catalog, pg_temp', 'jit=off', 'plan_cache_mode=force_generic_plan'], 'SELECT',
    $body$
#variable_conflict use_column
declare
  caller constant text := coalesce(
    nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', ''),
    nullif(current_setting('request.jwt.claim.sub', true), ''));
begin
  if $1 is null then
    raise exception using errcode = '42501', message = 'user_id is null: pass the id of the signed-in user';
  elsif caller is not null and lower(caller) <> $1::text then
    raise exception using errcode = '42501',
      message = 'conversations are shown to their own user only: pass the id of the signed-in user as user_id';
  elsif caller is null and not exists (
    select from pg_roles as role
      join pg_class as relation on relation.oid = to_regclass('public.messages')
     where role.rolname = current_user
       and (role.rolsuper or role.rolbypassrls or pg_has_role(relation.relowner, 'USAGE')))
  then
    raise exception using errcode = '42501',
      message = 'nobody is signed in: call this with a token whose claim sub is the user, so that request.jwt.claims is set';
  end if;
  return query
  select preview.conversation_id, preview.other_user_id, preview.other_username, preview.other_avatar, preview.product_id,
         preview.product_title, preview.last_message, preview.last_message_time, preview.unread_count
    from (
with recursive asked as (
  select $1 as me, null::timestamptz as top_time, null::uuid as top_id,
         null::timestamptz as before_time, null::uuid as before_id, null::bigint as page
)
$body$ || herald.previews_query() || $body$
) as preview
   order by preview.place_time desc, preview.place_id desc;
end
$body$),
  (
    'public.mark_messages_as_read(uuid,uuid)', 'p_sender_id uuid, p_product_id uuid', 'integer',
    'volatile', array['plan_cache_mode=force_generic_plan'], 'UPDATE',
    $body$
declare
  caller constant text := coalesce(
    nullif(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub', ''),
    nullif(current_setting('request.jwt.claim.sub', true), ''));
  reader uuid;
  marked integer;
begin
  if caller is null then
    raise exception using errcode = '42501',
      message = 'nobody is signed in, so there is nobody who has read anything: '
        'call this with a token whose claim sub is the user, so that request.jwt.claims is set';
  elsif caller !~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then
    raise exception using errcode = '42501',
      message = 'the claim sub is no uuid, so it is no user of public.messages: use the token of a user';
  end if;
  reader := caller;
  -- `is not distinct from` would say both at once, and no index serves it.
  if p_product_id is null then
    update public.messages as message set is_read = true
     where message.receiver_id = reader and message.sender_id = p_sender_id
       and message.product_id is null and not message.is_read;
  else
    update public.messages as message set is_read = true
     where message.receiver_id = reader and message.sender_id = p_sender_id
       and message.product_id = p_product_id and not message.is_read;
  end if;
  get diagnostics marked = row_count;
  return marked;
end
$body$)
$herald$;

-- Makes what is missing, replaces what is Herald's and not of this version, and leaves what the application has.
create or replace function herald.install_functions() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  entry record;
  existing regprocedure;
  fits boolean;
  grantee record;
begin
  for entry in select * from herald.public_functions() loop
    existing := to_regprocedure(entry.signature);
    -- With other columns or parameters' names Postgres would not replace it, and it cannot be Herald's.
    fits := (select pg_get_function_result(oid) is not distinct from entry.result
                    and pg_get_function_arguments(oid) = entry.parameters from pg_proc where oid = existing);

    if existing is not null and (not fits or not exists (
      select from herald.installed as known
       where known.kind = 'function' and known.name = entry.signature and known.origin = 'installed'))
    then
      insert into herald.installed values ('function', entry.signature, 'found')
        on conflict (kind, name) do update set origin = excluded.origin where installed.origin <> excluded.origin;
      if found then
        return query select 'found', 'function ' || entry.signature,
          format('it stays as it is; to have Herald''s instead: drop routine %s, then run herald migrate again', entry.signature);
        if not fits then
          return query select 'warning', 'function ' || entry.signature, format(
            'clients of Herald''s function expect the parameters (%s) and the result %s, but this has (%s) and %s',
            entry.parameters, entry.result, pg_get_function_arguments(existing),
            coalesce(pg_get_function_result(existing), 'none, being a procedure'));
        end if;
      end if;
      continue;
    end if;

    if exists (
      select from pg_proc
       where oid = existing and prosrc = entry.body and proconfig = entry.settings and not prosecdef)
    then
      continue;
    end if;

    execute format('create or replace function public.%I(%s) returns %s language plpgsql %s security invoker %s as %L',
      split_part(split_part(entry.signature, '(', 1), '.', 2), entry.parameters, entry.result, entry.volatility,
      (select string_agg(format('set %s = %s', split_part(single, '=', 1), split_part(single, '=', 2)), ' ' order by place)
         from unnest(entry.settings) with ordinality as settings (single, place)),
      entry.body);
    insert into herald.installed values ('function', entry.signature, 'installed')
      on conflict (kind, name) do update set origin = excluded.origin where installed.origin <> excluded.origin;
    return query select 'installed', 'function ' || entry.signature,
      case when existing is not null then 'in the place of another version' end;
    continue when existing is not null;

    -- Who may do the same to the table may call it; the rights on the table still decide what comes of it. A right on
    -- single columns counts: an application may let its users update is_read and nothing else.
    execute format('revoke all on function %s from public', entry.signature);
    for grantee in
      select distinct case held.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(held.grantee)) end as name
        from (select acl.grantee, acl.privilege_type
                from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as acl
               where pg_class.oid = 'public.messages'::regclass
              union
              select acl.grantee, acl.privilege_type
                from pg_attribute, aclexplode(attacl) as acl
               where attrelid = 'public.messages'::regclass) as held
       where held.privilege_type = entry.privilege
         and held.grantee <> (select oid from pg_roles where rolname = current_user)
       order by 1
    loop
      execute format('grant execute on function %s to %s', entry.signature, grantee.name);
      return query select 'installed', format('execute on function %s for %s', entry.signature, grantee.name), null;
    end loop;
  end loop;
end
$herald$;

-- The lists of conversations and messages are ordered by created_at, and a message without one has no place in them.
create or replace function herald.check_times() returns table (outcome text, subject text, note text)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select 'warning', 'column public.messages.created_at',
         'it may be null, and a message without a time is not listed; unless that is meant: '
         'alter table public.messages alter column created_at set not null'
    from pg_attribute
   where attrelid = 'public.messages'::regclass and attname = 'created_at' and not attisdropped and not attnotnull
$herald$;
