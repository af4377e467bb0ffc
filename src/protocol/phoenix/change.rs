//! One committed change as Supabase's clients hear it: the `data` of a `postgres_changes` message.
//!
//! It is made once for all who hear it. The row stays the text that Postgres made; it is looked into for the places of its columns,
//! which filters ask for, and copied whole.

use std::{fmt::Write as _, ops::Range, sync::OnceLock, time::SystemTime};

use serde::{
    Deserializer as _,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    join::{Binding, Kind},
    message::quoted,
    relation::Relation,
};
use crate::protocol::{
    event::Operation,
    server_frame::{About, EventsFrame},
    snapshot::Transaction,
};

/// A committed change.
#[derive(Debug)]
pub struct Change {
    /// The transaction that made it.
    pub transaction: Transaction,
    operation: Operation,
    logged_at: SystemTime,
    /// The row, or what is known of a deleted one.
    row: Box<str>,
    /// Where each column's name and value stand in the row.
    columns: Box<[(Range<usize>, Range<usize>)]>,
    data: Box<str>,
}

/// The changes of one frame, made when somebody asks for them first.
#[derive(Debug, Default)]
pub struct Changes(OnceLock<Box<[Change]>>);

impl Changes {
    /// The changes of this frame, which has to be the same each time.
    pub fn of(&self, frame: &EventsFrame, relation: &Relation) -> &[Change] {
        self.0.get_or_init(|| {
            frame
                .rows()
                .map(|(about, row)| Change::new(about, row, relation))
                .collect()
        })
    }
}

