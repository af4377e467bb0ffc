//! The filters of Supabase Realtime's changes: `column=operator.value`, several of them joined by commas, all
//! of which a row has to meet.
//!
//! A filter is read once, against the columns of its table, and every value in it is read as the column's
//! type. From then on it judges rows as Postgres would judge `where column operator value`, with SQL's three
//! truth values: what is unknown, because something is NULL, stays unknown under `not.`, and does not admit.
//! Four things differ from Postgres. Texts are ordered by their bytes, as in the collation `C`, since a
//! database's collation is not at hand. Letters and their case are those of Unicode, whatever the locale.
//! Regular expressions are those of the crate `regex`: linear in time, and so without backreferences and
//! look-around. And types that are not listed in `operand` are known by the text that Postgres writes for
//! their values, and have no order.

mod decimal;
mod error;
mod letters;
mod moment;
mod operand;
mod pattern;
mod syntax;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};

pub use error::{ColumnList, Excerpt, FilterError};

use super::relation::{Column, Relation};
use operand::{Kind, Operand, TextKind};
use pattern::{Case, Pattern};
use syntax::Item;

/// The longest filter that is read, in bytes: a hundred UUIDs in a list, with some room.
pub const FILTER_BYTES_MAX: usize = 4096;

/// The most conditions in one filter. Each is judged for every change of its table.
pub const CONDITIONS_MAX: usize = 32;

/// The most values in one list of `in`, as in Supabase Realtime.
pub const VALUES_MAX: usize = 100;

/// The longest pattern, in bytes: the time that a pattern may take grows with its length times that of the
/// row's text.
pub const PATTERN_BYTES_MAX: usize = 512;

/// The most regular expressions in one filter, each of which may take a megabyte once it is compiled.
pub const EXPRESSIONS_MAX: usize = 4;

/// How large a compiled regular expression may become, in bytes. One that looks for an address of e-mail
/// takes half of it, as the letters of all languages are many; repeated repetitions would take any amount.
const EXPRESSION_BYTES_MAX: usize = 1024 * 1024;

/// The operators by their names.
const OPERATORS: [(&str, Operator); 13] = [
    ("eq", Operator::Compare(Comparison::Equal)),
    ("neq", Operator::Compare(Comparison::NotEqual)),
    ("lt", Operator::Compare(Comparison::Less)),
    ("lte", Operator::Compare(Comparison::LessOrEqual)),
    ("gt", Operator::Compare(Comparison::Greater)),
    ("gte", Operator::Compare(Comparison::GreaterOrEqual)),
    ("in", Operator::In),
    ("like", Operator::Like(Case::Sensitive)),
    ("ilike", Operator::Like(Case::Insensitive)),
    ("is", Operator::Is),
    ("match", Operator::Match(Case::Sensitive)),
    ("imatch", Operator::Match(Case::Insensitive)),
    ("isdistinct", Operator::Distinct),
];

#[derive(Debug, Clone, Copy)]
enum Operator {
    Compare(Comparison),
    In,
    Like(Case),
    Is,
    Match(Case),
    Distinct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What a row has to be like for a subscriber to hear of it.
#[derive(Debug, Clone)]
pub struct Filter {
    conditions: Box<[Condition]>,
}

#[derive(Debug, Clone)]
struct Condition {
    column: Box<str>,
    negated: bool,
    test: Test,
}

/// What is asked of a value.
#[derive(Debug, Clone)]
enum Test {
    Compare(Comparison, Operand),
    In {
        values: Box<[Operand]>,
        /// Whether the list also had a NULL, which makes unknown what is not in the list.
        null: bool,
    },
    Like(Pattern),
    Match(Regex),
    IsNull,
    IsBoolean(bool),
    /// `is distinct from`; nothing for NULL.
    Distinct(Option<Operand>),
}

impl Filter {
    /// Reads a filter for a table. A text without anything but blanks admits every row.
    ///
    /// # Errors
    /// [`FilterError`] if the text is not a filter, names a column that the table does not have, or has a
    /// value that the column's type cannot take.
    pub fn parse(text: &str, relation: &Relation) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: text.len() });
        }
        let text = text.trim();
        if text.is_empty() {
            let conditions = Box::default();
            return Ok(Self { conditions });
        }
        let conditions = syntax::conditions(text).map_err(|unclosed| FilterError::Unclosed {
            excerpt: Excerpt::of(unclosed.0),
        })?;
        if conditions.len() > CONDITIONS_MAX {
            return Err(FilterError::TooManyConditions {
                count: conditions.len(),
            });
        }
        let mut expressions = 0;
        let mut parsed = Vec::with_capacity(conditions.len());
        for text in conditions {
            let condition = Condition::parse(text.trim(), relation)?;
            expressions += usize::from(matches!(condition.test, Test::Match(_)));
            if expressions > EXPRESSIONS_MAX {
                return Err(FilterError::TooManyExpressions);
            }
            parsed.push(condition);
        }
        Ok(Self {
            conditions: parsed.into(),
        })
    }

    /// How many patterns there are in it, regular expressions among them.
    pub fn patterns(&self) -> usize {
        let is_pattern = |condition: &&Condition| matches!(condition.test, Test::Like(_) | Test::Match(_));
        self.conditions.iter().filter(is_pattern).count()
    }

    /// How many regular expressions there are in it.
    pub fn expressions(&self) -> usize {
        let is_expression = |condition: &&Condition| matches!(condition.test, Test::Match(_));
        self.conditions.iter().filter(is_expression).count()
    }

    /// Whether a row is to be told. The closure answers a column's value as `row_to_json` writes it, `null`
    /// for NULL, and nothing for a column that the row does not have. What cannot be judged is not admitted.
    pub fn admits<'row>(&self, mut value_of: impl FnMut(&str) -> Option<&'row str>) -> bool {
        self.conditions
            .iter()
            .all(|condition| value_of(&condition.column).is_some_and(|json| condition.is_true(json)))
    }
}

