//! The name under which messages are subscribed to.

/// A table with its schema, as Supabase's clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealtimeTable {
    /// The schema's name.
    pub schema: String,
    /// The table's name.
    pub table: String,
}

impl Default for RealtimeTable {
    fn default() -> Self {
        Self {
            schema: "public".to_owned(),
            table: "messages".to_owned(),
        }
    }
}

impl RealtimeTable {
    /// Reads the setting: `schema.table`, or a table in `public`.
    ///
    /// # Errors
    /// A sentence that says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (schema, table) = text.split_once('.').unwrap_or(("public", text));
        if schema.is_empty() || table.is_empty() || table.contains('.') {
            return Err(format!(
                "`{text}` is not a table; write schema.table, such as public.messages"
            ));
        }
        Ok(Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_or_without_its_schema() {
        let read = |text| RealtimeTable::parse(text).map(|read| (read.schema, read.table));
        let expected = |schema: &str, table: &str| Ok((schema.to_owned(), table.to_owned()));
        assert_eq!(read("chat.notes"), expected("chat", "notes"));
        assert_eq!(read("messages"), expected("public", "messages"));
        for wrong in ["", ".", "a.", ".b", "a.b.c"] {
            assert!(read(wrong).unwrap_err().contains("public.messages"), "{wrong}");
        }
    }
}
