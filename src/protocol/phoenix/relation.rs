//! A table as a subscriber may know it: its columns in order, and their list as the text that goes into every
//! change.

use std::{borrow::Cow, ops::Range};

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: Box<str>,
    /// `pg_type.typname` of its type, such as `uuid`, `int8`, `timestamptz`, and `_text` for an array of
    /// texts.
    pub kind: Box<str>,
}

/// A table or a view with its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    schema: Box<str>,
    table: Box<str>,
    columns: Vec<Column>,
    /// The whole list as JSON.
    encoded: Box<str>,
    /// Where each column stands in `encoded`, in the order of `columns`.
    places: Vec<Range<usize>>,
}

impl Relation {
    /// Takes a table's columns in the order in which they are told (that of `pg_attribute.attnum`), and
    /// encodes their list once.
    pub fn new(schema: impl Into<Box<str>>, table: impl Into<Box<str>>, columns: Vec<Column>) -> Self {
        let mut encoded = String::from("[");
        let mut places = Vec::with_capacity(columns.len());
        for Column { name, kind } in &columns {
            if encoded.len() > 1 {
                encoded.push(',');
            }
            let start = encoded.len();
            let [name, kind] = [name, kind].map(|text| serde_json::Value::from(&**text));
            let entry = format!(r#"{{"name":{name},"type":{kind}}}"#);
            encoded.push_str(&entry);
            places.push(start..encoded.len());
        }
        encoded.push(']');
        Self {
            schema: schema.into(),
            table: table.into(),
            columns,
            encoded: encoded.into(),
            places,
        }
    }

    /// The schema's name.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The columns, in order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The column of that exact name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The list of the columns as JSON, `[{"name":"id","type":"uuid"},…]`: all of them, or those that are
    /// selected, in the table's order. A selected name that the table does not have is left out.
    pub fn columns_json(&self, select: Option<&[Box<str>]>) -> Cow<'_, str> {
        let Some(select) = select else {
            return Cow::Borrowed(&self.encoded);
        };
        let selected: Vec<&str> = self
            .columns
            .iter()
            .zip(&self.places)
            .filter(|(column, _)| select.contains(&column.name))
            .map(|(_, place)| &self.encoded[place.clone()])
            .collect();
        Cow::Owned(format!("[{}]", selected.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation() -> Relation {
        let column = |name: &str, kind: &str| Column {
            name: name.into(),
            kind: kind.into(),
        };
        let columns = vec![
            column("id", "uuid"),
            column("a \"b\",{", "_text"),
            column("n", "int8"),
        ];
        Relation::new("public", "messages", columns)
    }

    #[test]
    fn the_list_of_columns_is_json_in_the_tables_order() {
        assert_eq!(
            relation().columns_json(None),
            r#"[{"name":"id","type":"uuid"},{"name":"a \"b\",{","type":"_text"},{"name":"n","type":"int8"}]"#
        );
        assert_eq!(Relation::new("s", "t", Vec::new()).columns_json(None), "[]");
    }

    #[test]
    fn a_selection_keeps_the_order_and_passes_over_strangers() {
        let relation = relation();
        let select = |names: &[&str]| {
            let names: Vec<Box<str>> = names.iter().map(|name| Box::from(*name)).collect();
            relation.columns_json(Some(&names)).into_owned()
        };
        assert_eq!(
            select(&["n", "a \"b\",{", "nobody"]),
            r#"[{"name":"a \"b\",{","type":"_text"},{"name":"n","type":"int8"}]"#
        );
        assert_eq!(select(&["n"]), r#"[{"name":"n","type":"int8"}]"#);
        assert_eq!(select(&[]), "[]");
    }

    #[test]
    fn columns_are_found_by_their_exact_names() {
        let relation = relation();
        assert_eq!((relation.schema(), relation.table()), ("public", "messages"));
        assert_eq!(relation.column("n").map(|column| &*column.kind), Some("int8"));
        assert_eq!(relation.column("N"), None);
        assert_eq!(relation.columns().len(), 3);
    }
}
