-- $1 ids, $2 senders, $3 receivers, $4 products or null, $5 contents, $6 how many seconds ago, $7 whether read
insert into public.messages (id, sender_id, receiver_id, product_id, content, created_at, is_read, delivered_at)
select id, sender_id, receiver_id, product_id, content, written_at, is_read,
       case when is_read then written_at + interval '2 seconds' end
from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::int8[], $7::bool[])
         as message (id, sender_id, receiver_id, product_id, content, seconds_ago, is_read),
     lateral (select now() - seconds_ago * interval '1 second' as written_at) as moment
order by seconds_ago desc
on conflict do nothing
