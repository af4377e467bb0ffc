//! What a client asks for when it joins a topic: the payload of `phx_join`, read leniently, because many versions of many clients
//! write it.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    change::PRIMARY_KEY,
    filter::{Filter, FilterError},
    relation::Relation,
};

/// The most bindings of one channel. A page of a real application has a handful.
pub const BINDINGS_MAX: usize = 100;

/// The most bindings of all channels of one connection: each is judged for every change of its person.
pub const BINDINGS_OF_CONNECTION_MAX: usize = 1000;

/// The most patterns and regular expressions in the filters of one connection. Each may look through a whole text again and again.
pub const PATTERNS_OF_CONNECTION_MAX: usize = 64;

/// The most regular expressions among them, each of which may take a megabyte: whoever connects can ask for them, a person or not.
pub const EXPRESSIONS_OF_CONNECTION_MAX: usize = 8;

/// The payload of a join.
#[derive(Clone, Debug, Default)]
pub struct Join {
    /// How broadcasts are handled.
    pub broadcast: BroadcastOptions,
    /// What is asked of broadcasts from the database.
    pub database: DatabaseOptions,
    /// What presence is asked for.
    pub presence: PresenceOptions,
    /// What changes are asked for, each as the client wrote it.
    pub bindings: Vec<Box<RawValue>>,
    /// Whether the topic is a private one.
    pub private: bool,
    /// Whether the answer is to wait until changes are heard.
    pub wait: bool,
    /// The person's token, if one came along.
    pub token: Option<String>,
}

/// How broadcasts of a channel are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BroadcastOptions {
    /// Whether each is answered.
    pub acknowledges: bool,
    /// Whether the sender hears its own.
    pub hears_itself: bool,
}

/// What is asked of broadcasts that Supabase's database sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Whether past ones are to be told.
    pub replay: bool,
    /// Whether a message is to tell that they are heard.
    pub replication_ready: bool,
}

/// What presence of a channel is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceOptions {
    /// Under which key the client is present; empty for one that the gateway makes up.
    pub key: String,
    /// Whether it was asked for by name. Clients before 2.8 did not say, and had it.
    pub enabled: Option<bool>,
}

impl Join {
    /// Reads the payload. What cannot be understood counts as not said, except bindings, which [`Binding::read`] judges.
    pub fn read(payload: &RawValue) -> Self {
        let fields: Fields<'_> = serde_json::from_str(payload.get()).unwrap_or_default();
        let config: Config<'_> = read(fields.config);
        let broadcast: Broadcast<'_> = read(config.broadcast);
        let presence: Presence<'_> = read(config.presence);
        let options: Options<'_> = read(config.postgres_changes_options);
        let bindings: Vec<Option<&RawValue>> = read(config.postgres_changes);
        Self {
            broadcast: BroadcastOptions {
                acknowledges: boolean(broadcast.ack).unwrap_or(false),
                hears_itself: boolean(broadcast.itself).unwrap_or(false),
            },
            database: DatabaseOptions {
                replay: broadcast.replay.is_some_and(|replay| replay.get() != "null"),
                replication_ready: boolean(broadcast.replication_ready).unwrap_or(false),
            },
            presence: PresenceOptions {
                key: presence.key.map(text).unwrap_or_default(),
                enabled: boolean(presence.enabled),
            },
            bindings: bindings.into_iter().flatten().map(RawValue::to_owned).collect(),
            private: boolean(config.private).unwrap_or(false),
            wait: boolean(options.wait).unwrap_or(false),
            token: fields.access_token.and_then(token),
        }
    }
}

/// The token in the payload of an `access_token` message, if there is one.
pub fn read_token(payload: &RawValue) -> Option<String> {
    let fields: Fields<'_> = serde_json::from_str(payload.get()).unwrap_or_default();
    fields.access_token.and_then(token)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config<'a> {
    #[serde(borrow)]
    broadcast: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    postgres_changes: Option<&'a RawValue>,
    #[serde(borrow)]
    postgres_changes_options: Option<&'a RawValue>,
    #[serde(borrow)]
    private: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Broadcast<'a> {
    #[serde(borrow)]
    ack: Option<&'a RawValue>,
    #[serde(borrow, rename = "self")]
    itself: Option<&'a RawValue>,
    #[serde(borrow)]
    replay: Option<&'a RawValue>,
    #[serde(borrow)]
    replication_ready: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Presence<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    enabled: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options<'a> {
    #[serde(borrow)]
    wait: Option<&'a RawValue>,
}

fn read<'a, T: Default + Deserialize<'a>>(value: Option<&'a RawValue>) -> T {
    value
        .and_then(|value| serde_json::from_str(value.get()).ok())
        .unwrap_or_default()
}

