//! A table with a column of every kind that filters tell apart, and some rows of it as `row_to_json` writes them.

use crate::protocol::phoenix::relation::{Column, Relation};

/// Each column: its name, which is short so that a fuzzer finds it; its type; and its values in the rows. `-` is for a row
/// that does not have the column.
const COLUMNS: [(&str, &str, [&str; 4]); 23] = [
    (
        "id",
        "uuid",
        [
            r#""00000000-0000-4000-8000-000000000001""#,
            "null",
            r#""ffffffff-ffff-ffff-ffff-ffffffffffff""#,
            "-",
        ],
    ),
    ("b", "bool", ["true", "null", "false", "-"]),
    ("i2", "int2", ["7", "null", "-32768", "-"]),
    ("i4", "int4", ["7", "null", "-2147483648", "-"]),
    ("i8", "int8", ["7", "null", "9223372036854775807", "-"]),
    ("o", "oid", [r#""7""#, "null", r#""4294967295""#, "-"]),
    ("n", "numeric", ["7.50", "null", r#""NaN""#, "-"]),
    ("f8", "float8", ["7.5", "null", r#""-Infinity""#, "-"]),
    ("f4", "float4", ["0.1", "null", r#""NaN""#, "-"]),
    ("t", "text", [r#""a, \"b\" (c)\n é""#, "null", r#""""#, "-"]),
    ("v", "varchar", [r#""hello""#, "null", r#""100%_\\""#, "-"]),
    ("bp", "bpchar", [r#""ab  ""#, "null", r#""    ""#, "-"]),
    (
        "ci",
        "citext",
        [r#""Straße İ""#, "null", r#""\ud83d\ude00""#, "-"],
    ),
    (
        "tz",
        "timestamptz",
        [
            r#""2026-11-25T19:00:00.123456+00:00""#,
            "null",
            r#""0044-03-15T00:00:00+00:00 BC""#,
            "-",
        ],
    ),
    (
        "ts",
        "timestamp",
        [
            r#""2026-11-25T19:00:00""#,
            "null",
            r#""294276-12-31T23:59:59.999999""#,
            "-",
        ],
    ),
    ("d", "date", [r#""2026-11-25""#, "null", r#""infinity""#, "-"]),
    ("j", "json", [r#"{"a": [1, 2.0, null]}"#, "null", r#""x""#, "-"]),
    (
        "jb",
        "jsonb",
        [r#"[1, {"b": 1e2}]"#, "null", "18446744073709551615", "-"],
    ),
    ("at", "_text", [r#"["a","b c",null]"#, "null", "[]", "-"]),
    ("ai", "_int8", ["[1,-2,null]", "null", "[[1],[2]]", "-"]),
    ("aj", "_jsonb", [r#"[{"a":1}]"#, "null", "[null]", "-"]),
    ("e", "mood", [r#""ok""#, "null", r#""not \"ok\"""#, "-"]),
    ("ip", "inet", [r#""127.0.0.1/8""#, "null", r#""::1""#, "-"]),
];

/// The rows, each a list of columns' names and JSON texts.
pub type Rows = Vec<Vec<(&'static str, &'static str)>>;

/// The table.
pub fn relation() -> Relation {
    let columns = COLUMNS.map(|(name, kind, _)| Column {
        name: name.into(),
        kind: kind.into(),
    });
    Relation::new("public", "messages", columns.into())
}

/// A row of usual values, one of NULLs, one of extremes, and one without any column.
pub fn rows() -> Rows {
    let row = |number: usize| {
        let columns = COLUMNS.iter().map(|(name, _, values)| (*name, values[number]));
        columns.filter(|(_, value)| *value != "-").collect()
    };
    (0..4).map(row).collect()
}
