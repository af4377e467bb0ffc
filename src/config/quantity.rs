//! Durations and sizes as people write them: `10s`, `24h`, `1 MiB`.

use std::time::Duration;

/// Reads a duration: whole numbers with `ms`, `s`, `m`, `h` or `d`, such as `10s` or `1h 30m`.
///
/// # Errors
/// What was expected instead, ready to be shown beside the setting's name.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(format!(
            "`{text}` is not a duration; write a number above zero with ms, s, m, h or d, such as 10s or 24h"
        )),
    }
}

/// Reads a size in bytes: a whole number, and nothing or one of `B`, `KiB`, `MiB`, `GiB`.
///
/// # Errors
/// What was expected instead, ready to be shown beside the setting's name.
pub fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let bytes_per_unit = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    match number
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(bytes_per_unit))
    {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(format!(
            "`{text}` is not a size; write a number above zero with B, KiB, MiB or GiB, such as 1MiB"
        )),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2 m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        assert_eq!(bytes("512"), Ok(512));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("1 MiB"), Ok(1_048_576));
    }

    #[test]
    fn what_is_not_a_quantity_says_what_would_be_one() {
        for wrong in ["", "s", "10", "0s", "-1s", "10 parsecs", "99999999999999999999d"] {
            assert!(duration(wrong).unwrap_err().contains("such as 10s"), "{wrong}");
        }
        for wrong in ["", "MiB", "0", "1.5MiB", "1MB", "99999999999GiB"] {
            assert!(bytes(wrong).unwrap_err().contains("such as 1MiB"), "{wrong}");
        }
    }
}
