//! A client of Phoenix channels as Supabase's are, version 2.0.0, on a socket with one channel.

use std::net::{IpAddr, SocketAddr};

use futures::{SinkExt, StreamExt};
use herald::types::UserId;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use uuid::Uuid;

use super::socket::{Socket, dial};

/// What is told on a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The join was answered.
    Joined,
    /// Changes are heard from now on.
    Subscribed,
    /// This message was inserted.
    Inserted(Uuid),
}

/// Reads a frame, which has to be one that a channel without trouble is sent.
pub(crate) fn read(frame: &str) -> Told {
    type Frame = (Value, Value, String, String, Value);
    let (.., event, payload): Frame = serde_json::from_str(frame).unwrap();
    match (&*event, payload["status"].as_str()) {
        ("phx_reply", Some("ok")) => Told::Joined,
        ("system", Some("ok")) => Told::Subscribed,
        ("postgres_changes", None) => {
            let id = payload["data"]["record"]["id"].as_str().unwrap();
            Told::Inserted(id.parse().unwrap())
        }
        _ => panic!("the channel is in trouble: {frame}"),
    }
}

/// Opens a socket from this address of the machine, and asks for the messages that its user receives.
pub(crate) async fn join(
    gateway: SocketAddr,
    user: UserId,
    token: &str,
    device: &str,
    from: IpAddr,
) -> Socket {
    let url = format!("ws://{gateway}/realtime/v1/websocket?apikey={token}&device={device}&vsn=2.0.0");
    let mut socket = dial(gateway, url.into_client_request().unwrap(), from).await;
    let binding = json!({"event": "INSERT", "schema": "public", "table": "messages", "filter": format!("receiver_id=eq.{user}")});
    let config = json!({
        "broadcast": {"ack": false, "self": false},
        "presence": {"key": "", "enabled": false},
        "postgres_changes": [binding],
        "private": false,
    });
    let payload = json!({"config": config, "access_token": token});
    let join = json!(["1", "1", format!("realtime:inbox-{user}"), "phx_join", payload]);
    socket.send(Message::text(join.to_string())).await.unwrap();
    socket
}

/// Opens a socket, and waits until its channel hears changes.
pub(crate) async fn subscribe(
    gateway: SocketAddr,
    user: UserId,
    token: &str,
    device: &str,
    from: IpAddr,
) -> Socket {
    let mut socket = join(gateway, user, token, device, from).await;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) if read(&text) == Told::Subscribed => return socket,
            Some(Ok(_)) => {}
            other => panic!("the channel was not subscribed: {other:?}"),
        }
    }
}
