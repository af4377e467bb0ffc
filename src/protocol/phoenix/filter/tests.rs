//! Filters as a whole: every operator on every type, what is refused and in which words.

use proptest::prelude::*;

use super::*;

/// A column of every type that is told apart, and of some that are not. Each column is named after its type.
const KINDS: [&str; 23] = [
    "uuid",
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "numeric",
    "float4",
    "float8",
    "text",
    "varchar",
    "name",
    "bpchar",
    "citext",
    "timestamptz",
    "timestamp",
    "date",
    "json",
    "jsonb",
    "_text",
    "_int8",
    "inet",
    "mood",
];

fn relation() -> Relation {
    let column = |kind: &str| Column {
        name: kind.into(),
        kind: kind.into(),
    };
    Relation::new("public", "things", KINDS.into_iter().map(column).collect())
}

fn parse(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text, &relation())
}

/// Whether a filter admits a row that has one value in all its columns.
fn admits(filter: &str, json: &str) -> bool {
    parse(filter)
        .unwrap_or_else(|error| panic!("{filter}: {error}"))
        .admits(|_| Some(json))
}

fn message(filter: &str) -> String {
    parse(filter).expect_err(filter).to_string()
}

/// Asks for both the condition and its negation: the condition is true, false or unknown.
#[track_caller]
fn judge(column: &str, question: &str, json: &str, expected: Option<bool>) {
    let positive = admits(&format!("{column}={question}"), json);
    let negative = admits(&format!("{column}=not.{question}"), json);
    assert_eq!(
        (positive, negative),
        (expected == Some(true), expected == Some(false)),
        "{column}={question} for {json}"
    );
}

/// A type, three of its values in ascending order as `row_to_json` writes them, and texts for the second of
/// them.
type Ordered = (&'static str, [&'static str; 3], &'static [&'static str]);

