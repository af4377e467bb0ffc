//! Dates and times, in the forms that Postgres writes and those that people write.

use jiff::{
    civil::{DateTime, Time},
    fmt::temporal::{DateTimeParser, Pieces},
};

/// How many digits the greatest year has that `jiff` knows. Postgres goes to the year 294276, and dates even
/// further.
const YEAR_DIGITS_MAX: usize = 4;

/// 1970, from which moments are counted.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The first moment that a filter may name.
const FIRST: DateTime = DateTime::constant(1, 1, 1, 0, 0, 0, 0);

/// The types of Postgres that a moment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MomentKind {
    /// `timestamptz`: a text without an offset is in UTC.
    Zoned,
    /// `timestamp`: an offset in a text is passed over, as Postgres does.
    Civil,
    /// `date`: a time in a text is passed over, as Postgres does.
    Date,
}

/// A place in time. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Moment {
    /// `-infinity`.
    NegativeInfinity,
    /// In a row: some time before the year 1, in UTC. No filter can name one, so that the order among them
    /// never matters.
    BeforeChrist,
    /// Microseconds since 1970.
    At(i128),
    /// In a row: some time after the year 9999, in UTC. No filter can name one.
    Remote,
    /// `infinity`.
    Infinity,
}

impl Moment {
    /// Reads what somebody wrote into a filter: a date, or a date and a time with `T` or a blank between them
    /// and with or without an offset, in the years 1 to 9999; or `infinity` or `-infinity`.
    pub(super) fn parse(text: &str, kind: MomentKind) -> Option<Self> {
        // An offset may have led out of the years of the text.
        Self::known(text, kind).filter(|moment| !matches!(moment, Self::BeforeChrist | Self::Remote))
    }

    /// Reads what `row_to_json` wrote.
    pub(super) fn read(text: &str, kind: MomentKind) -> Option<Self> {
        let year_digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if text.ends_with(" BC") {
            Some(Self::BeforeChrist)
        } else if year_digits > YEAR_DIGITS_MAX {
            Some(Self::Remote)
        } else {
            Self::known(text, kind)
        }
    }

    fn known(text: &str, kind: MomentKind) -> Option<Self> {
        Self::infinite(text).or_else(|| Self::finite(text, kind))
    }

    fn infinite(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("infinity") {
            Some(Self::Infinity)
        } else if text.eq_ignore_ascii_case("-infinity") {
            Some(Self::NegativeInfinity)
        } else {
            None
        }
    }

    fn finite(text: &str, kind: MomentKind) -> Option<Self> {
        const NANOSECONDS_A_SECOND: i128 = 1_000_000_000;
        const NANOSECONDS_A_MICROSECOND: i128 = 1_000;
        static PARSER: DateTimeParser = DateTimeParser::new();
        let pieces: Pieces<'_> = PARSER.parse_pieces(text).ok()?;
        if pieces.date().year() < 1 || pieces.time_zone_annotation().is_some() {
            return None;
        }
        let midnight = Time::midnight();
        let (time, offset) = match kind {
            MomentKind::Zoned => (pieces.time().unwrap_or(midnight), pieces.to_numeric_offset()),
            MomentKind::Civil => (pieces.time().unwrap_or(midnight), None),
            MomentKind::Date => (midnight, None),
        };
        let utc = |civil: DateTime, ahead: i128| {
            let nanoseconds = civil.duration_since(EPOCH).as_nanos() - ahead * NANOSECONDS_A_SECOND;
            // Postgres rounds to microseconds.
            (nanoseconds + NANOSECONDS_A_MICROSECOND / 2).div_euclid(NANOSECONDS_A_MICROSECOND)
        };
        let ahead = offset.map_or(0, |offset| i128::from(offset.seconds()));
        let moment = utc(pieces.date().to_datetime(time), ahead);
        Some(if moment < utc(FIRST, 0) {
            Self::BeforeChrist
        } else if moment > utc(DateTime::MAX, 0) {
            Self::Remote
        } else {
            Self::At(moment)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_moment_has_many_texts() {
        let noon = Moment::parse("2026-11-25T12:00:00Z", MomentKind::Zoned).unwrap();
        for text in [
            "2026-11-25 12:00:00",
            "2026-11-25 12:00",
            "2026-11-25 12:00:00+00",
            "2026-11-25T12:00:00.000000+00:00",
            "2026-11-25t12:00:00z",
            "2026-11-25 13:30:00+01:30",
            "2026-11-25 13:30:00+0130",
            "2026-11-25T05:00:00-07",
            "2026-11-25T11:59:59.9999996Z",
        ] {
            assert_eq!(Moment::parse(text, MomentKind::Zoned), Some(noon), "{text}");
        }
        let day = Moment::parse("2026-11-25", MomentKind::Date);
        assert_eq!(Moment::parse("2026-11-25 23:59:59+00", MomentKind::Date), day);
        assert_eq!(
            Moment::parse("2026-11-25 12:00:00+05", MomentKind::Civil),
            Moment::parse("2026-11-25 12:00:00", MomentKind::Civil)
        );
    }

    #[test]
    fn rows_reach_further_than_filters() {
        let ascending = [
            "-infinity",
            "0044-03-15T00:00:00+00:00 BC",
            "0001-01-01T00:00:00+00:00",
            "1969-12-31T23:59:59.999999+00:00",
            "1970-01-01T00:00:00+00:00",
            "2026-11-25T19:00:00.123456+00:00",
            "2026-11-25T19:00:00.123457+00:00",
            "9999-12-31T23:59:59.999999+00:00",
            "10000-01-01T00:00:00+00:00",
            "infinity",
        ];
        let moments = ascending.map(|text| Moment::read(text, MomentKind::Zoned).unwrap());
        assert!(moments.is_sorted_by(|left, right| left < right), "{moments:?}");
    }

    #[test]
    fn an_offset_may_lead_out_of_the_years_that_have_an_order() {
        for (text, expected) in [
            ("9999-12-31T23:59:59-12:00", Moment::Remote),
            ("0001-01-01T00:00:00+01:00", Moment::BeforeChrist),
        ] {
            assert_eq!(Moment::read(text, MomentKind::Zoned), Some(expected));
            assert_eq!(Moment::parse(text, MomentKind::Zoned), None);
            assert!(Moment::parse(text, MomentKind::Civil).is_some());
        }
        assert!(Moment::parse("9999-12-31T23:59:59.999999Z", MomentKind::Zoned).is_some());
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "now",
            "today",
            "yesterday",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-11-25T25:00Z",
            "12:00",
            "2026-11-25T12:00:00[Europe/Berlin]",
            "2026-11-25T12:00:00 Europe/Berlin",
            "0000-01-01",
            "-000044-01-01",
            "10000-01-01",
            "25.11.2026",
        ] {
            for kind in [MomentKind::Zoned, MomentKind::Civil, MomentKind::Date] {
                assert_eq!(Moment::parse(text, kind), None, "{text}");
            }
        }
    }
}
