//! A filter of a client: it is read or refused with a short sentence, and judges the same row the same way each time.

#![no_main]

use std::sync::LazyLock;

use herald_fuzz::{
    protocol::phoenix::{
        filter::{Filter, FilterError},
        relation::Relation,
    },
    table::{self, Rows},
};
use libfuzzer_sys::{Corpus, fuzz_target};

static RELATION: LazyLock<Relation> = LazyLock::new(table::relation);
static ROWS: LazyLock<Rows> = LazyLock::new(table::rows);

/// More than any refusal takes, in bytes: an excerpt of what was written, the names of the columns, and a sentence.
const REFUSAL_BYTES_MAX: usize = 1500;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    let read = judge(text);
    assert_eq!(read, judge(text));
    match read {
        Err(error) => assert!(error.to_string().len() <= REFUSAL_BYTES_MAX, "{error}"),
        // What has no value for a column is judged by no condition, and admitted by a filter without any only.
        Ok(admitted) => assert_eq!(admitted.last(), Some(&text.trim().is_empty())),
    }
    Corpus::Keep
});

/// Which rows a filter admits.
fn judge(text: &str) -> Result<Vec<bool>, FilterError> {
    let filter = Filter::parse(text, &RELATION)?;
    let admits = |row: &Vec<(&str, &'static str)>| {
        let value_of = |column: &str| {
            row.iter()
                .find(|(name, _)| *name == column)
                .map(|(_, value)| *value)
        };
        filter.admits(value_of)
    };
    Ok(ROWS.iter().map(admits).collect())
}
