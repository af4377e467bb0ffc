//! What a person does with conversations: list them, read one, send into it, mark it as read.
//!
//! Every answer that lists anything carries the cursor of the snapshot it was read in: who loads, and connects with the
//! cursor, misses nothing and sees nothing twice.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    acting::{Acting, POSITION, Question, position},
    place::{Moment, read_place},
    refusal::Refusal,
};
use crate::{
    auth::Identity,
    protocol::{
        conversation::Conversation,
        cursor::Cursor,
        page::{ConversationsBefore, MessagesBefore, Place},
    },
};

/// `$1` whose conversations; `$2`, `$3` the place of the first one on the first page and `$4`, `$5` that of the last one on the
/// page before, all null for the first page; `$6` how many.
const CONVERSATIONS: &str = concat!(
    "select (select pg_catalog.row_to_json(shown)::text from (select listed.conversation_id, listed.other_user_id, \
       listed.other_username, listed.other_avatar, listed.product_id, listed.product_title, listed.last_message, \
       listed.last_message_time, listed.unread_count) as shown) as row, listed.place_time, listed.place_id \
     from (with recursive asked as (select $1::uuid as me, $2::timestamptz as top_time, $3::uuid as top_id, \
       $4::timestamptz as before_time, $5::uuid as before_id, $6::bigint as page) ",
    include_str!("../../sql/previews.sql"),
    ") as listed order by listed.place_time desc, listed.place_id desc"
);

/// `$1` the message, `$2` its sender, `$3` its receiver, `$4` its product, `$5` its content, `$6` the sender's claims, `$7` the role
/// of users. The function in `sql/send.sql` says what it does, and why it is one.
const SEND: &str = "select shown, is_new, was_there from herald.send($1, $2, $3, $4, $5, $6, $7)";

/// A page of a list, as rows of JSON that Postgres made.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<String>,
    /// How far the snapshot sees that they were read in.
    pub cursor: Cursor,
    /// Leads to the page after this one, if there is one.
    pub next: Option<String>,
}

/// A message that stands in the database.
#[derive(Debug)]
pub struct Sent {
    /// Its row as JSON.
    pub row: String,
    /// Whether it was written now, and not by an earlier attempt.
    pub is_new: bool,
}

/// Does all of it as the user who calls.
#[derive(Clone, Debug)]
pub struct Conversations {
    acting: Acting,
}

impl Conversations {
    /// Acts with the role of users, if there is one, and gives a call up after the deadline.
    pub fn new(pool: Pool, role: Option<&str>, deadline: Duration) -> Self {
        Self {
            acting: Acting::new(pool, role, deadline),
        }
    }

