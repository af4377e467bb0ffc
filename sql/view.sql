-- public.messages_realtime_view: a message with the names, pictures and product that a client shows beside it.

create or replace function herald.install_view() returns table (outcome text, subject text, note text)
language plpgsql
set search_path = pg_catalog, pg_temp
as $herald$
declare
  grantee record;
begin
  if to_regclass('public.messages_realtime_view') is null then
    -- security_invoker makes the view obey the row-level security of whoever reads it.
    create view public.messages_realtime_view with (security_invoker = true) as
    select message.id,
           message.sender_id,
           message.receiver_id,
           message.product_id,
           message.content,
           message.created_at,
           message.is_read,
           message.delivered_at,
           sender.username as sender_username,
           sender.avatar_url as sender_avatar,
           receiver.username as receiver_username,
           receiver.avatar_url as receiver_avatar,
           product.title as product_title,
           product.price as product_price
      from public.messages as message
      left join public.profiles as sender on sender.id = message.sender_id
      left join public.profiles as receiver on receiver.id = message.receiver_id
      left join public.products as product on product.id = message.product_id;
    insert into herald.installed values ('view', 'public.messages_realtime_view', 'installed')
      on conflict (kind, name) do update set origin = excluded.origin;
    return query select 'installed', 'view public.messages_realtime_view', null;

    -- Who may read messages may read the view; the rights on the tables below still decide what it shows.
    for grantee in
      select distinct case entry.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(entry.grantee)) end as name
        from pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) as entry
       where pg_class.oid = 'public.messages'::regclass and entry.privilege_type = 'SELECT'
         and entry.grantee <> (select oid from pg_roles where rolname = current_user)
       order by 1
    loop
      execute format('grant select on public.messages_realtime_view to %s', grantee.name);
      return query select 'installed', format('select on public.messages_realtime_view for %s', grantee.name), null;
    end loop;
    return;
  end if;

  insert into herald.installed values ('view', 'public.messages_realtime_view', 'found') on conflict do nothing;
  if found then
    return query select 'found', 'view public.messages_realtime_view', 'it has the needed columns and stays as it is';
  end if;
  if not exists (
    select from pg_class, pg_options_to_table(reloptions)
     where pg_class.oid = 'public.messages_realtime_view'::regclass
       and option_name = 'security_invoker' and option_value::boolean)
  then
    return query select 'warning', 'view public.messages_realtime_view',
      'it runs with its owner''s rights and so walks around row-level security; '
      'unless that is meant: alter view public.messages_realtime_view set (security_invoker = true)';
  end if;
end
$herald$;

-- The gateway's feed has to see every message. Row-level security that applies to the installing role would most likely
-- apply to the gateway too.
create or replace function herald.check_row_security() returns table (outcome text, subject text, note text)
language sql stable
set search_path = pg_catalog, pg_temp
as $herald$
  select 'warning', format('row-level security on public.%s', relation), format(
           'it applies to role %s; a gateway that connects as this role would miss rows: let it connect as the role that '
           'herald migrate --gateway-role makes', current_user)
    from unnest(array['messages', 'profiles', 'products']) as relation
   where to_regclass('public.' || relation) is not null and row_security_active('public.' || relation)
$herald$;

-- The view's row of one message as JSON, or null if the view cannot be read for it: an application's own view may divide
-- by a column that is zero in one row. Readers ask this way only after asking directly has failed, because one such row
-- must not keep everybody else's messages from being delivered.
create or replace function herald.guarded_row(message uuid) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $herald$
begin
  return (select row_to_json(view)::text from public.messages_realtime_view as view where view.id = message);
exception when others then
  raise warning 'message % cannot be read through public.messages_realtime_view: % (%)', message, sqlerrm, sqlstate;
  return null;
end
$herald$;
