-- The conversations of one person, each with its newest message and its number of unread ones.
--
-- This is what follows `with recursive asked as (select ...)` in a query: in the gateway's and in the body of the public
-- function. `asked` has one row with the columns
--   me uuid                             whose conversations
--   top_time timestamptz, top_id uuid   the newest message that decides places; null: there is no such bound
--   before_time timestamptz, before_id uuid
--                                       only conversations whose place is older than this message; null: all
--   page bigint                         at most so many; null: all
-- A page that follows another repeats `top`, which is the place of the first conversation on the first page, and has as
-- `before` the place of the last one on the page before it.
--
-- A conversation's place is its newest message that is not newer than `top`. So it stays where it was on the first page
-- whatever is sent meanwhile, and paging neither misses nor repeats it. What is shown is always the newest message of all.
-- (A message that is committed later than the first page with an earlier created_at can lift a conversation past
-- `before`. No keyset can know that; the reader hears of it as an event after the first page's cursor.)
--
-- Cost grows with the number of conversations. `sent` and `received` jump along an index from one (other person,
-- product) to the next and find the newest message of each direction as the first of its group: products in ascending order,
-- then the messages without a product, then the next person. A comparison with null is never true, so messages without a
-- product are asked for by themselves, and those without the other person or without a time do not count. Where the product
-- is null it is named in the order too: Postgres does not know `is null` for an equality, and would sort the whole group.
, sent as (
  select newest.* from asked
   cross join lateral (
         select message.receiver_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.sender_id = asked.me and message.receiver_id is not null and message.created_at is not null
          order by message.receiver_id, message.product_id, message.created_at desc, message.id desc
          limit 1) as newest
  union all
  select coalesce(next_product.other, no_product.other, next_other.other), coalesce(next_product.product, next_other.product),
         coalesce(next_product.time, no_product.time, next_other.time), coalesce(next_product.id, no_product.id, next_other.id)
    from sent
   cross join asked
    left join lateral (
         select message.receiver_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.sender_id = asked.me and message.receiver_id = sent.other and message.product_id > sent.product
            and message.created_at is not null
          order by message.product_id, message.created_at desc, message.id desc
          limit 1) as next_product on true
    left join lateral (
         select message.receiver_id as other, message.created_at as time, message.id
           from public.messages as message
          where message.sender_id = asked.me and message.receiver_id = sent.other and message.product_id is null
            and message.created_at is not null and sent.product is not null and next_product.id is null
          order by message.product_id, message.created_at desc, message.id desc
          limit 1) as no_product on true
    left join lateral (
         select message.receiver_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.sender_id = asked.me and message.receiver_id > sent.other
            and message.created_at is not null and next_product.id is null and no_product.id is null
          order by message.receiver_id, message.product_id, message.created_at desc, message.id desc
          limit 1) as next_other on true
   where coalesce(next_product.id, no_product.id, next_other.id) is not null
),
received as (
  select newest.* from asked
   cross join lateral (
         select message.sender_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.receiver_id = asked.me and message.sender_id is not null and message.created_at is not null
          order by message.sender_id, message.product_id, message.created_at desc, message.id desc
          limit 1) as newest
  union all
  select coalesce(next_product.other, no_product.other, next_other.other), coalesce(next_product.product, next_other.product),
         coalesce(next_product.time, no_product.time, next_other.time), coalesce(next_product.id, no_product.id, next_other.id)
    from received
   cross join asked
    left join lateral (
         select message.sender_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.receiver_id = asked.me and message.sender_id = received.other and message.product_id > received.product
            and message.created_at is not null
          order by message.product_id, message.created_at desc, message.id desc
          limit 1) as next_product on true
    left join lateral (
         select message.sender_id as other, message.created_at as time, message.id
           from public.messages as message
          where message.receiver_id = asked.me and message.sender_id = received.other and message.product_id is null
            and message.created_at is not null and received.product is not null and next_product.id is null
          order by message.product_id, message.created_at desc, message.id desc
          limit 1) as no_product on true
    left join lateral (
         select message.sender_id as other, message.product_id as product, message.created_at as time, message.id
           from public.messages as message
          where message.receiver_id = asked.me and message.sender_id > received.other
            and message.created_at is not null and next_product.id is null and no_product.id is null
          order by message.sender_id, message.product_id, message.created_at desc, message.id desc
          limit 1) as next_other on true
   where coalesce(next_product.id, no_product.id, next_other.id) is not null
),
conversation as (
  select distinct on (direction.other, direction.product)
         direction.other, direction.product, direction.time as newest_time, direction.id as newest_id
    from (select * from sent union all select * from received) as direction
   order by direction.other, direction.product, direction.time desc, direction.id desc
),
placed as (
  select conversation.*, conversation.newest_time as place_time, conversation.newest_id as place_id
    from conversation cross join asked
   where asked.top_time is null or (conversation.newest_time, conversation.newest_id) <= (asked.top_time, asked.top_id)
  union all
  select conversation.*, place.time, place.id
    from conversation cross join asked
   cross join lateral (
         select direction.time, direction.id from (
           (select message.created_at as time, message.id from public.messages as message
             where message.sender_id = asked.me and message.receiver_id = conversation.other
               and message.product_id = conversation.product
               and (message.created_at, message.id) <= (asked.top_time, asked.top_id)
             order by message.created_at desc, message.id desc limit 1)
           union all
           (select message.created_at, message.id from public.messages as message
             where message.sender_id = conversation.other and message.receiver_id = asked.me
               and message.product_id = conversation.product
               and (message.created_at, message.id) <= (asked.top_time, asked.top_id)
             order by message.created_at desc, message.id desc limit 1)
           union all
           (select message.created_at, message.id from public.messages as message
             where message.sender_id = asked.me and message.receiver_id = conversation.other
               and message.product_id is null and conversation.product is null
               and (message.created_at, message.id) <= (asked.top_time, asked.top_id)
             order by message.product_id, message.created_at desc, message.id desc limit 1)
           union all
           (select message.created_at, message.id from public.messages as message
             where message.sender_id = conversation.other and message.receiver_id = asked.me
               and message.product_id is null and conversation.product is null
               and (message.created_at, message.id) <= (asked.top_time, asked.top_id)
             order by message.product_id, message.created_at desc, message.id desc limit 1)
         ) as direction
          order by direction.time desc, direction.id desc
          limit 1) as place
   where (conversation.newest_time, conversation.newest_id) > (asked.top_time, asked.top_id)
),
listed as (
  select placed.*
    from placed cross join asked
   where asked.before_time is null or (placed.place_time, placed.place_id) < (asked.before_time, asked.before_id)
   order by placed.place_time desc, placed.place_id desc
   limit (select asked.page from asked)
)
select listed.other || '__' || coalesce(listed.product::text, 'general') as conversation_id,
       listed.other as other_user_id,
       shown.username as other_username,
       shown.avatar as other_avatar,
       listed.product as product_id,
       shown.title as product_title,
       shown.content as last_message,
       listed.newest_time as last_message_time,
       case
         when listed.product is null then (
           select count(*) from public.messages as message
            where message.receiver_id = asked.me and message.sender_id = listed.other
              and message.product_id is null and not message.is_read)
         else (
           select count(*) from public.messages as message
            where message.receiver_id = asked.me and message.sender_id = listed.other
              and message.product_id = listed.product and not message.is_read)
       end::integer as unread_count,
       listed.place_time,
       listed.place_id
  from listed
 cross join asked
  -- The view is the one source of names and content. A message that it does not show leaves them null.
  left join lateral (
       select case when view.sender_id = asked.me then view.receiver_username else view.sender_username end::text as username,
              case when view.sender_id = asked.me then view.receiver_avatar else view.sender_avatar end::text as avatar,
              view.product_title::text as title, view.content::text as content
         from public.messages_realtime_view as view
        where view.id = listed.newest_id
        limit 1) as shown on true
 order by listed.place_time desc, listed.place_id desc
