//! The values of a filter, typed by their column, and how they compare with what a row holds.

use std::{borrow::Cow, cmp::Ordering};

use serde_json::Value;

use super::{
    decimal::Numeric,
    letters::fold,
    moment::{Moment, MomentKind},
    syntax::{self, Item},
};

/// What is known of a column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'name> {
    Uuid,
    Boolean,
    /// The least and the greatest value.
    Integer(i64, i64),
    Numeric,
    /// `float8`.
    Double,
    /// `float4`.
    Single,
    Text(TextKind),
    Moment(MomentKind),
    /// The type of the elements.
    Array(&'name str),
    /// `json` and `jsonb`.
    Json,
    /// Enums, addresses, ranges and whatever else: known by its text only.
    Other,
}

/// How two texts are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextKind {
    /// Byte by byte.
    Plain,
    /// `bpchar`: byte by byte, without the blanks at the end.
    Padded,
    /// `citext`: without the case of letters.
    Folded,
}

impl<'name> Kind<'name> {
    /// Knows a type by its `pg_type.typname`.
    pub(super) fn of(name: &'name str) -> Self {
        match name {
            "uuid" => Self::Uuid,
            "bool" => Self::Boolean,
            "int2" => Self::Integer(i16::MIN.into(), i16::MAX.into()),
            "int4" => Self::Integer(i32::MIN.into(), i32::MAX.into()),
            "int8" => Self::Integer(i64::MIN, i64::MAX),
            "oid" => Self::Integer(0, u32::MAX.into()),
            "numeric" => Self::Numeric,
            "float8" => Self::Double,
            "float4" => Self::Single,
            "text" | "varchar" | "name" => Self::Text(TextKind::Plain),
            "bpchar" => Self::Text(TextKind::Padded),
            "citext" => Self::Text(TextKind::Folded),
            "timestamptz" => Self::Moment(MomentKind::Zoned),
            "timestamp" => Self::Moment(MomentKind::Civil),
            "date" => Self::Moment(MomentKind::Date),
            "json" | "jsonb" => Self::Json,
            _ => name.strip_prefix('_').map_or(Self::Other, Self::Array),
        }
    }

    /// Whether `lt` and its like have a meaning here.
    pub(super) fn is_ordered(self) -> bool {
        !matches!(self, Self::Array(_) | Self::Json | Self::Other)
    }

    /// What a value of this type looks like, for somebody who wrote another.
    pub(super) fn expectation(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Uuid => "a UUID such as 0b9c7c9e-8f60-4f5e-9d0c-3f1f7a1f2c11",
            Self::Boolean => "true or false",
            Self::Integer(least, most) => {
                return Cow::Owned(format!("a whole number from {least} to {most}"));
            }
            Self::Numeric | Self::Double | Self::Single => "a number such as 12.5",
            Self::Text(_) | Self::Other => "a text",
            Self::Moment(MomentKind::Date) => "a date such as 2025-01-31",
            Self::Moment(MomentKind::Zoned) => "a time such as 2025-01-31T10:00:00Z",
            Self::Moment(MomentKind::Civil) => "a time such as 2025-01-31T10:00:00",
            Self::Array(_) => "an array of one dimension, double-quoted as a whole, such as \"{a,b}\"",
            Self::Json => "a JSON text, double-quoted as a whole with a backslash before every inner quote",
        })
    }
}

/// One value of a filter.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    Uuid(u128),
    Boolean(bool),
    Integer(i64),
    Numeric(Numeric<'static>),
    Double(f64),
    Single(f32),
    /// Already trimmed or folded as its kind wants it.
    Text(TextKind, Box<str>),
    Moment(MomentKind, Moment),
    /// Nothing for an element that is NULL.
    Array(Box<[Option<Self>]>),
    Json(Value),
    Other(Box<str>),
}

