//! What is wrong with a filter, told to whoever wrote it.

use std::fmt;

use super::{CONDITIONS_MAX, EXPRESSIONS_MAX, FILTER_BYTES_MAX, OPERATORS, PATTERN_BYTES_MAX, VALUES_MAX};

/// How many characters of a filter a message repeats at most.
const EXCERPT_CHARACTERS_MAX: usize = 100;

/// How many of a table's columns a message lists at most.
const COLUMNS_LISTED_MAX: usize = 40;

/// A piece of what somebody wrote, cut to 100 characters and without line breaks and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt(Box<str>);

impl Excerpt {
    pub(super) fn of(text: &str) -> Self {
        let visible = |character: char| if character.is_control() { ' ' } else { character };
        let end = text.char_indices().nth(EXCERPT_CHARACTERS_MAX);
        let excerpt: String = match end {
            None => text.chars().map(visible).collect(),
            // The ellipsis takes the place of one more character.
            Some(_) => text
                .chars()
                .map(visible)
                .take(EXCERPT_CHARACTERS_MAX - 1)
                .chain(['…'])
                .collect(),
        };
        Self(excerpt.into())
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The names of a table's columns, as far as a message has room for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnList(Box<str>);

impl ColumnList {
    pub(super) fn of<'name>(mut names: impl Iterator<Item = &'name str>) -> Self {
        let listed: Vec<&str> = names.by_ref().take(COLUMNS_LISTED_MAX).collect();
        let rest = names.count();
        let more = if rest == 0 {
            String::new()
        } else {
            format!(" and {rest} more")
        };
        Self(format!("{}{more}", listed.join(", ")).into())
    }
}

impl fmt::Display for ColumnList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A text is not a filter, or not one for that table. The message is meant for the developer of the frontend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// The whole text is too long.
    #[error("the filter has {bytes} bytes, and at most {FILTER_BYTES_MAX} are taken: filter on fewer values")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// There are too many conditions.
    #[error("the filter has {count} conditions, and at most {CONDITIONS_MAX} are taken: leave some out")]
    TooManyConditions {
        /// How many there are.
        count: usize,
    },
    /// There are too many conditions with `match` or `imatch`.
    #[error(
        "the filter has more than {EXPRESSIONS_MAX} conditions with match or imatch: use like or ilike for \
         the others"
    )]
    TooManyExpressions,
    /// There is nothing between two commas, or before the first, or behind the last.
    #[error(
        "the filter has a comma without a condition on both sides: remove it, or put double quotes around a \
         value that has a comma in it, as in name=eq.\"a, b\""
    )]
    EmptyCondition,
    /// A quote or a parenthesis is opened and never closed.
    #[error(
        "`{excerpt}` is never closed: put double quotes around the value, with a backslash before every quote \
         in it"
    )]
    Unclosed {
        /// From where it is open.
        excerpt: Excerpt,
    },
    /// There is no equals sign.
    #[error(
        "`{excerpt}` is not a condition: write column=operator.value, as in id=eq.5; if it belongs to a \
         value with a comma, put double quotes around the value"
    )]
    NotACondition {
        /// The condition.
        excerpt: Excerpt,
    },
    /// The table has no such column, or none that may be read.
    #[error("there is no column `{excerpt}` in {table}; its columns are {columns}")]
    UnknownColumn {
        /// What stands where the column's name is expected.
        excerpt: Excerpt,
        /// The table.
        table: Box<str>,
        /// The names that would do.
        columns: ColumnList,
    },
    /// The table has a column of that name, and the condition has no operator.
    #[error(
        "the condition on {column} has no operator before `{excerpt}`: write {column}=operator.value, where \
         the operator is one of {operators}, or one of them behind not.",
        operators = Operators
    )]
    MissingOperator {
        /// The column.
        column: Box<str>,
        /// What follows the equals sign.
        excerpt: Excerpt,
    },
    /// There is no such operator.
    #[error(
        "`{excerpt}` in the condition on {column} is not an operator: use one of {operators}, or one of \
         them behind not.",
        operators = Operators
    )]
    UnknownOperator {
        /// The column.
        column: Box<str>,
        /// What stands where the operator is expected.
        excerpt: Excerpt,
    },
    /// A value begins with a quote that does not enclose it.
    #[error(
        "the double quotes of `{excerpt}` in the condition on {column} do not enclose the value: put a \
         backslash before every quote that is part of it, as in \"say \\\"hi\\\"\""
    )]
    BadQuotes {
        /// The column.
        column: Box<str>,
        /// The value.
        excerpt: Excerpt,
    },
    /// The value of `in` is not a list.
    #[error(
        "`{excerpt}` in the condition on {column} is not a list: write {column}=in.(a,b), without empty \
         values, and with double quotes around a value that has a comma, a quote or a parenthesis in it"
    )]
    BadList {
        /// The column.
        column: Box<str>,
        /// The value.
        excerpt: Excerpt,
    },
    /// The list of `in` is too long.
    #[error(
        "the list on {column} has {count} values, and at most {VALUES_MAX} are taken: subscribe several times"
    )]
    TooManyValues {
        /// The column.
        column: Box<str>,
        /// How many values there are.
        count: usize,
    },
    /// The column's type has no such value.
    #[error("`{excerpt}` is no value for the column {column}, which is of type {kind}: write {expectation}")]
    BadValue {
        /// The column.
        column: Box<str>,
        /// Its type.
        kind: Box<str>,
        /// The value.
        excerpt: Excerpt,
        /// What would be a value.
        expectation: Box<str>,
    },
    /// `is` was given something else than a keyword.
    #[error(
        "`{excerpt}` in the condition on {column} is nothing for is: use null, true, false or unknown, or \
         eq for a value"
    )]
    BadKeyword {
        /// The column.
        column: Box<str>,
        /// The value.
        excerpt: Excerpt,
    },
    /// `is` asks a column for a truth value that it does not have.
    #[error(
        "the column {column} is of type {kind}, and is.{keyword} is for columns of type bool only: use \
         is.null or eq"
    )]
    NotBoolean {
        /// The column.
        column: Box<str>,
        /// Its type.
        kind: Box<str>,
        /// The keyword.
        keyword: &'static str,
    },
    /// A pattern is for texts only.
    #[error("the column {column} is of type {kind}, and {operator} is for texts only: use eq, neq or in")]
    NotText {
        /// The column.
        column: Box<str>,
        /// Its type.
        kind: Box<str>,
        /// The operator.
        operator: &'static str,
    },
    /// The column's type has no order that is known here.
    #[error(
        "the column {column} is of type {kind}, whose values {operator} does not compare: use eq, neq or in"
    )]
    NotOrdered {
        /// The column.
        column: Box<str>,
        /// Its type.
        kind: Box<str>,
        /// The operator.
        operator: &'static str,
    },
    /// A pattern is too long.
    #[error(
        "the pattern on {column} has {bytes} bytes, and at most {PATTERN_BYTES_MAX} are taken: shorten it"
    )]
    PatternTooLong {
        /// The column.
        column: Box<str>,
        /// Its length in bytes.
        bytes: usize,
    },
    /// The pattern of `like` or `ilike` ends within an escape.
    #[error("the pattern on {column} ends with a backslash that escapes nothing: write \\\\ for a backslash")]
    OpenEscape {
        /// The column.
        column: Box<str>,
    },
    /// The pattern of `match` or `imatch` is not a regular expression.
    #[error("the pattern on {column} is not a regular expression that is understood here: {reason}")]
    BadExpression {
        /// The column.
        column: Box<str>,
        /// What is wrong with it.
        reason: Excerpt,
    },
}

/// The operators, for a message.
struct Operators;

impl fmt::Display for Operators {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, _)) in OPERATORS.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(formatter, "{comma}{name}")?;
        }
        Ok(())
    }
}
