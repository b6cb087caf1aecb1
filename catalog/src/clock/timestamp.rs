//! A point in time, and its one text: RFC 3339 with microseconds and `Z`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const MICROS_PER_DAY: i64 = SECONDS_PER_DAY * MICROS_PER_SECOND;

/// A point in time: microseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Why a text is not a timestamp this product can keep exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// Not of the shape `YYYY-MM-DDTHH:MM:SS[.ffffff](Z|±HH:MM)`.
    #[error("not an RFC 3339 timestamp")]
    Malformed,
    /// No `Z` and no numeric offset: the text does not name a point in time.
    #[error("the offset is missing (write Z or +HH:MM)")]
    MissingOffset,
    /// More than six fraction digits would have to be cut off.
    #[error("more than 6 fraction digits")]
    TooPrecise,
    /// The 61st second: microseconds since 1970 have no number for it.
    #[error("leap seconds have no place on the UTC microsecond scale")]
    LeapSecond,
    /// A month, day, hour, minute, second or offset that does not exist, or a year outside 0000..9999 in UTC.
    #[error("no such date, time or offset")]
    OutOfRange,
}

impl Timestamp {
    /// The timestamp `micros` microseconds after 1970-01-01T00:00:00Z.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since 1970-01-01T00:00:00Z, rounded down; times before it count as 0.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down.
    pub const fn as_seconds(self) -> i64 {
        self.0.div_euclid(MICROS_PER_SECOND)
    }