impl Condition {
    fn parse(text: &str, relation: &Relation) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::EmptyCondition);
        }
        let (name, question) = text.split_once('=').ok_or_else(|| FilterError::NotACondition {
            excerpt: Excerpt::of(text),
        })?;
        let column = relation.column(name).ok_or_else(|| FilterError::UnknownColumn {
            excerpt: Excerpt::of(name),
            table: relation.table().into(),
            columns: ColumnList::of(relation.columns().iter().map(|column| &*column.name)),
        })?;
        let (negated, positive) = match question.strip_prefix("not.") {
            Some(rest) => (true, rest),
            None => (false, question),
        };
        let (operator, value) = positive
            .split_once('.')
            .ok_or_else(|| FilterError::MissingOperator {
                column: column.name.clone(),
                excerpt: Excerpt::of(question),
            })?;
        let (operator_name, operator) = OPERATORS
            .into_iter()
            .find(|(name, _)| *name == operator)
            .ok_or_else(|| FilterError::UnknownOperator {
                column: column.name.clone(),
                excerpt: Excerpt::of(operator),
            })?;
        Ok(Self {
            column: column.name.clone(),
            negated,
            test: Test::parse(column, operator, operator_name, value)?,
        })
    }

    /// Whether the condition is true, rather than false or unknown.
    fn is_true(&self, json: &str) -> bool {
        self.test.judge(json) == Some(!self.negated)
    }
}

impl Test {
    fn parse(
        column: &Column,
        operator: Operator,
        name: &'static str,
        text: &str,
    ) -> Result<Self, FilterError> {
        let kind = Kind::of(&column.kind);
        let unquoted = || {
            syntax::unquote(text).ok_or_else(|| FilterError::BadQuotes {
                column: column.name.clone(),
                excerpt: Excerpt::of(text),
            })
        };
        match operator {
            Operator::Compare(comparison) => {
                let by_order = !matches!(comparison, Comparison::Equal | Comparison::NotEqual);
                if by_order && !kind.is_ordered() {
                    return Err(FilterError::NotOrdered {
                        column: column.name.clone(),
                        kind: column.kind.clone(),
                        operator: name,
                    });
                }
                Ok(Self::Compare(comparison, operand(column, &unquoted()?)?))
            }
            // Without quotes, null is NULL here, which no other text could say.
            Operator::Distinct if text.eq_ignore_ascii_case("null") => Ok(Self::Distinct(None)),
            Operator::Distinct => Ok(Self::Distinct(Some(operand(column, &unquoted()?)?))),
            Operator::Is => Self::parse_is(column, &unquoted()?),
            Operator::In => Self::parse_in(column, text),
            Operator::Like(case) => {
                let value = unquoted()?;
                let case = pattern_case(column, name, &value, case)?;
                Pattern::parse(&value, case)
                    .map(Self::Like)
                    .ok_or_else(|| FilterError::OpenEscape {
                        column: column.name.clone(),
                    })
            }
            Operator::Match(case) => {
                let value = unquoted()?;
                let case = pattern_case(column, name, &value, case)?;
                expression(&value, case)
                    .map(Self::Match)
                    .map_err(|error| FilterError::BadExpression {
                        column: column.name.clone(),
                        reason: reason(&error),
                    })
            }
        }
    }

