-- $1 id, $2 sender, $3 receiver, $4 product or null, $5 content. What was said before, by whatever path, is not said again.
insert into public.messages (id, sender_id, receiver_id, product_id, content) values ($1, $2, $3, $4, $5)
on conflict (id) do nothing
