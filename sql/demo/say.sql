-- $1 sender, $2 receiver, $3 product or null, $4 content
insert into public.messages (sender_id, receiver_id, product_id, content) values ($1, $2, $3, $4)