/// A boolean, or the text of one, as clients in other languages write it.
fn boolean(value: Option<&RawValue>) -> Option<bool> {
    match value?.get().trim_matches('"').to_ascii_lowercase().as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// A string, or the text of a number.
fn text(value: &RawValue) -> String {
    match serde_json::from_str(value.get()) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(serde_json::Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// A token, unless it is null or empty.
fn token(value: &RawValue) -> Option<String> {
    let token: Option<String> = serde_json::from_str(value.get()).ok()?;
    token.filter(|token| !token.is_empty())
}

/// Which changes a binding hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All.
    Any,
    /// New rows.
    Insert,
    /// Changed rows.
    Update,
    /// Deleted rows.
    Delete,
}

/// One subscription to changes within a channel.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Which changes.
    pub kind: Kind,
    /// Of which rows.
    pub filter: Filter,
    /// With which columns; all, if nothing is said.
    pub select: Option<Box<[Box<str>]>>,
}

/// Why a binding cannot be heard. The texts are for the developer of the page.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BindingError {
    /// It is no JSON object, or a member has another type.
    #[error(
        "a postgres_changes binding has to be an object with `event`, `schema`, `table` and `filter` as strings and `select` as a list of column names"
    )]
    Malformed,
    /// There are too many.
    #[error("a channel may have {BINDINGS_MAX} postgres_changes bindings; use fewer, or wider filters")]
    TooMany,
    /// All channels of the connection have too many together.
    #[error(
        "ChannelRateLimitReached: the channels of a connection may have {BINDINGS_OF_CONNECTION_MAX} postgres_changes bindings together, with {PATTERNS_OF_CONNECTION_MAX} patterns and {EXPRESSIONS_OF_CONNECTION_MAX} regular expressions in their filters; leave a channel first"
    )]
    TooManyOfConnection,
    /// Changes of that table are not told.
    #[error(
        "changes of {0} are not told here, only those of {1}; the operator names that table in HERALD_REALTIME_TABLE"
    )]
    Relation(String, String),
    /// A selected column does not exist.
    #[error("`select` names the column {0}, which {1} does not have")]
    Column(String, String),
    /// The filter cannot be understood.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

#[derive(Deserialize)]
struct BindingFields {
    #[serde(default, deserialize_with = "nullable")]
    event: String,
    #[serde(default, deserialize_with = "nullable")]
    schema: String,
    #[serde(default, deserialize_with = "nullable")]
    table: String,
    #[serde(default, deserialize_with = "nullable")]
    filter: String,
    #[serde(default)]
    select: Option<Vec<Box<str>>>,
}

fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl Binding {
    /// Reads a binding and holds it against the table whose changes are told.
    ///
    /// # Errors
    /// [`BindingError`].
    pub fn read(value: &RawValue, relation: &Relation) -> Result<Self, BindingError> {
        let is_object = value.get().starts_with('{');
        let fields: BindingFields = Some(value.get())
            .filter(|_| is_object)
            .and_then(|text| serde_json::from_str(text).ok())
            .ok_or(BindingError::Malformed)?;
        let names = |asked: &str, own: &str| asked.is_empty() || asked == "*" || asked == own;
        // Where a table is named and no schema, Supabase takes `public` for it.
        let schema = match (fields.schema.as_str(), fields.table.as_str()) {
            ("", "" | "*") => "*",
            ("", _) => "public",
            (schema, _) => schema,
        };
        if !names(schema, relation.schema()) || !names(&fields.table, relation.table()) {
            return Err(BindingError::Relation(
                short(&format!("{schema}.{}", fields.table)),
                format!("{}.{}", relation.schema(), relation.table()),
            ));
        }
        if let Some(unknown) = fields
            .select
            .iter()
            .flatten()
            .find(|column| relation.column(column).is_none())
        {
            return Err(BindingError::Column(short(unknown), relation.table().to_owned()));
        }
        Ok(Self {
            kind: match fields.event.to_ascii_uppercase().as_str() {
                "INSERT" => Kind::Insert,
                "UPDATE" => Kind::Update,
                "DELETE" => Kind::Delete,
                _ => Kind::Any,
            },
            filter: Filter::parse(&fields.filter, relation)?,
            select: fields.select.map(|mut columns| {
                // Whatever is selected, a row has to be told from others.
                columns.push(PRIMARY_KEY.into());
                // A column that is named a thousand times is one all the same.
                columns.sort_unstable();
                columns.dedup();
                columns.into()
            }),
        })
    }
}

/// As much of a text as an error tells.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