    /// The caller's conversations, the one with the newest message first.
    ///
    /// # Errors
    /// [`Refusal`].
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn list(
        &self,
        caller: &Identity,
        limit: u32,
        page: Option<ConversationsBefore>,
    ) -> Result<Page, Refusal> {
        let (top_time, top_id) = columns(page.map(|page| page.top));
        let (before_time, before_id) = columns(page.map(|page| page.before));
        // One more than asked for tells whether there is a next page.
        let wanted = i64::from(limit) + 1;
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&caller.user.0, Type::UUID),
            (&top_time, Type::TIMESTAMPTZ),
            (&top_id, Type::UUID),
            (&before_time, Type::TIMESTAMPTZ),
            (&before_id, Type::UUID),
            (&wanted, Type::INT8),
        ];
        let own = Question {
            statement: &format!("select {POSITION}"),
            parameters: &[],
        };
        let question = Question {
            statement: CONVERSATIONS,
            parameters: &parameters,
        };
        let (own, rows) = self.acting.read(caller, own, question).await?;
        let (shown, has_more) = shown(&rows, limit);
        let next = match (shown.first(), shown.last()) {
            (Some(first), Some(last)) if has_more => {
                let first = read_place(first, "place_time", "place_id")?;
                Some(ConversationsBefore {
                    top: page.map_or(first, |page| page.top),
                    before: read_place(last, "place_time", "place_id")?,
                })
            }
            _ => None,
        };
        Ok(Page {
            rows: json(shown)?,
            cursor: position(&own)?,
            next: next.map(|next| next.to_string()),
        })
    }

    /// The newest messages of a conversation, or those before a place; the oldest of them first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is neither a message nor such a person and product.
    ///
    /// # Cancel safety
    /// Safe: nothing is written.
    pub async fn messages(
        &self,
        caller: &Identity,
        conversation: Conversation,
        limit: u32,
        page: Option<MessagesBefore>,
    ) -> Result<Page, Refusal> {
        let newest = Place {
            time: i64::MAX,
            id: Uuid::max(),
        };
        let before = page.map_or(newest, |MessagesBefore(place)| place);
        let wanted = i64::from(limit) + 1;
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&caller.user.0, Type::UUID),
            (&conversation.other.0, Type::UUID),
            (&conversation.product, Type::UUID),
            (&Moment(before.time), Type::TIMESTAMPTZ),
            (&before.id, Type::UUID),
            (&wanted, Type::INT8),
        ];
        let own = Question {
            statement: &format!("select {POSITION}, herald.is_known($1, $2) as is_known"),
            parameters: &parameters[1..3],
        };
        let question = Question {
            statement: &messages_statement(conversation),
            parameters: &parameters,
        };
        let (own, rows) = self.acting.read(caller, own, question).await?;
        if rows.is_empty() && page.is_none() && !is_known(&own)? {
            return Err(Refusal::NotFound);
        }
        let (shown, has_more) = shown(&rows, limit);
        let next = match shown.last() {
            Some(oldest) if has_more => Some(MessagesBefore(read_place(oldest, "created_at", "id")?)),
            _ => None,
        };
        let mut rows = json(shown)?;
        rows.reverse();
        Ok(Page {
            rows,
            cursor: position(&own)?,
            next: next.map(|next| next.to_string()),
        })
    }

    /// Sends a message under an id that its sender chose, so that it may be sent again if the answer was lost.
    ///
    /// # Errors
    /// [`Refusal`]; after [`Refusal::Unavailable`] it is not known whether the message was written.
    ///
    /// # Cancel safety
    /// Safe in that the message is written whole or not at all; repeat it under the same id.
    pub async fn send(
        &self,
        caller: &Identity,
        conversation: Conversation,
        id: Uuid,
        content: &str,
    ) -> Result<Sent, Refusal> {
        let (claims, role) = (&*caller.claims, self.acting.role());
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (&id, Type::UUID),
            (&caller.user.0, Type::UUID),
            (&conversation.other.0, Type::UUID),
            (&conversation.product, Type::UUID),
            (&content, Type::TEXT),
            (&claims, Type::TEXT),
            (&role, Type::TEXT),
        ];
        let send = Question {
            statement: SEND,
            parameters: &parameters,
        };
        let rows = self.acting.write_by_function(send).await?;
        let row = rows.first().ok_or(Refusal::Bookkeeping)?;
        let is = |name| row.try_get::<_, bool>(name).map_err(|_| Refusal::Bookkeeping);
        let shown: Option<String> = row.try_get("shown").map_err(|_| Refusal::Bookkeeping)?;
        let is_new = is("is_new")?;
        let row = match shown {
            Some(row) => row,
            // The application hides a new message even from its sender, who must not take it for refused and send again.
            None if is_new || is("was_there")? => hidden_row(caller, conversation, id, content),
            None => return Err(Refusal::NotWritten),
        };
        Ok(Sent { row, is_new })
    }

    /// Marks as read what the caller received in a conversation, and answers how many messages that were.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there was nothing to mark, and there is no such person or product.
    ///
    /// # Cancel safety
    /// Safe; repeating it does no harm.
    pub async fn mark_read(&self, caller: &Identity, conversation: Conversation) -> Result<u64, Refusal> {
        let parameters: [(&(dyn ToSql + Sync), Type); 3] = [
            (&caller.user.0, Type::UUID),
            (&conversation.other.0, Type::UUID),
            (&conversation.product, Type::UUID),
        ];
        let known = Question {
            statement: "select herald.is_known($1, $2) as is_known",
            parameters: &parameters[1..],
        };
        let mark = Question {
            statement: &format!(
                "update public.messages as message set is_read = true \
                  where message.receiver_id = $1 and message.sender_id = $2 and {} and not message.is_read",
                about(conversation)
            ),
            parameters: &parameters,
        };
        let nothing = Question {
            statement: "select",
            parameters: &[],
        };
        let (own, written, _) = self.acting.write(caller, known, mark, nothing).await?;
        let own = own.first().ok_or(Refusal::Bookkeeping)?;
        if written == 0 && !is_known(own)? {
            return Err(Refusal::NotFound);
        }
        Ok(written)
    }
}

