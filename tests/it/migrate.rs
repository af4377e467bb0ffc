//! `herald migrate` against real databases: what it installs, what that logs, and what it leaves alone.

use std::time::Duration;

use herald::migrate::{self, MigrateError, Report};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::database::Database;

mod command;
mod cousins;
mod gateway_role;
mod installing;
mod live;
mod logging;
mod upgrading;

/// Long enough for any wait that ends well.
const PATIENCE: Duration = Duration::from_secs(20);

async fn install(database: &Database) -> Report {
    migrate::install(&mut database.connect().await, PATIENCE)
        .await
        .unwrap()
}

async fn install_error(database: &Database) -> MigrateError {
    migrate::install(&mut database.connect().await, PATIENCE)
        .await
        .unwrap_err()
}

async fn uninstall(database: &Database) -> Report {
    migrate::uninstall(&mut database.connect().await, PATIENCE)
        .await
        .unwrap()
}

/// Sends a message and answers with its id.
async fn send(client: &Client, sender: Uuid, receiver: Uuid, content: &str) -> Uuid {
    client
        .query_one(
            "insert into public.messages (sender_id, receiver_id, content) values ($1, $2, $3) returning id",
            &[&sender, &receiver, &content],
        )
        .await
        .unwrap()
        .get(0)
}

/// One row of the log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Logged {
    op: String,
    message: Uuid,
    sender: Uuid,
    receiver: Uuid,
}

impl Logged {
    fn new(op: &str, message: Uuid, sender: Uuid, receiver: Uuid) -> Self {
        Self {
            op: op.to_owned(),
            message,
            sender,
            receiver,
        }
    }
}

/// Takes all rows out of the log.
async fn take_log(client: &Client) -> Vec<Logged> {
    let rows = client
        .query(
            "with taken as (delete from herald.log returning *)
             select op::text, message_id, sender_id, receiver_id from taken order by seq",
            &[],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| Logged {
            op: row.get(0),
            message: row.get(1),
            sender: row.get(2),
            receiver: row.get(3),
        })
        .collect()
}

/// The operations in the log, which is emptied.
async fn take_operations(client: &Client) -> String {
    take_log(client)
        .await
        .into_iter()
        .map(|logged| logged.op)
        .collect()
}

/// Whether an index is there and valid.
async fn is_valid(client: &Client, index: &str) -> bool {
    client
        .query_one(
            "select exists (select from pg_index where indexrelid = to_regclass($1) and indisvalid)",
            &[&index],
        )
        .await
        .unwrap()
        .get(0)
}

/// The tables whose direct changes go unseen.
async fn unwatched(client: &Client) -> Vec<String> {
    let rows = client
        .query("select unwatched::text from herald.unwatched()", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
