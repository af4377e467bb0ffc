//! The outer form of a filter: where its conditions end, and what its quotes hide.

use std::borrow::Cow;

/// One value of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item<'text> {
    /// The bare word `null`, in any case.
    Null,
    /// Without quotes; blanks around it are gone.
    Bare(Cow<'text, str>),
    /// From between quotes.
    Quoted(Cow<'text, str>),
}

/// A quote or a parenthesis is not closed, and commas follow that may or may not have been meant to end a
/// condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unclosed<'text>(pub(super) &'text str);

/// Splits a filter at the commas that are neither in parentheses nor in quotes.
///
/// A quote begins only where a value may, behind a dot, a parenthesis or a comma; elsewhere it is a character
/// like others.
pub(super) fn conditions(text: &str) -> Result<Vec<&str>, Unclosed<'_>> {
    let mut found = Vec::new();
    let (mut start, mut opened) = (0, 0);
    let (mut depth, mut quoted, mut previous) = (0usize, false, ',');
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '\\' if quoted => {
                characters.next();
            }
            '"' if quoted => quoted = false,
            _ if quoted => {}
            '"' if matches!(previous, '.' | '(' | ',') => {
                quoted = true;
                if depth == 0 {
                    opened = position;
                }
            }
            '(' => {
                if depth == 0 {
                    opened = position;
                }
                depth += 1;
            }
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                found.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
        previous = character;
    }
    if (depth > 0 || quoted) && text[opened..].contains(',') {
        return Err(Unclosed(&text[opened..]));
    }
    found.push(&text[start..]);
    Ok(found)
}

/// Takes the double quotes off a value that begins with one; any other value is as it stands. Nothing if the
/// closing quote is missing or is not the end.
pub(super) fn unquote(text: &str) -> Option<Cow<'_, str>> {
    let Some(inner) = text.strip_prefix('"') else {
        return Some(Cow::Borrowed(text));
    };
    let (value, rest) = quoted(inner)?;
    rest.is_empty().then_some(value)
}

/// The values between the parentheses of `in`, or between the braces of an array. Nothing if a value is
/// missing between commas or is not quoted as a whole.
pub(super) fn items(body: &str) -> Option<Vec<Item<'_>>> {
    let mut rest = body.trim_ascii_start();
    let mut found = Vec::new();
    if rest.is_empty() {
        return Some(found);
    }
    loop {
        let behind = if let Some(inner) = rest.strip_prefix('"') {
            let (value, behind) = quoted(inner)?;
            found.push(Item::Quoted(value));
            behind.trim_ascii_start()
        } else {
            let (item, behind) = bare(rest)?;
            found.push(item);
            behind
        };
        if behind.is_empty() {
            return Some(found);
        }
        rest = behind.strip_prefix(',')?.trim_ascii_start();
    }
}

/// Reads up to the closing quote: what is before it, without the backslashes, and what is behind.
fn quoted(inner: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = closing_quote(inner)?;
    Some((without_backslashes(&inner[..end]), &inner[end + 1..]))
}

/// Reads up to the next comma, or to the end, without the blanks there unless a backslash keeps them.
fn bare(text: &str) -> Option<(Item<'_>, &str)> {
    let (mut kept, mut end) = (0, text.len());
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            ',' => {
                end = position;
                break;
            }
            '"' => return None,
            '\\' => {
                let (position, literal) = characters.next()?;
                kept = position + literal.len_utf8();
            }
            blank if blank.is_ascii_whitespace() => {}
            other => kept = position + other.len_utf8(),
        }
    }
    let item = match &text[..kept] {
        "" => return None,
        null if null.eq_ignore_ascii_case("null") => Item::Null,
        value => Item::Bare(without_backslashes(value)),
    };
    Some((item, &text[end..]))
}

/// Where the closing quote stands, which is the first without a backslash before it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut characters = text.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return Some(position),
            '\\' => {
                characters.next();
            }
            _ => {}
        }
    }
    None
}

