-- $1 ids, $2 sellers, $3 titles, $4 prices in cents
insert into public.products (id, seller_id, title, price, created_at)
select id, seller_id, title, cents / 100.0, now() - interval '60 days'
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::int8[]) as product (id, seller_id, title, cents)
on conflict do nothing
