//! Numbers as Postgres writes them, of any length, compared digit by digit: a binary fraction would take 2^53
//! and 2^53 + 1 for the same.

use std::{borrow::Cow, cmp::Ordering};

/// The most digits that Postgres keeps before a `numeric`'s point.
const WHOLE_DIGITS_MAX: i64 = 131_072;

/// The most digits that Postgres keeps behind a `numeric`'s point.
const FRACTION_DIGITS_MAX: i64 = 16_383;

/// The longest exponent that is looked at, in digits; a `numeric`'s has at most six.
const EXPONENT_DIGITS_MAX: usize = 9;

/// A value of the type `numeric`. Its order is that of Postgres, where NaN equals itself and is the greatest.
#[derive(Debug, Clone)]
pub(super) enum Numeric<'text> {
    NegativeInfinity,
    Finite(Decimal<'text>),
    Infinity,
    NotANumber,
}

impl<'text> Numeric<'text> {
    /// Reads a number in any of the forms that Postgres takes for a `numeric`, except for digits that are not
    /// decimal.
    pub(super) fn parse(text: &'text str) -> Option<Self> {
        let (negative, unsigned) = sign(text);
        if ["infinity", "inf"]
            .iter()
            .any(|name| unsigned.eq_ignore_ascii_case(name))
        {
            return Some(if negative {
                Self::NegativeInfinity
            } else {
                Self::Infinity
            });
        }
        if text.eq_ignore_ascii_case("nan") {
            return Some(Self::NotANumber);
        }
        Decimal::parse(text).map(Self::Finite)
    }

    /// The same number, independent of the text that it was read from.
    pub(super) fn into_owned(self) -> Numeric<'static> {
        match self {
            Self::NegativeInfinity => Numeric::NegativeInfinity,
            Self::Finite(decimal) => Numeric::Finite(decimal.into_owned()),
            Self::Infinity => Numeric::Infinity,
            Self::NotANumber => Numeric::NotANumber,
        }
    }

    /// Which of two numbers comes first.
    pub(super) fn compare(&self, other: &Numeric<'_>) -> Ordering {
        match (self, other) {
            (Self::Finite(left), Numeric::Finite(right)) => left.compare(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NegativeInfinity => 0,
            Self::Finite(_) => 1,
            Self::Infinity => 2,
            Self::NotANumber => 3,
        }
    }
}

/// `0.d₁d₂d₃… × 10^magnitude`, where `d₁` is not zero; without any digit the number is zero.
#[derive(Debug, Clone)]
pub(super) struct Decimal<'text> {
    negative: bool,
    magnitude: i64,
    /// The digits from before and from behind the point, which are in two places of the text. They may end
    /// with zeros.
    digits: [Cow<'text, [u8]>; 2],
}

impl<'text> Decimal<'text> {
    fn parse(text: &'text str) -> Option<Self> {
        let (negative, unsigned) = sign(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits_only = whole
            .bytes()
            .chain(fraction.bytes())
            .all(|byte| byte.is_ascii_digit());
        if !digits_only || whole.len() + fraction.len() == 0 {
            return None;
        }
        let length = |text: &str| i64::try_from(text.len()).ok();
        if length(fraction)? - exponent > FRACTION_DIGITS_MAX {
            return None;
        }
        let significant = whole.trim_start_matches('0');
        let (significant, behind) = if significant.is_empty() {
            ("", fraction.trim_start_matches('0'))
        } else {
            (significant, fraction)
        };
        if significant.is_empty() && behind.is_empty() {
            return Some(Self {
                negative: false,
                magnitude: 0,
                digits: Default::default(),
            });
        }
        let magnitude = length(significant)? + length(behind)? - length(fraction)? + exponent;
        (magnitude <= WHOLE_DIGITS_MAX).then(|| Self {
            negative,
            magnitude,
            digits: [significant, behind].map(|digits| Cow::Borrowed(digits.as_bytes())),
        })
    }

    fn into_owned(self) -> Decimal<'static> {
        Decimal {
            negative: self.negative,
            magnitude: self.magnitude,
            digits: self.digits.map(|digits| Cow::Owned(digits.into_owned())),
        }
    }