fn without_backslashes(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut characters = text.chars();
    let mut value = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        match character {
            '\\' => value.extend(characters.next()),
            plain => value.push(plain),
        }
    }
    Cow::Owned(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn conditions_end_at_outer_commas() {
        for (text, expected) in [
            ("a=eq.1", vec!["a=eq.1"]),
            ("a=eq.1,b=eq.2", vec!["a=eq.1", "b=eq.2"]),
            ("a=in.(1,2),b=eq.2", vec!["a=in.(1,2)", "b=eq.2"]),
            (r#"a=eq."x,y",b=eq.2"#, vec![r#"a=eq."x,y""#, "b=eq.2"]),
            (r#"a=eq."x\",y",b=eq.2"#, vec![r#"a=eq."x\",y""#, "b=eq.2"]),
            (
                r#"a=in.("x)","y,"),b=eq.2"#,
                vec![r#"a=in.("x)","y,")"#, "b=eq.2"],
            ),
            (r#"a=eq.5" by 3",b=eq.2"#, vec![r#"a=eq.5" by 3""#, "b=eq.2"]),
            ("a=eq.:),b=eq.2", vec!["a=eq.:)", "b=eq.2"]),
            ("a=eq.:(", vec!["a=eq.:("]),
            ("a=eq.1,", vec!["a=eq.1", ""]),
            (",", vec!["", ""]),
        ] {
            assert_eq!(conditions(text).as_ref(), Ok(&expected), "{text}");
        }
        assert_eq!(conditions("a=eq.:(,b=eq.2"), Err(Unclosed("(,b=eq.2")));
        assert_eq!(conditions(r#"a=eq."x,b=eq.2"#), Err(Unclosed(r#""x,b=eq.2"#)));
    }

    #[test]
    fn lists_are_read_as_postgres_reads_arrays() {
        let (bare, quoted) = (
            |text| Item::Bare(Cow::from(text)),
            |text| Item::Quoted(Cow::from(text)),
        );
        for (body, expected) in [
            ("", vec![]),
            ("  ", vec![]),
            ("a", vec![bare("a")]),
            (" a , b c ", vec![bare("a"), bare("b c")]),
            (r#""a,b" , c"#, vec![quoted("a,b"), bare("c")]),
            (r#""""#, vec![quoted("")]),
            (
                r#""null",NULL,null"#,
                vec![quoted("null"), Item::Null, Item::Null],
            ),
            (r#""a\"b\\",c\,d"#, vec![quoted(r#"a"b\"#), bare("c,d")]),
            (r"a\  ,\null,b\ ", vec![bare("a "), bare("null"), bare("b ")]),
        ] {
            assert_eq!(items(body).as_ref(), Some(&expected), "{body}");
        }
        for body in [
            r"a\", r"a,\", ",", "a,", ",a", "a,,b", r#""a"#, r#""a"b"#, r#"a"b""#, r#""a\""#,
        ] {
            assert_eq!(items(body), None, "{body}");
        }
    }

    #[test]
    fn a_value_is_quoted_as_a_whole_or_not_at_all() {
        assert_eq!(unquote(r#""a""#).as_deref(), Some("a"));
        assert_eq!(unquote(r#""a\"\\\b""#).as_deref(), Some(r#"a"\b"#));
        assert_eq!(unquote(r#"a"b\"#).as_deref(), Some(r#"a"b\"#));
        for text in [r#"""#, r#""a"#, r#""a"b"#, r#""a\""#] {
            assert_eq!(unquote(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_split_joins_again(text in r#"[ab"\\(),.=]{0,24}"#) {
            if let Ok(conditions) = conditions(&text) {
                prop_assert_eq!(conditions.join(","), text);
            }
        }

        #[test]
        fn no_text_makes_the_readers_panic(text in "\\PC{0,40}") {
            let _read = (unquote(&text).is_some(), items(&text).is_some(), conditions(&text).is_ok());
        }
    }
}
