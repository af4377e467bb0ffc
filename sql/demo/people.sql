-- $1 ids, $2 usernames, $3 avatars
insert into public.profiles (id, username, avatar_url, created_at)
select id, username, avatar_url, now() - interval '90 days'
from unnest($1::uuid[], $2::text[], $3::text[]) as person (id, username, avatar_url)
on conflict do nothing
