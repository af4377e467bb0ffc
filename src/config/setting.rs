//! What settings have in common: a default, and a mistake that is noted by their name.

use std::time::Duration;

use super::{Mistakes, quantity};

/// A variable that is set to nothing counts as not set.
pub(super) fn if_set<'a>(value: &'a str, default: &'a str) -> &'a str {
    if value.is_empty() { default } else { value }
}

/// A duration, as [`quantity::duration`] reads it.
pub(super) fn check_duration(
    setting: &str,
    value: &str,
    default: &str,
    mistakes: &mut Mistakes,
) -> Option<Duration> {
    mistakes.check(setting, quantity::duration(if_set(value, default)))
}

/// A whole number above zero.
pub(super) fn check_count(setting: &str, value: &str, default: &str, mistakes: &mut Mistakes) -> Option<u32> {
    let text = if_set(value, default);
    let count = text.parse::<u32>().ok().filter(|count| *count > 0);
    mistakes.check(
        setting,
        count.ok_or_else(|| format!("`{text}` is not a count; write a whole number above zero")),
    )
}