    /// Parses RFC 3339 with 0 to 6 fraction digits and any offset; the result is exact.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimestampError> {
        let (local_seconds, rest) = parse_local_seconds(text.as_bytes())?;
        let (micros, rest) = parse_fraction(rest)?;
        let offset_seconds = parse_offset(rest)?;
        let seconds = local_seconds - offset_seconds;
        let (year, _, _) = civil_from_days(seconds.div_euclid(SECONDS_PER_DAY));
        if !(0..=9999).contains(&year) {
            return Err(TimestampError::OutOfRange);
        }
        Ok(Self(seconds * MICROS_PER_SECOND + micros))
    }

    /// This point in time moved `by` into the future; stops at the end of the scale.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This point in time moved `by` into the past; stops at the start of the scale.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// How long ago `earlier` was; `None` when it lies in the future.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        let micros = i128::from(self.0) - i128::from(earlier.0);
        u64::try_from(micros).ok().map(Duration::from_micros)
    }

    /// The UTC date, `YYYY-MM-DD`.
    pub fn date(self) -> String {
        let (year, month, day) = civil_from_days(self.0.div_euclid(MICROS_PER_DAY));
        format!("{year:04}-{month:02}-{day:02}")
    }

    /// The UTC month, `YYYY-MM`.
    pub fn month(self) -> String {
        let (year, month, _) = civil_from_days(self.0.div_euclid(MICROS_PER_DAY));
        format!("{year:04}-{month:02}")
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0.div_euclid(MICROS_PER_DAY));
        let micros_of_day = self.0.rem_euclid(MICROS_PER_DAY);
        let (seconds, micros) = (
            micros_of_day / MICROS_PER_SECOND,
            micros_of_day % MICROS_PER_SECOND,
        );
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_rfc3339(text)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// `YYYY-MM-DDTHH:MM:SS` as seconds since 1970 in local time, and what follows it.
fn parse_local_seconds(text: &[u8]) -> Result<(i64, &[u8]), TimestampError> {
    let (head, rest) = text.split_at_checked(19).ok_or(TimestampError::Malformed)?;
    let separators = head[4] == b'-'
        && head[7] == b'-'
        && head[10].eq_ignore_ascii_case(&b'T')
        && head[13] == b':'
        && head[16] == b':';
    if !separators {
        return Err(TimestampError::Malformed);
    }
    let (year, month, day) = (
        number(&head[0..4])?,
        number(&head[5..7])?,
        number(&head[8..10])?,
    );
    let (hour, minute, second) = (
        number(&head[11..13])?,
        number(&head[14..16])?,
        number(&head[17..19])?,
    );
    if second == 60 {
        return Err(TimestampError::LeapSecond);
    }
    let exists = (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour <= 23
        && minute <= 59
        && second <= 59;
    if !exists {
        return Err(TimestampError::OutOfRange);
    }
    let days = days_from_civil(year, month, day);
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second;
    Ok((seconds, rest))
}

/// An optional `.` and 1 to 6 digits, in microseconds, and what follows them.
fn parse_fraction(text: &[u8]) -> Result<(i64, &[u8]), TimestampError> {
    let Some(text) = text.strip_prefix(b".") else {
        return Ok((0, text));
    };
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match digits {
        0 => Err(TimestampError::Malformed),
        1..=6 => {
            let (fraction, rest) = text.split_at(digits);
            let scale = (digits..6).fold(1, |scale, _| scale * 10);
            Ok((number(fraction)? * scale, rest))
        }
        _ => Err(TimestampError::TooPrecise),
    }
}

/// `Z` or `±HH:MM`, in seconds.
fn parse_offset(text: &[u8]) -> Result<i64, TimestampError> {
    match text {
        [] => Err(TimestampError::MissingOffset),
        [b'Z' | b'z'] => Ok(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (number(&[*h1, *h2])?, number(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return Err(TimestampError::OutOfRange);
            }
            let seconds = hours * 3600 + minutes * 60;
            Ok(if *sign == b'-' { -seconds } else { seconds })
        }
        _ => Err(TimestampError::Malformed),
    }
}

fn number(digits: &[u8]) -> Result<i64, TimestampError> {
    digits.iter().try_fold(0, |value, byte| match byte {
        b'0'..=b'9' => Ok(value * 10 + i64::from(byte - b'0')),
        _ => Err(TimestampError::Malformed),
    })
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

// The proleptic Gregorian calendar in eras of 400 years that begin on 1 March, so that the leap day is the last of its
// year: total over every i64 microsecond, where a calendar library would hand back an Option that nobody can fill.
const DAYS_PER_ERA: i64 = 146_097;
const DAYS_FROM_ERA_ZERO_TO_1970: i64 = 719_468;

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_PER_ERA + day_of_era - DAYS_FROM_ERA_ZERO_TO_1970
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_FROM_ERA_ZERO_TO_1970;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, SecondsFormat};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, TimestampError>) {
        let parsed = Timestamp::parse_rfc3339(text).map(|timestamp| timestamp.to_string());
        assert_eq!(parsed.as_deref(), expected.as_ref().copied(), "{text}");
    }

    #[test]
    fn every_precision_and_offset_is_converted_exactly() {
        check("1970-01-01T00:00:00Z", Ok("1970-01-01T00:00:00.000000Z"));
        check("2024-02-29T23:59:59.9Z", Ok("2024-02-29T23:59:59.900000Z"));
        check(
            "2024-02-29t23:59:59.000001z",
            Ok("2024-02-29T23:59:59.000001Z"),
        );
        check(
            "2024-01-01T00:30:00+05:45",
            Ok("2023-12-31T18:45:00.000000Z"),
        );
        check(
            "2024-12-31T20:00:00-08:00",
            Ok("2025-01-01T04:00:00.000000Z"),
        );
        check(
            "1969-12-31T23:59:59.999999Z",
            Ok("1969-12-31T23:59:59.999999Z"),
        );
        check(
            "2024-01-01T00:00:00-00:00",
            Ok("2024-01-01T00:00:00.000000Z"),
        );
        check("0000-01-01T00:00:00Z", Ok("0000-01-01T00:00:00.000000Z"));
        check(
            "9999-12-31T23:59:59.999999Z",
            Ok("9999-12-31T23:59:59.999999Z"),
        );
    }

    #[test]
    fn what_cannot_be_kept_exactly_is_refused_with_its_reason() {
        use TimestampError::{LeapSecond, Malformed, MissingOffset, OutOfRange, TooPrecise};
        check("2016-12-31T23:59:60Z", Err(LeapSecond));
        check("2024-01-01T00:00:00.1234567Z", Err(TooPrecise));
        check("2024-01-01T00:00:00.0000000Z", Err(TooPrecise));
        check("2024-01-01T00:00:00", Err(MissingOffset));
        check("2024-01-01T00:00:00.5", Err(MissingOffset));
        check("2023-02-29T00:00:00Z", Err(OutOfRange));
        check("1900-02-29T00:00:00Z", Err(OutOfRange));
        check("2024-13-01T00:00:00Z", Err(OutOfRange));
        check("2024-00-01T00:00:00Z", Err(OutOfRange));
        check("2024-04-31T00:00:00Z", Err(OutOfRange));
        check("2024-01-01T24:00:00Z", Err(OutOfRange));
        check("2024-01-01T00:00:61Z", Err(OutOfRange));
        check("2024-01-01T00:00:00+24:00", Err(OutOfRange));
        check("0000-01-01T00:00:00+00:01", Err(OutOfRange));
        check("9999-12-31T23:59:00-00:01", Err(OutOfRange));
        for text in [
            "",
            "2024-01-01",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0000",
            "2024-01-01T00:00:00Z ",
            "2024-01-01T00:00:00ZZ",
            "2024-01-01T00:00:00,5Z",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:0١Z",
            "1704067200",
        ] {
            check(text, Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _ = Timestamp::parse_rfc3339(&text);
        }

        #[test]
        fn display_and_parse_agree_with_chrono(micros in -62_167_219_200_000_000_i64..=253_402_300_799_999_999) {
            let ours = Timestamp::from_micros(micros);
            let theirs = DateTime::from_timestamp_micros(micros).unwrap();
            prop_assert_eq!(ours.to_string(), theirs.to_rfc3339_opts(SecondsFormat::Micros, true));
            prop_assert_eq!(Timestamp::parse_rfc3339(&ours.to_string()), Ok(ours));
            prop_assert_eq!(ours.date(), theirs.format("%Y-%m-%d").to_string());
            prop_assert_eq!(ours.month(), theirs.format("%Y-%m").to_string());
        }

        #[test]
        fn offsets_agree_with_chrono(
            micros in 0_i64..4_000_000_000_000_000,
            minutes in -1439_i32..=1439,
        ) {
            let zone = chrono::FixedOffset::east_opt(minutes * 60).unwrap();
            let text = DateTime::from_timestamp_micros(micros).unwrap().with_timezone(&zone).to_rfc3339();
            prop_assert_eq!(Timestamp::parse_rfc3339(&text), Ok(Timestamp::from_micros(micros)));
        }

        #[test]
        fn display_is_total(micros in any::<i64>()) {
            prop_assert!(Timestamp::from_micros(micros).to_string().ends_with('Z'));
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends_of_the_scale() {
        let end = Timestamp::from_micros(i64::MAX);
        assert_eq!(end.plus(Duration::from_secs(1)), end);
        assert_eq!(end.plus(Duration::MAX), end);
        let start = Timestamp::from_micros(i64::MIN);
        assert_eq!(start.minus(Duration::MAX), start);
        assert_eq!(end.since(start), Some(Duration::from_micros(u64::MAX)));
        assert_eq!(start.since(end), None);
    }

    #[test]
    fn serde_goes_through_the_parser() {
        let json = "\"2024-01-01T00:00:00.000005Z\"";
        let timestamp: Timestamp = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&timestamp).unwrap(), json);
        assert!(serde_json::from_str::<Timestamp>("\"2024-01-01T00:00:00\"").is_err());
    }
}
