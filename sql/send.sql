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

-- Comes before a message is inserted under an id that its sender chose. Error HR409: the id belongs to anything else;
-- HR404: nobody would receive it. The answer is whether the message is there already.
--
-- Two attempts to send the same message wait for each other, because not every application has a unique index on the id
-- alone (a partitioned table cannot), and its row would then be written twice. The lock's key is a hash, so that strangers may
-- wait for each other once in a long while, for as long as an insert takes.
create or replace function herald.before_send(message_id uuid, sender uuid, receiver uuid, product uuid) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $herald$
declare
  is_the_same boolean;
begin
  perform pg_advisory_xact_lock(uuid_hash_extended(message_id, 5216701506134474755));
  select (sender_id, receiver_id, product_id) is not distinct from (sender, receiver, product)
    into is_the_same
    from public.messages
   where id = message_id;
  if found then
    if not is_the_same then
      raise exception using errcode = 'HR409', message = 'the id belongs to another message';
    end if;
    return true;
  elsif not herald.is_known(receiver, product) then
    raise exception using errcode = 'HR404', message = 'there is no such person or product';
  end if;
  return false;
end
$herald$;
