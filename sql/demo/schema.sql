-- The tables of the demo application. It stands for any main application beside which Herald runs: these tables are its own,
-- and Herald's migration adds to them from outside. Row-level security follows the conventions of Supabase.

do $$ begin
    create role authenticated nologin;
exception when duplicate_object or unique_violation then null; -- The second is what two databases at once meet.
end $$;

create schema auth;
create function auth.uid() returns uuid language sql stable as $$
    select (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
grant usage on schema auth to authenticated;

create table public.profiles (
    id uuid primary key default gen_random_uuid(),
    username text not null unique,
    avatar_url text,
    created_at timestamptz not null default now()
);

create table public.products (
    id uuid primary key default gen_random_uuid(),
    seller_id uuid references public.profiles (id),
    title text not null,
    price numeric(12, 2) not null check (price >= 0),
    created_at timestamptz not null default now()
);

create table public.messages (
    id uuid primary key default gen_random_uuid(),
    sender_id uuid not null references public.profiles (id),
    receiver_id uuid not null references public.profiles (id),
    product_id uuid references public.products (id) on delete set null,
    content text not null check (length(content) between 1 and 10000),
    created_at timestamptz not null default now(),
    is_read boolean not null default false,
    delivered_at timestamptz
);

alter table public.messages enable row level security;
create policy messages_read on public.messages for select to authenticated
    using (auth.uid() in (sender_id, receiver_id));
create policy messages_send on public.messages for insert to authenticated
    with check (auth.uid() = sender_id);
create policy messages_mark on public.messages for update to authenticated
    using (auth.uid() = receiver_id) with check (auth.uid() = receiver_id);

grant usage on schema public to authenticated;
grant select, insert, update on public.messages to authenticated;
grant select on public.profiles, public.products to authenticated;
