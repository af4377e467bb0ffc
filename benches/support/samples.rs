//! Events, snapshots and positions as the feed would have read them. Each is built here and nowhere else.

use std::sync::Arc;

use herald::{
    hub::Position,
    protocol::{
        cursor::{Cursor, Epoch},
        event::{Event, Operation},
        snapshot::{Life, Snapshot, Transaction},
    },
    types::{BatchNumber, UserId},
};
use tokio_postgres::Client;

use super::people::{numbered, product};

/// A transaction number as a database that has run for some months has them.
const XID: u64 = 3_141_592_653;

/// The life of that database: it has crashed once.
const LIFE: Life = 2_718_281_828;

/// A new message with content of this many bytes.
pub(crate) fn event(number: u32, sender: UserId, receiver: UserId, content_bytes: usize) -> Event {
    Event {
        seq: 27_182_818 + i64::from(number),
        transaction: Transaction { life: LIFE, xid: XID },
        logged_at: std::time::SystemTime::UNIX_EPOCH,
        operation: Operation::Insert,
        message: numbered(number),
        sender,
        receiver,
        product: product(number),
        row: Some(row(number, sender, receiver, content_bytes).into()),
    }
}

/// The view's row as `row_to_json` writes it.
fn row(number: u32, sender: UserId, receiver: UserId, content_bytes: usize) -> String {
    let product = product(number).map_or_else(|| "null".to_owned(), |product| format!("\"{product}\""));
    let content = "a message of average words ".repeat(content_bytes.div_ceil(27));
    format!(
        r#"{{"id":"{}","sender_id":"{sender}","receiver_id":"{receiver}","product_id":{product},"content":"{}","created_at":"2026-03-01T12:00:00.123456+00:00","is_read":false,"delivered_at":null,"sender_username":"somebody","sender_avatar":"https://images.example/people/1.png","receiver_username":"somebody else","receiver_avatar":"https://images.example/people/2.png","product_title":"A thing with a name","product_price":12.99}}"#,
        numbered(number),
        &content[..content_bytes],
    )
}

/// A snapshot in which this many transactions were running, every third of those that had begun.
pub(crate) fn snapshot(running: u64) -> Snapshot {
    let in_progress = (0..running).map(|number| XID + 3 * number).collect();
    Snapshot::new(LIFE, XID, XID + 3 * running, in_progress).unwrap()
}

/// The position of a batch.
pub(crate) fn position(batch: u64, running: u64) -> Position {
    Position {
        epoch: epoch("0123456789abcdef"),
        batch: BatchNumber(batch),
        snapshot: Arc::new(snapshot(running)),
    }
}

fn epoch(text: &str) -> Epoch {
    Epoch::new(text).unwrap()
}

/// Where a feed that has read everything would stand now.
pub(crate) async fn position_of(client: &Client) -> Position {
    let statement = "select herald.epoch(), herald.current_life(), pg_current_snapshot()::text";
    let row = client.query_one(statement, &[]).await.unwrap();
    let life = Life::try_from(row.get::<_, i64>(1)).unwrap();
    Position {
        epoch: epoch(row.get(0)),
        batch: BatchNumber(1),
        snapshot: Arc::new(Snapshot::read(life, row.get(2)).unwrap()),
    }
}

/// A cursor of the same log and life, taken when all transactions below this one had ended and none above had begun.
pub(crate) fn cursor_before(xid: u64, newest: &Position) -> Cursor {
    Cursor {
        epoch: newest.epoch.clone(),
        snapshot: Arc::new(Snapshot::new(newest.snapshot.life(), xid, xid, Vec::new()).unwrap()),
    }
}
