//! Phoenix channels frame by frame: what the real clients cannot be made to say or do, and what they do not show.

mod bounds;
mod door;
mod garbage;
mod joins;
mod returning;
mod silence;
mod storms;
mod tokens;

use herald::{protocol::snapshot::Transaction, types::UserId};
use serde_json::{Value, json};
use tokio_postgres::Client as Postgres;
use uuid::Uuid;

use crate::support::{
    gateway::{Gateway, token},
    phoenix::{Door, Phoenix, Said},
    scene::Scene,
    wait_until,
};

/// The topic of most channels here.
pub(crate) const INBOX: &str = "realtime:inbox";

/// No channel is given a place until the transaction has ended: where channels stood cannot be read.
const NO_PLACES: &str = "begin; lock table herald.channel in access exclusive mode";

/// Changes of one kind, with a filter.
fn binding(event: &str, filter: &str) -> Value {
    json!({"event": event, "schema": "public", "table": "messages", "filter": filter})
}

/// All changes of what a user receives.
fn received_by(user: UserId) -> Value {
    binding("*", &format!("receiver_id=eq.{user}"))
}

/// The payload of a join, with a token if there is one.
fn join_of(bindings: &[Value], token: Option<&str>) -> Value {
    let mut payload = json!({"config": {
        "broadcast": {"ack": false, "self": false},
        "presence": {"key": "", "enabled": false},
        "postgres_changes": bindings,
        "private": false,
    }});
    if let Some(token) = token {
        payload["access_token"] = json!(token);
    }
    payload
}

/// The payload of a join to what a user receives, with the user's token.
fn inbox_of(user: UserId) -> Value {
    join_of(&[received_by(user)], Some(&token(user)))
}

/// A client whose inbox is live.
pub(crate) async fn inbox(door: &Door, user: UserId) -> Phoenix {
    let mut client = door.open().await;
    client.join_live(INBOX, &inbox_of(user)).await;
    client
}

/// The same client on another connection, whose inbox is live again.
async fn again(door: &Door, user: UserId, reference: u64) -> Phoenix {
    let mut client = door.open().await.counting_from(reference);
    client.join_live(INBOX, &inbox_of(user)).await;
    client
}

/// Waits until everything that was written before has reached the sessions' outboxes. The feed is asked of messages only: the
/// gateway's own notes move the database on as well, and ring nobody.
async fn handed_over(application: &Postgres, gateway: &Gateway) {
    let newest = "select life, xid::text from herald.log order by seq desc limit 1";
    let Some(newest) = application.query_opt(newest, &[]).await.unwrap() else {
        return;
    };
    let newest = Transaction {
        life: newest.get::<_, i64>(0).try_into().unwrap(),
        xid: newest.get::<_, &str>(1).parse().unwrap(),
    };
    wait_until("everything has been handed over", || {
        let position = gateway.app.hub().position.settled();
        position.is_some_and(|position| position.snapshot.sees(newest))
    })
    .await;
}

/// Makes sure that a client is told of no change that was committed before.
async fn hears_nothing<const PEOPLE: usize>(scene: &Scene<PEOPLE>, client: &mut Phoenix) {
    handed_over(&scene.application, &scene.gateway).await;
    client.no_more_changes().await;
}

/// Waits until a gateway knows that so many events have arrived.
async fn acknowledged(gateway: &Gateway, events: u32) {
    wait_until("the gateway knows that everything has arrived", || {
        gateway.metric("events_acknowledged_total") >= f64::from(events)
    })
    .await;
}

/// Waits until a gateway has no session of Phoenix channels any more, and has written down where all channels stand.
async fn nobody_is_left(gateway: &Gateway) {
    wait_until("all connections have ended", || {
        gateway.metric("connections") == 0.0
    })
    .await;
    // What is left of a channel is written before anybody is answered who asks afterwards, whoever asks.
    let mut probe = Door::new(gateway.address()).open().await;
    let nobody = UserId(Uuid::new_v4());
    let joined = probe.join_live(INBOX, &inbox_of(nobody)).await;
    let left = probe.push(Some(&joined), INBOX, "phx_leave", &json!({})).await;
    probe.reply(&left).await.response("ok");
    probe.close().await;
    wait_until("the probe has gone", || gateway.metric("connections") == 0.0).await;
}

/// What changes say, of all messages there are.
fn contents(said: &[Said]) -> Vec<String> {
    let changes = said.iter().filter(|said| said.event == "postgres_changes");
    changes.map(Said::content).collect()
}
