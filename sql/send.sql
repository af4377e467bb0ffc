-- What the gateway asks with its own rights around a call of a user. The call itself runs with the user's rights.

-- Whether there is such a person, and such a product if one is named. An application that brings its own view keeps its
-- people where it likes; there only its foreign keys know.
create or replace function herald.is_known(person uuid, product uuid) returns boolean
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $herald$
begin
  if not exists (select from herald.installed where kind = 'view' and origin = 'installed') then
    return true;
  end if;
  return exists (select from public.profiles where id = person)
     and (product is null or exists (select from public.products where id = product));
end
$herald$;

-- Writes a message under an id that its sender chose, as the sender: with the role and the claims that are given, so that row-level
-- security holds. Error HR409: the id belongs to anything else; HR404: nobody would receive it. The answer is the
-- row as the view shows it to its sender, or null if it is hidden from him; whether it was written now; and whether it had been
-- there before.
--
-- Two attempts to send the same message wait for each other, because not every application has a unique index on the id
-- alone (a partitioned table cannot), and its row would then be written twice. The lock's key is a hash, so that strangers may
-- wait for each other once in a long while, for as long as an insert takes.
--
-- It is one function so that its statements are planned once for each connection and not for each message. Role and claims
-- end with it, as everything does that is set locally in a function with settings of its own. It sets no search_path: the
-- application's triggers run inside, and find their names where they always do.
create or replace function herald.send(
  message_id uuid, sender uuid, receiver uuid, product uuid, words text, claims text, acting_role text,
  out shown text, out is_new boolean, out was_there boolean)
language plpgsql volatile security invoker
set plan_cache_mode = force_generic_plan
as $herald$
declare
  is_the_same boolean;
begin
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.uuid_hash_extended(message_id, 5216701506134474755));
  select (message.sender_id, message.receiver_id, message.product_id) is not distinct from (sender, receiver, product)
    into is_the_same
    from public.messages as message
   where message.id = message_id;
  was_there := found;
  if was_there and not is_the_same then
    raise exception using errcode = 'HR409', message = 'the id belongs to another message';
  elsif not was_there and not herald.is_known(receiver, product) then
    raise exception using errcode = 'HR404', message = 'there is no such person or product';
  end if;

  perform pg_catalog.set_config('request.jwt.claims', claims, true);
  begin
    perform pg_catalog.set_config('role', acting_role, true);
  exception when insufficient_privilege or invalid_parameter_value then
    raise exception using errcode = 'HR503', message = sqlerrm;
  end;

  is_new := false;
  if not was_there then
    insert into public.messages (id, sender_id, receiver_id, product_id, content)
    values (message_id, sender, receiver, product, words)
    on conflict do nothing;
    is_new := found;
  end if;
  select pg_catalog.row_to_json(view)::text into shown
    from public.messages_realtime_view as view
   where view.id = message_id
   limit 1;
end
$herald$;
