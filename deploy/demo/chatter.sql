-- Somebody writes to somebody every second, until psql is ended. Half of it is about a product.
\set QUIET on
\o /dev/null
with pair as (
  select sender.id as sender_id, receiver.id as receiver_id
    from public.profiles as sender join public.profiles as receiver on receiver.id <> sender.id
   order by random() limit 1
)
insert into public.messages (sender_id, receiver_id, product_id, content)
select sender_id, receiver_id,
       case when random() < 0.5 then (select id from public.products order by random() limit 1) end,
       'Hello at ' || to_char(clock_timestamp(), 'HH24:MI:SS')
  from pair
\watch 1
