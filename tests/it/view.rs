//! A view of the application's own that raises an error for some message.

use herald::types::UserId;

use crate::support::{
    database::{Database, people},
    gateway::{Gateway, migrate, token},
    socket::Socket,
};

/// It divides by zero for a message of six letters.
const VIEW: &str = "create view public.messages_realtime_view as
    select m.id, m.sender_id, m.receiver_id, m.product_id, m.content, m.created_at, m.is_read, m.delivered_at,
           s.username as sender_username, s.avatar_url as sender_avatar,
           r.username as receiver_username, r.avatar_url as receiver_avatar,
           null::text as product_title, null::numeric as product_price, 1 / (length(m.content) - 6) as odd
      from public.messages as m
      left join public.profiles as s on s.id = m.sender_id
      left join public.profiles as r on r.id = m.receiver_id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_which_the_view_raises_an_error_keeps_no_other_back() {
    let database = Database::with_application().await;
    let client = database.connect().await;
    client.batch_execute(VIEW).await.unwrap();
    migrate(&database.url()).await;
    let [alice, bob] = people(&client).await;
    let gateway = Gateway::start(&database.url()).await;
    let (mut live, ready) = Socket::connect(gateway.address(), &token(UserId(bob)), None).await;
    let send = async |content: &str| {
        let insert = "insert into public.messages (sender_id, receiver_id, content) values ($1, $2, $3)";
        client.execute(insert, &[&alice, &bob, &content]).await.unwrap();
    };
    for content in ["before", "poison"] {
        send(content).await;
    }
    send("afterwards").await;
    let contents = |events: &[serde_json::Value]| -> Vec<String> {
        events
            .iter()
            .map(|event| event["message"]["content"].as_str().unwrap().to_owned())
            .collect()
    };
    // Both words of six letters are stepped over, and the third arrives all the same.
    assert_eq!(contents(&live.events(1).await.0), ["afterwards"]);
    send("and on").await;
    send("it goes on").await;
    assert_eq!(contents(&live.events(1).await.0), ["it goes on"]);

    let cursor = ready["cursor"].as_str().unwrap();
    let (mut returning, ready) = Socket::connect(gateway.address(), &token(UserId(bob)), Some(cursor)).await;
    assert_eq!(ready["resumed"], true, "{ready}");
    assert_eq!(
        contents(&returning.events(2).await.0),
        ["afterwards", "it goes on"]
    );
    assert!(gateway.metric("events_vanished_total") >= 3.0);
    gateway.stop().await;
}