const ORDERED: [Ordered; 17] = [
    (
        "uuid",
        [
            r#""0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11""#,
            r#""ab9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11""#,
            r#""fb9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11""#,
        ],
        &[
            "ab9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11",
            "AB9C7C9E-8F60-4F5E-9D0C-3F1F7A1F2C11",
            "ab9c7c9e8f604f5e9d0c3f1f7a1f2c11",
            "{ab9c7c9e-8f604f5e-9d0c3f1f-7a1f2c11}",
            "ab9c-7c9e-8f60-4f5e-9d0c-3f1f-7a1f-2c11",
        ],
    ),
    ("int2", ["-32768", "7", "32767"], &["7", "+7", "007"]),
    ("int4", ["-2147483648", "-7", "2147483647"], &["-7", "-07"]),
    (
        "int8",
        ["9007199254740992", "9007199254740993", "9223372036854775807"],
        &["9007199254740993"],
    ),
    ("oid", [r#""0""#, r#""5""#, r#""4294967295""#], &["5"]),
    (
        "numeric",
        [r#""-Infinity""#, "1.50", r#""NaN""#],
        &["1.5", "1.500", "15e-1", "+01.5"],
    ),
    (
        "numeric",
        ["9007199254740992.1", "9007199254740993.0", r#""Infinity""#],
        &["9007199254740993"],
    ),
    ("float8", ["-1e-300", "0.1", r#""NaN""#], &["0.1", "1e-1", ".1"]),
    (
        "float8",
        ["1e+308", r#""Infinity""#, r#""NaN""#],
        &["inf", "Infinity", "+infinity"],
    ),
    // As a double this column's 0.1 would not be that of a filter.
    (
        "float4",
        ["-0.5", "0.1", r#""Infinity""#],
        &["0.1", "0.100000001"],
    ),
    (
        "text",
        [r#""B""#, r#""a \"b\"\\\n""#, r#""é""#],
        &["\"a \\\"b\\\"\\\\\n\""],
    ),
    ("varchar", [r#""""#, r#""a""#, r#""aa""#], &["a", "\"a\""]),
    (
        "bpchar",
        [r#""a   ""#, r#""b   ""#, r#""c""#],
        &["b", "\"b \"", "\"b       \""],
    ),
    ("citext", [r#""A""#, r#""É""#, r#""ê""#], &["é", "É"]),
    (
        "timestamptz",
        [
            r#""2026-11-25T19:00:00.123456+02:00""#,
            r#""2026-11-25T19:00:00+00:00""#,
            r#""infinity""#,
        ],
        &[
            "2026-11-25 19:00:00",
            "2026-11-25T19:00:00Z",
            "2026-11-25 21:30:00+02:30",
        ],
    ),
    (
        "timestamp",
        [
            r#""0044-03-15T00:00:00 BC""#,
            r#""2026-11-25T00:00:00""#,
            r#""10000-01-01T00:00:00""#,
        ],
        &["2026-11-25", "2026-11-25 00:00:00.000", "2026-11-25T00:00:00+07"],
    ),
    (
        "date",
        [r#""-infinity""#, r#""2026-11-25""#, r#""2026-11-26""#],
        &["2026-11-25", "2026-11-25 10:00:00"],
    ),
];

#[test]
fn ordered_types_compare_by_value_and_null_is_unknown() {
    for (column, [less, equal, greater], texts) in ORDERED {
        for text in texts {
            for (operator, expected) in [
                ("eq", [false, true, false]),
                ("neq", [true, false, true]),
                ("lt", [true, false, false]),
                ("lte", [true, true, false]),
                ("gt", [false, false, true]),
                ("gte", [false, true, true]),
                ("isdistinct", [true, false, true]),
            ] {
                let question = format!("{operator}.{text}");
                for (json, expected) in [less, equal, greater].into_iter().zip(expected) {
                    judge(column, &question, json, Some(expected));
                }
                let null = (operator == "isdistinct").then_some(true);
                judge(column, &question, "null", null);
            }
            let list = format!("in.({text})");
            judge(column, &list, less, Some(false));
            judge(column, &list, equal, Some(true));
            judge(column, &list, "null", None);
        }
    }
}

#[test]
fn booleans_are_read_as_postgres_reads_them() {
    for text in ["true", "T", "tru", "yes", "y", "on", "1", "TRUE"] {
        judge("bool", &format!("eq.{text}"), "true", Some(true));
        judge("bool", &format!("eq.{text}"), "false", Some(false));
        judge("bool", &format!("lt.{text}"), "false", Some(true));
        judge("bool", &format!("eq.{text}"), "null", None);
    }
    for text in ["false", "f", "no", "n", "off", "of", "0", "False"] {
        judge("bool", &format!("eq.{text}"), "false", Some(true));
        judge("bool", &format!("gt.{text}"), "true", Some(true));
    }
    for text in ["", "o", "2", "truely", "wahr", "null", "t\u{e9}"] {
        assert!(parse(&format!("bool=eq.{text}")).is_err(), "{text}");
    }
}

#[test]
fn types_without_an_order_compare_as_equal_or_not() {
    for (column, text, same, other) in [
        ("inet", "192.168.0.1", r#""192.168.0.1""#, r#""192.168.0.2""#),
        ("mood", "happy", r#""happy""#, r#""Happy""#),
        ("_text", r#""{a,\"b,c\"}""#, r#"["a","b,c"]"#, r#"["a","b"]"#),
        ("_text", "{}", "[]", r#"[""]"#),
        ("_text", r#""[\"a\"]""#, r#"["a"]"#, r#"["b"]"#),
        ("_int8", r#""{1,NULL}""#, "[1,null]", "[1,2]"),
        (
            "_int8",
            "{9007199254740993}",
            "[9007199254740993]",
            "[9007199254740992]",
        ),
        ("_int8", "{1}", "[1]", "[[1]]"),
        ("jsonb", "{\"b\":[1.0]}", r#"{"b": [1]}"#, r#"{"b": [2]}"#),
        (
            "jsonb",
            r#""{\"a\":1,\"b\":null}""#,
            r#"{"b": null, "a": 1}"#,
            r#"{"a": 1}"#,
        ),
        ("json", "5", "5.0", "6"),
        (
            "jsonb",
            "18446744073709551615",
            "18446744073709551615",
            "18446744073709551614",
        ),
    ] {
        judge(column, &format!("eq.{text}"), same, Some(true));
        judge(column, &format!("eq.{text}"), other, Some(false));
        judge(column, &format!("eq.{text}"), "null", None);
        judge(column, &format!("neq.{text}"), other, Some(true));
        judge(column, &format!("isdistinct.{text}"), same, Some(false));
        judge(column, &format!("isdistinct.{text}"), other, Some(true));
        judge(column, &format!("isdistinct.{text}"), "null", Some(true));
        for operator in ["lt", "lte", "gt", "gte"] {
            let error = parse(&format!("{column}={operator}.{text}")).unwrap_err();
            assert!(matches!(error, FilterError::NotOrdered { .. }), "{error}");
        }
    }
    judge("mood", "in.(sad, happy)", r#""happy""#, Some(true));
    judge("mood", "in.(sad, happy)", r#""calm""#, Some(false));
}

#[test]
fn lists_follow_the_rules_of_any() {
    judge("int4", "in.(1,2, 3 )", "3", Some(true));
    judge("int4", "in.(1,2,3)", "4", Some(false));
    judge("text", r#"in.(a,"b,c",")")"#, r#"")""#, Some(true));
    judge("text", r#"in.(a,"b,c")"#, r#""b,c""#, Some(true));
    judge("text", r#"in.(a,"b,c")"#, r#""b""#, Some(false));
    // A NULL in the list makes unknown whatever is not in it.
    judge("int4", "in.(1,null)", "1", Some(true));
    judge("int4", "in.(1,NULL)", "2", None);
    judge("text", r#"in.("null")"#, r#""null""#, Some(true));
    // Nothing is in an empty list, not even NULL.
    judge("int4", "in.()", "1", Some(false));
    judge("int4", "in.()", "null", Some(false));
}

#[test]
fn is_knows_two_values_only() {
    for column in KINDS {
        judge(column, "is.null", "null", Some(true));
        judge(column, "is.NULL", "0", Some(false));
    }
    judge("text", "is.null", r#""null""#, Some(false));
    for (keyword, [yes, no, null]) in [
        ("true", [true, false, false]),
        ("False", [false, true, false]),
        ("unknown", [false, false, true]),
        ("null", [false, false, true]),
    ] {
        let question = format!("is.{keyword}");
        judge("bool", &question, "true", Some(yes));
        judge("bool", &question, "false", Some(no));
        judge("bool", &question, "null", Some(null));
    }
}

#[test]
fn distinct_from_null_is_not_null() {
    for column in KINDS {
        judge(column, "isdistinct.null", "null", Some(false));
        judge(column, "isdistinct.NULL", r#""x""#, Some(true));
    }
    judge("text", r#"isdistinct."null""#, r#""null""#, Some(false));
    judge("text", "eq.null", r#""null""#, Some(true));
    judge("text", "eq.null", "null", None);
}

#[test]
fn patterns_are_for_texts() {
    for column in ["text", "varchar", "name", "bpchar", "citext"] {
        judge(column, "like.hel%", r#""hello""#, Some(true));
        judge(column, "like.hel_", r#""hello""#, Some(false));
        judge(column, "ilike.HEL%", r#""hello""#, Some(true));
        judge(column, "match.^h.*o$", r#""hello""#, Some(true));
        judge(column, "match.^l", r#""hello""#, Some(false));
        judge(column, "imatch.^HEL", r#""hello""#, Some(true));
        let case_counts = column != "citext";
        judge(column, "like.HEL%", r#""hello""#, Some(!case_counts));
        judge(column, "match.^HEL", r#""hello""#, Some(!case_counts));
        for operator in ["like", "ilike", "match", "imatch"] {
            judge(column, &format!("{operator}.a"), "null", None);
        }
    }
    judge("text", "match.a.b", r#""a\nb""#, Some(true));
    judge("text", r#"match."^(a|b),{2}$""#, r#""a,,""#, Some(true));
    judge("text", "imatch.ärger", r#""ÄRGER""#, Some(true));
    // As in Postgres, a pattern sees the blanks that a comparison passes over.
    judge("bpchar", "like.a", r#""a  ""#, Some(false));
    judge("bpchar", "match.^a$", r#""a  ""#, Some(false));
    for column in KINDS {
        if matches!(Kind::of(column), Kind::Text(_)) {
            continue;
        }
        for operator in ["like", "ilike", "match", "imatch"] {
            let error = parse(&format!("{column}={operator}.a")).unwrap_err();
            assert!(matches!(error, FilterError::NotText { .. }), "{error}");
        }
    }
}

#[test]
fn all_conditions_have_to_be_true() {
    let row = |column: &str| match column {
        "int4" => Some("5"),
        "text" => Some(r#""a,b""#),
        "bool" => Some("null"),
        _ => None,
    };
    for (text, expected) in [
        ("", true),
        (" \t\n", true),
        ("int4=eq.5", true),
        (r#"int4=gt.4,int4=lt.6,text=eq."a,b""#, true),
        (r#" int4=eq.5 , text=in.("a,b",c) "#, true),
        ("int4=eq.5,text=eq.a", false),
        ("int4=eq.5,bool=eq.true", false),
        ("int4=eq.5,bool=not.eq.true", false),
        ("int4=eq.5,bool=not.is.true", true),
        // The row does not say.
        ("int4=eq.5,date=is.null", false),
        ("int4=eq.5,date=not.is.null", false),
        ("int4=eq.5,date=isdistinct.2025-01-01", false),
    ] {
        assert_eq!(parse(text).unwrap().admits(row), expected, "{text}");
    }
}

#[test]
fn a_value_of_another_type_than_the_columns_is_never_admitted() {
    for column in [
        "uuid",
        "bool",
        "int8",
        "numeric",
        "float4",
        "text",
        "timestamptz",
        "_int8",
        "jsonb",
    ] {
        let value = match column {
            "uuid" => "0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11",
            "bool" => "true",
            "timestamptz" => "2025-01-01",
            "_int8" => "{1}",
            _ => "1",
        };
        for json in ["", "\"", "{", "[", "\"\\ud800\"", "tru"] {
            for operator in ["eq", "neq", "isdistinct"] {
                judge(column, &format!("{operator}.{value}"), json, None);
            }
            judge(column, &format!("in.({value})"), json, None);
        }
    }
}

#[test]
fn values_that_the_type_cannot_take_are_refused() {
    for (column, texts) in [
        (
            "uuid",
            &[
                "",
                "5",
                "0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c1",
                "0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11a",
            ][..],
        ),
        (
            "uuid",
            &[
                "{0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11",
                "0b9-c7c9e8f604f5e9d0c3f1f7a1f2c11",
                "null",
            ],
        ),
        ("int2", &["32768", "-32769", "1.0", "x", "", "null"]),
        ("int4", &["2147483648", "1e3", "0x10", "1 2"]),
        ("int8", &["9223372036854775808", "-9223372036854775809"]),
        ("oid", &["-1", "4294967296"]),
        ("numeric", &["", "1,5", "abc", "1e999999", "null"]),
        ("float8", &["1e309", "1e-400", "five"]),
        ("float4", &["1e39", "1e-60"]),
        ("timestamptz", &["tomorrow", "2025-02-30", "", "10:00"]),
        ("date", &["2025", "31.01.2025"]),
        ("_int8", &["1", "{a}", "{1", "{{1},{2}}", "{1,}", "[1"]),
        ("jsonb", &["{a:1}", "", "abc"]),
    ] {
        for text in texts {
            for question in [
                format!("eq.\"{text}\""),
                format!("in.(\"{text}\")"),
                format!("isdistinct.\"{text}\""),
            ] {
                let error = parse(&format!("{column}={question}")).expect_err(&question);
                assert!(
                    matches!(error, FilterError::BadValue { .. }),
                    "{column}={question}: {error}"
                );
            }
        }
    }
}

#[test]
fn refusals_say_what_to_write() {
    let table = [Column {
        name: "id".into(),
        kind: "uuid".into(),
    }];
    let small = Relation::new("public", "messages", table.into());
    assert_eq!(
        Filter::parse("ID=eq.5", &small).unwrap_err().to_string(),
        "there is no column `ID` in messages; its columns are id"
    );
    let operators = "eq, neq, lt, lte, gt, gte, in, like, ilike, is, match, imatch, isdistinct";
    for (filter, expected) in [
        (
            "undefined",
            "`undefined` is not a condition: write column=operator.value, as in id=eq.5; if it belongs to a value \
             with a comma, put double quotes around the value"
                .to_owned(),
        ),
        (
            "int4=5",
            format!(
                "the condition on int4 has no operator before `5`: write int4=operator.value, where the operator is one of \
                 {operators}, or one of them behind not."
            ),
        ),
        (
            "int4=foo.hey",
            format!(
                "`foo` in the condition on int4 is not an operator: use one of {operators}, or one of them behind not."
            ),
        ),
        (
            "int4=eq.x",
            "`x` is no value for the column int4, which is of type int4: write a whole number from -2147483648 to \
             2147483647"
                .to_owned(),
        ),
        (
            "text=match.(a",
            "the pattern on text is not a regular expression that is understood here: unclosed group".to_owned(),
        ),
        (
            "int4=is.true",
            "the column int4 is of type int4, and is.true is for columns of type bool only: use is.null or eq".to_owned(),
        ),
        (
            "mood=gt.sad",
            "the column mood is of type mood, whose values gt does not compare: use eq, neq or in".to_owned(),
        ),
    ] {
        assert_eq!(message(filter), expected);
    }
}

#[test]
fn refusals_show_where_it_is_wrong() {
    let beginning = |filter: &str| message(filter).chars().take(40).collect::<String>();
    assert_eq!(
        beginning("int4=eq.5,"),
        "the filter has a comma without a conditi"
    );
    assert_eq!(
        beginning("text=eq.:(,int4=eq.5"),
        "`(,int4=eq.5` is never closed: put doubl"
    );
    assert_eq!(
        beginning(r#"text=eq."a"b"#),
        r#"the double quotes of `"a"b` in the condi"#
    );
    assert_eq!(
        beginning("int4=in.1,2"),
        "`1` in the condition on int4 is not a li"
    );
    assert_eq!(
        beginning("int4=in.(1,,2)"),
        "`(1,,2)` in the condition on int4 is not"
    );
    assert_eq!(beginning("bool=is.5"), "`5` in the condition on bool is nothing ");
    assert_eq!(
        beginning(r"text=like.a\"),
        "the pattern on text ends with a backslas"
    );
}

#[test]
fn bounds_hold() {
    let long = format!("text=eq.{}", "a".repeat(FILTER_BYTES_MAX - 8));
    assert!(parse(&long).is_ok());
    assert_eq!(
        parse(&format!("{long}a")).unwrap_err(),
        FilterError::TooLong { bytes: 4097 }
    );

    let many = vec!["int4=gt.1"; CONDITIONS_MAX].join(",");
    assert!(parse(&many).is_ok());
    let error = parse(&format!("{many},int4=gt.1")).unwrap_err();
    assert_eq!(error, FilterError::TooManyConditions { count: 33 });

    let list = vec!["1"; VALUES_MAX].join(",");
    assert!(parse(&format!("int4=in.({list})")).is_ok());
    let error = parse(&format!("int4=in.({list},1)")).unwrap_err();
    assert!(
        matches!(error, FilterError::TooManyValues { count: 101, .. }),
        "{error}"
    );

    for operator in ["like", "ilike", "match", "imatch"] {
        let pattern = "a".repeat(PATTERN_BYTES_MAX);
        assert!(parse(&format!("text={operator}.{pattern}")).is_ok());
        let error = parse(&format!("text={operator}.{pattern}a")).unwrap_err();
        assert!(
            matches!(error, FilterError::PatternTooLong { bytes: 513, .. }),
            "{error}"
        );
    }
    assert_eq!(
        message(r#"text=match."(a{1000}){1000}""#),
        "the pattern on text is not a regular expression that is understood here: it repeats too much, and would need \
         too much memory"
    );
    let address = r#"text=imatch."^[\\w.+-]+@([\\w-]+\\.)+\\w{2,8}$""#;
    assert!(parse(address).is_ok());

    let several = ["text=match.a"; EXPRESSIONS_MAX].join(",");
    assert!(parse(&format!("{several},text=like.a")).is_ok());
    let error = parse(&format!("{several},text=not.imatch.a")).unwrap_err();
    assert_eq!(error, FilterError::TooManyExpressions);
}

#[test]
fn a_hundred_uuids_fit() {
    let list = vec!["0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11"; VALUES_MAX].join(",");
    assert!(parse(&format!("uuid=in.({list})")).is_ok());
}

/// As the client library quotes a value.
fn quote(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
}

fn json(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

proptest! {
    #[test]
    fn a_quoted_text_admits_that_text_only(value in "\\PC{0,20}|[\",\\\\().%_ a]{0,8}", other in "[\",\\\\ a]{0,3}") {
        let quoted = quote(&value);
        for filter in [format!("text=eq.{quoted}"), format!("text=in.({quoted},{quoted})")] {
            prop_assert!(admits(&filter, &json(&value)), "{}", filter);
            prop_assert_eq!(admits(&filter, &json(&other)), value == other, "{}", filter);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
        let _read = parse(&text).is_ok();
    }

    #[test]
    fn no_condition_makes_the_reader_or_the_judge_panic(
        column in prop::sample::select(&KINDS[..]),
        not in prop::sample::select(&["", "not."][..]),
        operator in prop::sample::select(OPERATORS.map(|(name, _)| name).to_vec()),
        value in "\\PC{0,20}|[-+0-9.eE{}()\",\\\\:TZa-f ]{0,24}|\\([0-9,\"\\\\n]{0,9}\\)",
        row in "\\PC{0,20}|\"[0-9TZ:.+-]{0,30}\"|[-0-9.e]{0,9}",
    ) {
        let judged = parse(&format!("{column}={not}{operator}.{value}")).map(|filter| filter.admits(|_| Some(&row)));
        if let Err(error) = judged {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn messages_repeat_at_most_a_hundred_characters(
        start in prop::sample::select(&[
            "", "text=", "text=eq.\"\"", "int4=eq.", "int4=in.", "int4=in.(", "bool=is.", "text=match.(?", "x=",
        ][..]),
    ) {
        // Nothing else in the messages has this letter.
        let written = format!("{start}{}", "Ω".repeat(200));
        let text = message(&written);
        prop_assert!(text.matches('Ω').count() <= 100, "{}", text);
    }
}