    /// -1, 0 or 1.
    fn signum(&self) -> i8 {
        match (self.digits.iter().all(|digits| digits.is_empty()), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    fn compare(&self, other: &Decimal<'_>) -> Ordering {
        let by_sign = self.signum().cmp(&other.signum());
        if by_sign != Ordering::Equal {
            return by_sign;
        }
        let absolute = self
            .magnitude
            .cmp(&other.magnitude)
            .then_with(|| self.compare_digits(other));
        if self.negative {
            absolute.reverse()
        } else {
            absolute
        }
    }

    fn compare_digits(&self, other: &Decimal<'_>) -> Ordering {
        let [mut left, mut right] =
            [&self.digits, &other.digits].map(|digits| digits[0].iter().chain(digits[1].iter()));
        loop {
            let (left, right) = (left.next(), right.next());
            if left.is_none() && right.is_none() {
                return Ordering::Equal;
            }
            // The shorter number goes on with zeros.
            let order = left.unwrap_or(&b'0').cmp(right.unwrap_or(&b'0'));
            if order != Ordering::Equal {
                return order;
            }
        }
    }
}

/// Whether a number begins with a minus, and what follows its sign.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = sign(text);
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || digits.is_empty() || digits.len() > EXPONENT_DIGITS_MAX {
        return None;
    }
    let exponent: i64 = digits.parse().ok()?;
    Some(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(left: &str, right: &str) -> Ordering {
        let [left, right] = [left, right].map(|text| Numeric::parse(text).unwrap());
        left.into_owned().compare(&right)
    }

    #[test]
    fn one_number_has_many_texts() {
        for text in [
            "1", "+1", "1.", "1.0", "01.000", "1e0", "10e-1", "0.1e1", ".1E+1", "100e-02",
        ] {
            assert_eq!(compare("1", text), Ordering::Equal, "{text}");
            assert_eq!(compare(text, "1"), Ordering::Equal, "{text}");
        }
        for text in ["0", "-0", "0.0", ".0", "0e5", "-0.000e-3"] {
            assert_eq!(compare("0", text), Ordering::Equal, "{text}");
        }
    }

    #[test]
    fn the_order_is_that_of_postgres() {
        let ascending = [
            "-Infinity",
            "-1e100",
            "-9007199254740993",
            "-9007199254740992",
            "-1.5",
            "-1",
            "-0.001",
            "0",
            "1e-16000",
            "0.0999",
            "0.1",
            "9.99",
            "10",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.00000000001",
            "1e131071",
            "inf",
            "NaN",
        ];
        for (left_rank, left) in ascending.iter().enumerate() {
            for (right_rank, right) in ascending.iter().enumerate() {
                assert_eq!(
                    compare(left, right),
                    left_rank.cmp(&right_rank),
                    "{left} and {right}"
                );
            }
        }
    }

    #[test]
    fn what_postgres_does_not_take_is_no_number() {
        for text in [
            "",
            "-",
            "+",
            ".",
            "e5",
            "1e",
            "1e+",
            "1 2",
            "0x10",
            "1_000",
            "--1",
            "1.2.3",
            "1e131072",
            "1e-16384",
            "1e9999999999",
            "infinit",
            "-nan",
            "١",
        ] {
            assert!(Numeric::parse(text).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whole_numbers_compare_as_themselves(left: i64, right: i64, zeros in 0usize..4) {
            let tail = "0".repeat(zeros);
            prop_assert_eq!(compare(&left.to_string(), &format!("{right}.{tail}")), left.cmp(&right));
        }

        #[test]
        fn moving_the_point_changes_nothing(left in -5_000i128..5_000, right in -5_000i128..5_000, places in 0u32..6) {
            let power = 10i128.pow(places);
            let fixed = |number: i128| {
                let sign = if number < 0 { "-" } else { "" };
                let (whole, fraction) = (number.abs() / power, number.abs() % power);
                format!("{sign}{whole}.{fraction:0width$}", width = places as usize)
            };
            let expected = left.cmp(&right);
            // Without places the format above writes one zero behind the point, which is harmless.
            prop_assert_eq!(compare(&fixed(left), &format!("{right}e-{places}")), expected);
            prop_assert_eq!(compare(&fixed(left), &fixed(right)), expected);
        }

        #[test]
        fn doubles_compare_as_doubles(left in -1e9f64..1e9, right in -1e9f64..1e9) {
            prop_assert_eq!(Some(compare(&format!("{left:?}"), &format!("{right:e}"))), left.partial_cmp(&right));
        }
    }
}