/// A message as far as its sender knows it.
fn hidden_row(caller: &Identity, conversation: Conversation, id: Uuid, content: &str) -> String {
    serde_json::json!({
        "id": id,
        "sender_id": caller.user.0,
        "receiver_id": conversation.other.0,
        "product_id": conversation.product,
        "content": content,
        "created_at": null,
        "is_read": null,
        "delivered_at": null,
    })
    .to_string()
}

/// A page of one conversation, newest message first. Each direction is a scan of `idx_messages_conversation_lookup` that ends
/// with the page. A conversation with oneself has one direction.
///
/// `$1` the caller, `$2` the other person, `$3` the product, `$4` and `$5` before which message, `$6` how many.
fn messages_statement(conversation: Conversation) -> String {
    let about = about(conversation);
    let direction = |from: &str, to: &str| {
        // The product is named in the order because Postgres does not know `is null` for an equality.
        format!(
            "(select message.created_at, message.id from public.messages as message \
               where message.sender_id = {from} and message.receiver_id = {to} and {about} \
                 and (message.created_at, message.id) < ($4, $5) \
               order by message.product_id, message.created_at desc, message.id desc limit $6)"
        )
    };
    let (sent, received) = (direction("$1", "$2"), direction("$2", "$1"));
    format!(
        "select newest.created_at, newest.id, (select pg_catalog.row_to_json(view)::text \
             from public.messages_realtime_view as view where view.id = newest.id limit 1) as row \
           from (select * from ({sent} union all select * from {received} as received where $1 <> $2) as both_directions \
                  order by both_directions.created_at desc, both_directions.id desc limit $6) as newest \
          order by newest.created_at desc, newest.id desc"
    )
}

/// The condition on a message's product `$3`, in a form that an index serves.
const fn about(conversation: Conversation) -> &'static str {
    match conversation.product {
        Some(_) => "message.product_id = $3",
        None => "message.product_id is null and $3::uuid is null",
    }
}

fn columns(place: Option<Place>) -> (Option<Moment>, Option<Uuid>) {
    (place.map(|place| Moment(place.time)), place.map(|place| place.id))
}

/// Those of the rows that were asked for, and whether there are more.
fn shown(rows: &[Row], limit: u32) -> (&[Row], bool) {
    let limit = limit as usize;
    (rows.get(..limit).unwrap_or(rows), rows.len() > limit)
}

/// The column `row` of each. A row that the view does not show is left out.
fn json(rows: &[Row]) -> Result<Vec<String>, Refusal> {
    let texts: Result<Vec<Option<String>>, _> = rows.iter().map(|row| row.try_get("row")).collect();
    let texts = texts.map_err(|_| Refusal::Bookkeeping)?;
    Ok(texts.into_iter().flatten().collect())
}

fn is_known(row: &Row) -> Result<bool, Refusal> {
    row.try_get("is_known").map_err(|_| Refusal::Bookkeeping)
}