impl Operand {
    /// Reads a value as Postgres would read a text of that type; nothing if the type cannot take it.
    pub(super) fn parse(kind: Kind<'_>, text: &str) -> Option<Self> {
        let bare = text.trim_ascii();
        Some(match kind {
            Kind::Uuid => Self::Uuid(parse_uuid(text)?),
            Kind::Boolean => Self::Boolean(parse_boolean(bare)?),
            Kind::Integer(least, most) => {
                let number = bare.parse().ok()?;
                Self::Integer(Some(number).filter(|number| (least..=most).contains(number))?)
            }
            Kind::Numeric => Self::Numeric(Numeric::parse(bare)?.into_owned()),
            Kind::Double => {
                let number: f64 = bare.parse().ok()?;
                Self::Double(Some(number).filter(|number| !out_of_range(bare, *number))?)
            }
            Kind::Single => {
                let number: f32 = bare.parse().ok()?;
                Self::Single(Some(number).filter(|number| !out_of_range(bare, (*number).into()))?)
            }
            Kind::Text(kind) => Self::Text(
                kind,
                match kind {
                    TextKind::Plain => text.into(),
                    TextKind::Padded => text.trim_end_matches(' ').into(),
                    TextKind::Folded => text.chars().map(fold).collect::<String>().into(),
                },
            ),
            Kind::Moment(kind) => Self::Moment(kind, Moment::parse(bare, kind)?),
            Kind::Array(element) => parse_array(Kind::of(element), bare)?,
            Kind::Json => Self::Json(serde_json::from_str(text).ok()?),
            Kind::Other => Self::Other(text.into()),
        })
    }

    /// Whether a row's value, given as JSON that is not `null`, is this one. Nothing if it is not of this
    /// type at all.
    pub(super) fn equals(&self, json: &str) -> Option<bool> {
        match self {
            Self::Array(elements) => {
                let found: Vec<&serde_json::value::RawValue> = serde_json::from_str(json).ok()?;
                let pairs = || elements.iter().zip(&found);
                // In an array, unlike outside, NULL is NULL.
                let same = found.len() == elements.len()
                    && pairs().all(|(element, found)| match (element, found.get()) {
                        (None, found) => found == "null",
                        (Some(_), "null") => false,
                        (Some(element), found) => element.equals(found) == Some(true),
                    });
                Some(same)
            }
            Self::Json(value) => Some(json_equals(value, &serde_json::from_str(json).ok()?)),
            Self::Other(text) => Some(string(json).map_or_else(|| json == &**text, |found| found == **text)),
            _ => self.order(json).map(Ordering::is_eq),
        }
    }

    /// Where a row's value, given as JSON that is not `null`, stands to this one. Nothing if it is not of
    /// this type, or if the type has no order here.
    pub(super) fn order(&self, json: &str) -> Option<Ordering> {
        match self {
            Self::Uuid(uuid) => Some(parse_uuid(plain_string(json)?)?.cmp(uuid)),
            Self::Boolean(boolean) => Some(json.parse::<bool>().ok()?.cmp(boolean)),
            Self::Integer(number) => Some(number_text(json).parse::<i64>().ok()?.cmp(number)),
            Self::Numeric(number) => Some(Numeric::parse(number_text(json))?.compare(number)),
            Self::Double(number) => Some(order_floats(number_text(json).parse().ok()?, *number)),
            Self::Single(number) => {
                let found: f32 = number_text(json).parse().ok()?;
                Some(order_floats(found.into(), (*number).into()))
            }
            Self::Text(kind, text) => {
                let found = string(json)?;
                Some(match kind {
                    TextKind::Plain => (*found).cmp(&**text),
                    TextKind::Padded => found.trim_end_matches(' ').cmp(&**text),
                    TextKind::Folded => found.chars().map(fold).cmp(text.chars()),
                })
            }
            Self::Moment(kind, moment) => Some(Moment::read(plain_string(json)?, *kind)?.cmp(moment)),
            Self::Array(_) | Self::Json(_) | Self::Other(_) => None,
        }
    }
}

