-- Three people and something to talk about, for docker-compose.yml. The tables are those of sql/demo/schema.sql.
insert into public.profiles (id, username) values
  ('aaaaaaaa-0000-4000-8000-000000000001', 'alice'),
  ('aaaaaaaa-0000-4000-8000-000000000002', 'bob'),
  ('aaaaaaaa-0000-4000-8000-000000000003', 'carol');

insert into public.products (seller_id, title, price) values
  ('aaaaaaaa-0000-4000-8000-000000000001', 'Bicycle', 120),
  ('aaaaaaaa-0000-4000-8000-000000000002', 'Desk lamp', 24.50);