    fn parse_in(column: &Column, text: &str) -> Result<Self, FilterError> {
        let items = text
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(syntax::items)
            .ok_or_else(|| FilterError::BadList {
                column: column.name.clone(),
                excerpt: Excerpt::of(text),
            })?;
        if items.len() > VALUES_MAX {
            return Err(FilterError::TooManyValues {
                column: column.name.clone(),
                count: items.len(),
            });
        }
        let mut null = false;
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Null => null = true,
                Item::Bare(text) | Item::Quoted(text) => values.push(operand(column, &text)?),
            }
        }
        let values = values.into();
        Ok(Self::In { values, null })
    }

    fn parse_is(column: &Column, text: &str) -> Result<Self, FilterError> {
        const KEYWORDS: [(&str, Test); 4] = [
            ("null", Test::IsNull),
            ("true", Test::IsBoolean(true)),
            ("false", Test::IsBoolean(false)),
            // An unknown truth value is a NULL.
            ("unknown", Test::IsNull),
        ];
        let (keyword, test) = KEYWORDS
            .into_iter()
            .find(|(keyword, _)| text.eq_ignore_ascii_case(keyword))
            .ok_or_else(|| FilterError::BadKeyword {
                column: column.name.clone(),
                excerpt: Excerpt::of(text),
            })?;
        if keyword != "null" && Kind::of(&column.kind) != Kind::Boolean {
            return Err(FilterError::NotBoolean {
                column: column.name.clone(),
                kind: column.kind.clone(),
                keyword,
            });
        }
        Ok(test)
    }

    /// Whether a value, given as JSON, is as it is asked for; nothing if that is unknown.
    fn judge(&self, json: &str) -> Option<bool> {
        let value = (json != "null").then_some(json);
        match self {
            Self::Compare(comparison, operand) => comparison.judge(operand, value?),
            Self::In { values, null: false } if values.is_empty() => Some(false),
            Self::In { values, null } => {
                let value = value?;
                let mut unknown = *null;
                for operand in values {
                    match operand.equals(value) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => unknown = true,
                    }
                }
                (!unknown).then_some(false)
            }
            Self::Like(pattern) => Some(pattern.matches(&operand::string(value?)?)),
            Self::Match(expression) => Some(expression.is_match(&operand::string(value?)?)),
            Self::IsNull => Some(value.is_none()),
            Self::IsBoolean(expected) => Some(value.and_then(|value| value.parse().ok()) == Some(*expected)),
            Self::Distinct(operand) => match (operand, value) {
                (None, None) => Some(false),
                (Some(operand), Some(value)) => operand.equals(value).map(|equal| !equal),
                (None, Some(_)) | (Some(_), None) => Some(true),
            },
        }
    }
}

impl Comparison {
    fn judge(self, operand: &Operand, json: &str) -> Option<bool> {
        match self {
            Self::Equal => operand.equals(json),
            Self::NotEqual => operand.equals(json).map(|equal| !equal),
            Self::Less => operand.order(json).map(Ordering::is_lt),
            Self::LessOrEqual => operand.order(json).map(Ordering::is_le),
            Self::Greater => operand.order(json).map(Ordering::is_gt),
            Self::GreaterOrEqual => operand.order(json).map(Ordering::is_ge),
        }
    }
}

fn operand(column: &Column, text: &str) -> Result<Operand, FilterError> {
    let kind = Kind::of(&column.kind);
    Operand::parse(kind, text).ok_or_else(|| FilterError::BadValue {
        column: column.name.clone(),
        kind: column.kind.clone(),
        excerpt: Excerpt::of(text),
        expectation: kind.expectation().into(),
    })
}

/// Whether case counts for a pattern on a column that may have one.
fn pattern_case(
    column: &Column,
    operator: &'static str,
    text: &str,
    case: Case,
) -> Result<Case, FilterError> {
    let Kind::Text(kind) = Kind::of(&column.kind) else {
        return Err(FilterError::NotText {
            column: column.name.clone(),
            kind: column.kind.clone(),
            operator,
        });
    };
    if text.len() > PATTERN_BYTES_MAX {
        return Err(FilterError::PatternTooLong {
            column: column.name.clone(),
            bytes: text.len(),
        });
    }
    Ok(match kind {
        TextKind::Folded => Case::Insensitive,
        TextKind::Plain | TextKind::Padded => case,
    })
}

fn expression(text: &str, case: Case) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text)
        .case_insensitive(case == Case::Insensitive)
        // As in Postgres, whose dot takes line breaks too.
        .dot_matches_new_line(true)
        .size_limit(EXPRESSION_BYTES_MAX)
        .dfa_size_limit(EXPRESSION_BYTES_MAX)
        .build()
}

/// What is wrong with an expression, without the expression itself, which the error repeats in its first
/// lines.
fn reason(error: &regex::Error) -> Excerpt {
    match error {
        regex::Error::CompiledTooBig(_) => Excerpt::of("it repeats too much, and would need too much memory"),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or_default();
            Excerpt::of(last.strip_prefix("error: ").unwrap_or(last))
        }
    }
}