/// What a JSON string says; nothing if the JSON is not a string. Only a string with escapes is copied.
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    if let Some(plain) = plain_string(json) {
        return Some(Cow::Borrowed(plain));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// What a JSON string without escapes says.
fn plain_string(json: &str) -> Option<&str> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\\')).then_some(inner)
}

/// A number's text: Postgres writes infinities, NaN and everything of the type `oid` as JSON strings.
fn number_text(json: &str) -> &str {
    plain_string(json).unwrap_or(json)
}

/// Reads 32 hexadecimal digits, with a hyphen or none behind every four of them, in braces or without.
fn parse_uuid(text: &str) -> Option<u128> {
    const DIGITS: usize = 32;
    let bare = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let (mut uuid, mut digits, mut after_hyphen) = (0u128, 0, false);
    for character in bare.chars() {
        if character == '-' && digits % 4 == 0 && (1..DIGITS).contains(&digits) && !after_hyphen {
            after_hyphen = true;
            continue;
        }
        if digits == DIGITS {
            return None;
        }
        uuid = uuid << 4 | u128::from(character.to_digit(16)?);
        digits += 1;
        after_hyphen = false;
    }
    (digits == DIGITS).then_some(uuid)
}

/// Reads a boolean in the forms that Postgres takes: every word may be cut short as long as it is told from
/// the others.
fn parse_boolean(text: &str) -> Option<bool> {
    const WORDS: [(&str, usize, bool); 6] = [
        ("true", 1, true),
        ("false", 1, false),
        ("yes", 1, true),
        ("no", 1, false),
        ("on", 2, true),
        ("off", 2, false),
    ];
    match text {
        "1" => return Some(true),
        "0" => return Some(false),
        _ => {}
    }
    let begins = |word: &str| {
        word.get(..text.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(text))
    };
    WORDS
        .into_iter()
        .find(|(word, shortest, _)| text.len() >= *shortest && begins(word))
        .map(|(_, _, meaning)| meaning)
}

/// Whether a number was written that is too great or too small for the type that it was read into.
fn out_of_range(text: &str, number: f64) -> bool {
    let finite = text.bytes().any(|byte| byte.is_ascii_digit());
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let vanished = number == 0.0 && mantissa.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
    finite && (number.is_infinite() || vanished)
}

/// The order of Postgres: NaN equals itself and is the greatest, and both zeros are one.
fn order_floats(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

/// Reads an array in the form of Postgres, `{a,b}`, or in that of JSON.
fn parse_array(element: Kind<'_>, text: &str) -> Option<Operand> {
    if text.starts_with('[') {
        return serde_json::from_str(text).ok().map(Operand::Json);
    }
    let body = text.strip_prefix('{')?.strip_suffix('}')?;
    let typed = |item: Item<'_>| match item {
        Item::Null => Some(None),
        // A brace begins an inner dimension, unless it is quoted.
        Item::Bare(text) if text.contains(['{', '}']) => None,
        Item::Bare(text) | Item::Quoted(text) => Operand::parse(element, &text).map(Some),
    };
    let elements: Option<Box<[_]>> = syntax::items(body)?.into_iter().map(typed).collect();
    elements.map(Operand::Array)
}

/// The equality of `jsonb`: the order of keys is nothing, and numbers are equal by value. Fractions, and
/// whole numbers beyond 64 bits, are equal if they are as doubles.
fn json_equals(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            let whole = |number: &serde_json::Number| {
                number
                    .as_i64()
                    .map(i128::from)
                    .or(number.as_u64().map(Into::into))
            };
            match (whole(left), whole(right)) {
                (Some(left), Some(right)) => left == right,
                _ => left.as_f64().partial_cmp(&right.as_f64()) == Some(Ordering::Equal),
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| json_equals(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            let same = |(key, left)| right.get(key).is_some_and(|right| json_equals(left, right));
            left.len() == right.len() && left.iter().all(same)
        }
        _ => left == right,
    }
}