/// What a join is answered with: the bindings as they came, in order, each with its identifier.
pub fn encode_bindings(bindings: &[Box<RawValue>], identifiers: &[u64]) -> String {
    let each: Vec<String> = bindings
        .iter()
        .zip(identifiers)
        .map(|(binding, identifier)| {
            let text = binding.get();
            let inside = text.strip_suffix('}').unwrap_or(text).trim_end();
            let separator = if inside.ends_with('{') { "" } else { "," };
            format!(r#"{inside}{separator}"id":{identifier}}}"#)
        })
        .collect();
    format!(r#"{{"postgres_changes":[{}]}}"#, each.join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::relation::Column, *};

    fn raw(value: &Value) -> Box<RawValue> {
        RawValue::from_string(value.to_string()).unwrap()
    }

    fn relation() -> Relation {
        let column = |name: &str, kind: &str| Column {
            name: name.into(),
            kind: kind.into(),
        };
        Relation::new(
            "public",
            "messages",
            vec![
                column("id", "uuid"),
                column("content", "text"),
                column("is_read", "bool"),
            ],
        )
    }

    fn error(binding: &Value) -> String {
        Binding::read(&raw(binding), &relation()).unwrap_err().to_string()
    }

    #[test]
    fn a_join_is_read_as_the_newest_client_writes_it() {
        let join = Join::read(&raw(&json!({
            "config": {
                "broadcast": {"ack": true, "self": true}, "presence": {"key": "", "enabled": false},
                "postgres_changes": [{"event": "INSERT", "schema": "public", "table": "messages"}], "private": true,
                "postgres_changes_options": {"wait": true, "timeout": 15000},
            },
            "access_token": "a.b.c",
        })));
        assert!(join.broadcast.acknowledges && join.broadcast.hears_itself && join.private && join.wait);
        assert_eq!(join.presence.enabled, Some(false));
        assert_eq!((join.bindings.len(), join.token.as_deref()), (1, Some("a.b.c")));
    }

    #[test]
    fn what_other_clients_write_is_taken_for_what_they_mean() {
        let join = Join::read(&raw(&json!({
            "config": {"broadcast": {"self": "True"}, "presence": {"key": 7}, "postgres_changes": [null, {}], "private": "false"},
            "access_token": null, "version": "x",
        })));
        assert!(join.broadcast.hears_itself && !join.private);
        assert_eq!((join.presence.key.as_str(), join.presence.enabled), ("7", None));
        assert_eq!((join.bindings.len(), join.token), (1, None));
        for odd in [
            json!({}),
            json!([]),
            json!("x"),
            json!({"config": 5}),
            json!({"config": {"postgres_changes": "x"}}),
        ] {
            assert!(Join::read(&raw(&odd)).bindings.is_empty(), "{odd}");
        }
    }

    #[test]
    fn bindings_are_given_back_verbatim_with_their_identifiers() {
        let texts = [r#"{"event":"INSERT", "nested":{"a":{}} , "n":1.0}"#, "{ }"];
        let bindings: Vec<_> = texts
            .iter()
            .map(|text| RawValue::from_string((*text).to_owned()).unwrap())
            .collect();
        assert_eq!(
            encode_bindings(&bindings, &[7, 8]),
            r#"{"postgres_changes":[{"event":"INSERT", "nested":{"a":{}} , "n":1.0,"id":7},{"id":8}]}"#
        );
        assert_eq!(encode_bindings(&[], &[]), r#"{"postgres_changes":[]}"#);
    }

    #[test]
    fn tables_and_events_are_understood_as_supabase_does() {
        for (binding, kind) in [
            (
                json!({"event": "insert", "schema": "public", "table": "messages"}),
                Kind::Insert,
            ),
            (json!({"event": "*", "schema": "*"}), Kind::Any),
            (json!({"event": "whatever", "schema": "public"}), Kind::Any),
            (
                json!({"event": "DELETE", "table": "messages", "filter": null}),
                Kind::Delete,
            ),
            (json!({}), Kind::Any),
        ] {
            assert_eq!(
                Binding::read(&raw(&binding), &relation()).unwrap().kind,
                kind,
                "{binding}"
            );
        }
    }

    #[test]
    fn a_column_that_is_selected_again_and_again_is_kept_once() {
        let select = vec!["id"; 10_000];
        let binding = Binding::read(&raw(&json!({ "select": select })), &relation()).unwrap();
        assert_eq!(binding.select.as_deref(), Some(&["id".into()][..]));
    }

    #[test]
    fn what_cannot_be_heard_is_refused_with_its_reason() {
        assert!(error(&json!({"schema": "public", "table": "profiles"})).contains("public.profiles"));
        assert!(error(&json!({"schema": "other", "table": "messages"})).contains("other.messages"));
        assert!(error(&json!({"select": ["secret"]})).contains("secret"));
        assert!(error(&json!({"filter": "nonsense"})).len() > 10);
        assert!(error(&json!({"filter": 7})).contains("strings"));
        assert!(error(&json!([])).contains("object"));
    }
}
