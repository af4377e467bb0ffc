-- Says everything that keeps Herald from being installed here, at once, and changes nothing.
--
-- Herald reads three tables of the application (public.messages, public.profiles, public.products). An application
-- that already has a view named messages_realtime_view with the needed columns brings its own source of names and
-- products, so profiles and products are then not asked for.
--
-- Error HR001 carries one problem per line in its detail.
do $herald$
declare
  realtime_view regclass := to_regclass('public.messages_realtime_view');
  own_view boolean := exists (
    select from pg_catalog.pg_class where oid = realtime_view and relkind = 'v');
  problems text[];
begin
  select array_agg(problem order by place, problem) into problems from (

    select 1 as place, format('this is PostgreSQL %s, but Herald needs 15 or newer', current_setting('server_version')) as problem
     where current_setting('server_version_num')::integer < 150000

    union all
    select 1, 'this server is a standby; connect to the primary'
     where pg_catalog.pg_is_in_recovery()

    union all
    select 2, 'a schema named herald exists that Herald did not make; rename or drop it'
     where to_regnamespace('herald') is not null and to_regclass('herald.state') is null

    -- Tables and columns.
    union all
    select 3, format('table public.%s is missing', relation)
      from unnest(array['messages', 'profiles', 'products']) as relation
     where to_regclass('public.' || relation) is null and (relation = 'messages' or not own_view)

    union all
    select 3, 'public.messages is not a table'
      from pg_catalog.pg_class
     where oid = to_regclass('public.messages') and relkind not in ('r', 'p')

    union all
    select 4, case
        when attribute.attname is null then format('column public.%s.%s is missing', needed.relation, needed.attribute)
        when needed.attribute = 'id' and needed.relation = 'messages' and not attribute.attnotnull and fits.yes
          then 'column public.messages.id may be null; make it the primary key or not null'
        else format('column public.%s.%s has the type %s, but %s is needed', needed.relation, needed.attribute,
                    format_type(attribute.atttypid, attribute.atttypmod), needed.kind)
      end
      from (values
        ('messages', 'id', 'uuid'),
        ('messages', 'sender_id', 'uuid'),
        ('messages', 'receiver_id', 'uuid'),
        ('messages', 'product_id', 'uuid'),
        ('messages', 'content', 'text'),
        ('messages', 'created_at', 'timestamptz'),
        ('messages', 'is_read', 'boolean'),
        ('messages', 'delivered_at', 'timestamptz'),
        ('profiles', 'id', 'uuid'),
        ('profiles', 'username', 'text'),
        ('profiles', 'avatar_url', 'text'),
        ('products', 'id', 'uuid'),
        ('products', 'title', 'text'),
        ('products', 'price', 'a number')
      ) as needed (relation, attribute, kind)
      left join pg_catalog.pg_attribute as attribute
        on attribute.attrelid = to_regclass('public.' || needed.relation)
       and attribute.attname = needed.attribute and not attribute.attisdropped
      left join pg_catalog.pg_type as type on type.oid = attribute.atttypid
      cross join lateral (
        -- A domain counts as the type it is made of; any kind of string is a text, any kind of number a number.
        select case needed.kind
          when 'text' then type.typcategory = 'S'
          when 'a number' then type.typcategory = 'N'
          else to_regtype(needed.kind) in (type.oid, type.typbasetype)
        end as yes
      ) as fits
     where to_regclass('public.' || needed.relation) is not null
       and (needed.relation = 'messages' or not own_view)
       and (attribute.attname is null or not fits.yes
            or (needed.relation = 'messages' and needed.attribute = 'id' and not attribute.attnotnull))

    -- Names that Herald needs and that something else may have taken.
    union all
    select 5, format('public.messages_realtime_view is a %s; Herald needs that name for a view', case relkind
        when 'm' then 'materialized view' when 'r' then 'table' when 'p' then 'table' else 'relation' end)
      from pg_catalog.pg_class
     where oid = realtime_view and relkind <> 'v'

    union all
    select 5, format('the view public.messages_realtime_view lacks the column %s; add it, or drop or rename the view', wanted)
      from unnest(array['id', 'sender_id', 'receiver_id', 'product_id', 'content', 'created_at', 'is_read', 'delivered_at',
        'sender_username', 'sender_avatar', 'receiver_username', 'receiver_avatar', 'product_title', 'product_price']) as wanted
     where own_view and not exists (
       select from pg_catalog.pg_attribute
        where attrelid = realtime_view and attname = wanted and not attisdropped)

    union all
    select 5, format('the column %s of the view public.messages_realtime_view has the type %s, but uuid is needed', attname,
                     format_type(atttypid, atttypmod))
      from pg_catalog.pg_attribute join pg_catalog.pg_type on pg_type.oid = atttypid
     where own_view and attrelid = realtime_view and attname in ('id', 'sender_id', 'receiver_id', 'product_id')
       and 'uuid'::regtype not in (pg_type.oid, typbasetype)

    union all
    select 5, format('public.%s exists and is no index on public.messages; Herald needs that name for one', relname)
      from pg_catalog.pg_class
     where relnamespace = 'public'::regnamespace
       and relname in ('idx_messages_conversation_lookup', 'idx_messages_user_product_time', 'idx_messages_unread')
       and not exists (
         select from pg_catalog.pg_index where indexrelid = pg_class.oid and indrelid = to_regclass('public.messages'))

    -- Rights of the role that installs.
    union all
    select 6, format('role %s may not create a schema; run this once as a superuser: grant create on database %I to %I',
                     current_user, current_database(), current_user)
     where to_regnamespace('herald') is null
       and not pg_catalog.has_database_privilege(current_database(), 'CREATE')

    union all
    select 6, format('role %s may not create anything in the schema public; run this as its owner: grant create on schema public to %I',
                     current_user, current_user)
     where not pg_catalog.has_schema_privilege('public', 'CREATE')

    union all
    select 6, format('role %s does not own public.messages; connect as its owner, %s', current_user, pg_catalog.pg_get_userbyid(relowner))
      from pg_catalog.pg_class
     where oid = to_regclass('public.messages') and not pg_catalog.pg_has_role(relowner, 'USAGE')

    union all
    select 6, format('role %s does not own the schema herald; connect as its owner, %s', current_user, pg_catalog.pg_get_userbyid(nspowner))
      from pg_catalog.pg_namespace
     where oid = to_regnamespace('herald') and not pg_catalog.pg_has_role(nspowner, 'USAGE')
  ) as found;

  if problems is not null then
    raise exception using
      errcode = 'HR001',
      message = 'Herald cannot be installed in this database; nothing was changed',
      detail = array_to_string(problems, E'\n');
  end if;
end
$herald$;