impl Change {
    fn new(about: &About, row: &str, relation: &Relation) -> Self {
        let row: Box<str> = if about.operation == Operation::Delete {
            let mut keys = format!(
                r#"{{"id":"{}","sender_id":"{}","receiver_id":"{}","product_id":"#,
                about.message.as_hyphenated(),
                about.sender,
                about.receiver
            );
            // Writing into a string cannot fail.
            let _written = match about.product {
                Some(product) => write!(keys, r#""{}"}}"#, product.as_hyphenated()),
                None => write!(keys, "null}}"),
            };
            keys.into()
        } else {
            row.into()
        };
        let mut change = Self {
            transaction: about.transaction,
            operation: about.operation,
            logged_at: about.logged_at,
            columns: columns(&row),
            row,
            data: Box::default(),
        };
        change.data = change.encode(relation, None).into();
        change
    }

    /// Whether a binding hears it.
    pub fn is_for(&self, binding: &Binding) -> bool {
        let is_of_kind = match binding.kind {
            Kind::Any => true,
            Kind::Insert => self.operation == Operation::Insert,
            Kind::Update => self.operation == Operation::Update,
            Kind::Delete => self.operation == Operation::Delete,
        };
        is_of_kind && binding.filter.admits(|column| self.value(column))
    }

    /// The JSON text of a column's value, if the column is known.
    fn value(&self, column: &str) -> Option<&str> {
        let found = self
            .columns
            .iter()
            .find(|(name, _)| &self.row[name.clone()] == column);
        found.map(|(_, value)| &self.row[value.clone()])
    }

    /// The `data` with all columns.
    pub fn data(&self) -> &str {
        &self.data
    }

    /// The `data` with these columns.
    pub fn data_of(&self, relation: &Relation, select: &[Box<str>]) -> String {
        self.encode(relation, Some(select))
    }

    fn encode(&self, relation: &Relation, select: Option<&[Box<str>]>) -> String {
        let kind = match self.operation {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        };
        let listed = relation.columns_json(select);
        let mut text = String::with_capacity(self.row.len() + listed.len() + 256);
        let _written = write!(
            text,
            r#"{{"schema":{},"table":{},"commit_timestamp":"{}","type":"{kind}","columns":"#,
            quoted(relation.schema()),
            quoted(relation.table()),
            humantime::format_rfc3339_millis(self.logged_at),
        );
        text.push_str(&listed);
        if self.operation != Operation::Delete {
            text.push_str(r#","record":"#);
            match select {
                None => text.push_str(&self.row),
                Some(select) => self.push_selected(&mut text, select),
            }
        }
        if self.operation != Operation::Insert {
            // The columns of the primary key, which is what Supabase tells of an old row under row-level security.
            let _written = write!(
                text,
                r#","old_record":{{"{PRIMARY_KEY}":{}}}"#,
                self.value(PRIMARY_KEY).unwrap_or("null")
            );
        }
        text.push_str(r#","errors":null}"#);
        text
    }

    fn push_selected(&self, text: &mut String, select: &[Box<str>]) {
        let mut separator = '{';
        for (name, value) in &self.columns {
            let (name, value) = (&self.row[name.clone()], &self.row[value.clone()]);
            if select.iter().any(|column| **column == *name) {
                let _written = write!(text, r#"{separator}"{name}":{value}"#);
                separator = ',';
            }
        }
        text.push('}');
    }
}

/// The primary key of the application's messages.
pub const PRIMARY_KEY: &str = "id";

/// Where names and values stand in a JSON object. A name that needs escaping is left out: no filter can name it.
fn columns(row: &str) -> Box<[(Range<usize>, Range<usize>)]> {
    struct Columns<'a>(&'a str);

    impl<'de> Visitor<'de> for Columns<'de> {
        type Value = Vec<(Range<usize>, Range<usize>)>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a row")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let place = |part: &str| {
                let start = (part.as_ptr() as usize).wrapping_sub(self.0.as_ptr() as usize);
                let range = start..start.saturating_add(part.len());
                (self.0.get(range.clone()) == Some(part)).then_some(range)
            };
            let mut columns = Vec::new();
            while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                let name = name.get().trim_matches('"');
                if let (false, Some(name), Some(value)) =
                    (name.contains('\\'), place(name), place(value.get()))
                {
                    columns.push((name, value));
                }
            }
            Ok(columns)
        }
    }

    serde_json::Deserializer::from_str(row)
        .deserialize_map(Columns(row))
        .unwrap_or_default()
        .into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::{super::relation::Column, *};
    use crate::{
        protocol::{event::Event, server_frame::EventsFrameBuilder},
        types::UserId,
    };

    fn relation() -> Relation {
        let column = |(name, kind): (&str, &str)| Column {
            name: name.into(),
            kind: kind.into(),
        };
        let columns = [("id", "uuid"), ("sender_id", "uuid"), ("content", "text")];
        Relation::new("public", "messages", columns.map(column).into())
    }

    fn change(operation: Operation, row: Option<&str>) -> Change {
        let event = Event {
            seq: 1,
            transaction: Transaction { life: 1, xid: 1 },
            logged_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            operation,
            message: Uuid::from_u128(7),
            sender: UserId(Uuid::from_u128(1)),
            receiver: UserId(Uuid::from_u128(2)),
            product: None,
            row: row.map(Into::into),
        };
        let mut builder = EventsFrameBuilder::new();
        builder.push(&event, event.sender);
        let frame = builder.finish(None);
        let (about, row) = frame.rows().next().unwrap();
        Change::new(about, row, &relation())
    }

    fn hears(binding: &Value, change: &Change) -> bool {
        let binding = RawValue::from_string(binding.to_string()).unwrap();
        change.is_for(&Binding::read(&binding, &relation()).unwrap())
    }

    const ROW: &str = r#"{"id":"00000000-0000-0000-0000-000000000007","sender_id":null,"content":"a \"b\" é","later":[1, 2]}"#;

    #[test]
    fn an_insert_has_the_whole_row_and_an_update_the_key_of_the_old_one() {
        let data: Value = serde_json::from_str(change(Operation::Insert, Some(ROW)).data()).unwrap();
        assert_eq!(
            data,
            json!({"schema": "public", "table": "messages", "commit_timestamp": "2023-11-14T22:13:20.123Z", "type": "INSERT",
                "columns": [{"name": "id", "type": "uuid"}, {"name": "sender_id", "type": "uuid"}, {"name": "content", "type": "text"}],
                "record": serde_json::from_str::<Value>(ROW).unwrap(), "errors": null})
        );
        let data: Value = serde_json::from_str(change(Operation::Update, Some(ROW)).data()).unwrap();
        assert_eq!(
            data["old_record"],
            json!({"id": "00000000-0000-0000-0000-000000000007"})
        );
        assert_eq!(
            (&data["type"], &data["record"]["content"]),
            (&json!("UPDATE"), &json!("a \"b\" é"))
        );
    }

    #[test]
    fn a_delete_has_the_key_and_is_filtered_by_what_the_log_knows() {
        let change = change(Operation::Delete, None);
        let data: Value = serde_json::from_str(change.data()).unwrap();
        assert_eq!(
            data["old_record"],
            json!({"id": "00000000-0000-0000-0000-000000000007"})
        );
        assert!(data.get("record").is_none());
        let of = |filter: &str| hears(&json!({"event": "DELETE", "filter": filter}), &change);
        assert!(of("sender_id=eq.00000000-0000-0000-0000-000000000001"));
        assert!(!of("sender_id=eq.00000000-0000-0000-0000-000000000002"));
        assert!(
            !of("content=eq.x") && !of("content=neq.x"),
            "what is not known is not heard"
        );
    }

    #[test]
    fn kinds_and_filters_decide_who_hears() {
        let change = change(Operation::Insert, Some(ROW));
        assert!(hears(&json!({"event": "INSERT"}), &change) && hears(&json!({"event": "*"}), &change));
        assert!(!hears(&json!({"event": "UPDATE"}), &change));
        assert!(hears(&json!({"filter": "content=eq.\"a \\\"b\\\" é\""}), &change));
        assert!(!hears(&json!({"filter": "content=eq.other"}), &change));
        assert!(!hears(
            &json!({"filter": "sender_id=eq.00000000-0000-0000-0000-000000000001"}),
            &change
        ));
    }

    #[test]
    fn a_selection_has_its_columns_and_the_key() {
        let binding = RawValue::from_string(json!({"select": ["content"]}).to_string()).unwrap();
        let select = Binding::read(&binding, &relation()).unwrap().select.unwrap();
        let data: Value =
            serde_json::from_str(&change(Operation::Insert, Some(ROW)).data_of(&relation(), &select))
                .unwrap();
        assert_eq!(
            data["record"],
            json!({"id": "00000000-0000-0000-0000-000000000007", "content": "a \"b\" é"})
        );
        assert_eq!(data["columns"].as_array().unwrap().len(), 2);
    }
}
