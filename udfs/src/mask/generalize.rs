//! GENERALIZE: a coarser value in place of the exact one.
//!
//! | from | to |
//! |---|---|
//! | `203.0.113.7`, `::ffff:203.0.113.7` | `203.0.113.0/24` |
//! | `2001:db8:1:2::3` | `2001:db8:1::/48` |
//! | `2024-05-17T23:30:00-05:00` by day | `2024-05-18` |
//! | `2024-05-17T23:30:00-05:00` by month | `2024-05` |
//! | a timestamp | the first instant of its UTC day or month |
//!
//! A result is itself a valid input and stays what it is, so a value generalized at write and again at read is still
//! shown. Anything else is redacted.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, new_null_array};
use arrow::datatypes::{
    ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};

use super::redact;

const V4_PREFIX: u32 = 24;
const V6_PREFIX: u32 = 48;

/// The bits in front of the IPv4 address in a mapped IPv6 address.
const MAPPED_PREFIX: u32 = 96;

const DAY_SECONDS: i64 = 86_400;
const DAY_MINUTES: i64 = 1440;

/// How much of a date stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Granularity {
    Day,
    Month,
}

/// Appends the network of an IP address.
pub(super) fn write_network(value: &str, out: &mut String) {
    match network(value) {
        Some((network, prefix)) => append(out, format_args!("{network}/{prefix}")),
        None => redact::write(out),
    }
}

/// Appends the UTC day or month of RFC 3339 text.
pub(super) fn write_date(value: &str, granularity: Granularity, out: &mut String) {
    match date(value) {
        Some((year, month, Some(day))) if granularity == Granularity::Day => {
            append(out, format_args!("{year:04}-{month:02}-{day:02}"));
        }
        Some((year, month, _)) => append(out, format_args!("{year:04}-{month:02}")),
        None => redact::write(out),
    }
}

/// The first instant of the UTC day or month of each timestamp; null where it is before the first that the type can hold.
pub(super) fn timestamps(array: &dyn Array, granularity: Granularity) -> ArrayRef {
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return new_null_array(array.data_type(), array.len());
    };
    match unit {
        TimeUnit::Second => floor::<TimestampSecondType>(array, 1, granularity),
        TimeUnit::Millisecond => floor::<TimestampMillisecondType>(array, 1000, granularity),
        TimeUnit::Microsecond => floor::<TimestampMicrosecondType>(array, 1_000_000, granularity),
        TimeUnit::Nanosecond => floor::<TimestampNanosecondType>(array, 1_000_000_000, granularity),
    }
}

fn floor<T: ArrowTimestampType>(
    array: &dyn Array,
    per_second: i64,
    granularity: Granularity,
) -> ArrayRef {
    let per_day = DAY_SECONDS * per_second;
    let Some(timestamps) = array.as_primitive_opt::<T>() else {
        return new_null_array(array.data_type(), array.len());
    };
    let floored: PrimitiveArray<T> = timestamps.unary_opt(|value| {
        let days = value.div_euclid(per_day);
        let days = match granularity {
            Granularity::Day => days,
            Granularity::Month => days - (civil(days).2 - 1),
        };
        days.checked_mul(per_day)
    });
    Arc::new(floored.with_timezone_opt(timestamps.timezone()))
}

/// Writing to a string does not fail.
fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// The network of `address` or `address/prefix`, and its prefix: /24 or /48, or shorter if it was.
fn network(value: &str) -> Option<(IpAddr, u32)> {
    let (address, prefix) = match value.split_once('/') {
        Some((address, prefix)) => (address, Some(number(prefix.as_bytes())?)),
        None => (value, None),
    };
    let prefix = prefix.map(u32::try_from).transpose().ok()?;
    match address.parse().ok()? {
        IpAddr::V4(address) => v4_network(address, prefix.unwrap_or(32)),
        IpAddr::V6(address) => {
            let prefix = prefix.unwrap_or(128);
            match (address.to_ipv4_mapped(), prefix.checked_sub(MAPPED_PREFIX)) {
                (Some(mapped), Some(prefix)) => v4_network(mapped, prefix),
                _ => v6_network(address, prefix),
            }
        }
    }
}

fn v4_network(address: Ipv4Addr, prefix: u32) -> Option<(IpAddr, u32)> {
    let hidden = 32_u32.checked_sub(prefix)?.max(32 - V4_PREFIX);
    let bits = u32::MAX.checked_shl(hidden).unwrap_or(0) & address.to_bits();
    Some((Ipv4Addr::from_bits(bits).into(), 32 - hidden))
}

fn v6_network(address: Ipv6Addr, prefix: u32) -> Option<(IpAddr, u32)> {
    let hidden = 128_u32.checked_sub(prefix)?.max(128 - V6_PREFIX);
    let bits = u128::MAX.checked_shl(hidden).unwrap_or(0) & address.to_bits();
    Some((Ipv6Addr::from_bits(bits).into(), 128 - hidden))
}

/// Year, month and, unless the text ends before it, day: in UTC.
fn date(value: &str) -> Option<(i64, i64, Option<i64>)> {
    let (year, rest) = value.as_bytes().split_at_checked(4)?;
    let (month, rest) = rest.split_at_checked(3)?;
    let year = number(year)?;
    let month = number(month.strip_prefix(b"-")?)?;
    if !(1..=12).contains(&month) {
        return None;
    }
    if rest.is_empty() {
        return Some((year, month, None));
    }
    let (day, time) = rest.split_at_checked(3)?;
    let day = number(day.strip_prefix(b"-")?)?;
    let days = days_of(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    if time.is_empty() {
        return Some((year, month, Some(day)));
    }
    let (year, month, day) = civil(days.checked_add(utc_day_shift(time)?)?);
    (0..=9999)
        .contains(&year)
        .then_some((year, month, Some(day)))
}

/// How many days the UTC date differs from the local one, from `T23:30:00.123-05:00`.
fn utc_day_shift(time: &[u8]) -> Option<i64> {
    let (clock, rest) = time.split_at_checked(9)?;
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = clock else {
        return None;
    };
    let minute = minutes([*h1, *h2], [*m1, *m2])?;
    number(&[*s1, *s2]).filter(|second| *second <= 60)?;
    let zone = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
            fraction.split_at_checked(digits.count().max(1))?.1
        }
        None => rest,
    };
    let offset = match zone {
        b"Z" | b"z" => 0,
        [b'+', h1, h2, b':', m1, m2] => minutes([*h1, *h2], [*m1, *m2])?,
        [b'-', h1, h2, b':', m1, m2] => -minutes([*h1, *h2], [*m1, *m2])?,
        _ => return None,
    };
    Some((minute - offset).div_euclid(DAY_MINUTES))
}

fn minutes(hour: [u8; 2], minute: [u8; 2]) -> Option<i64> {
    let hour = number(&hour).filter(|hour| *hour < 24)?;
    let minute = number(&minute).filter(|minute| *minute < 60)?;
    Some(hour * 60 + minute)
}

/// A decimal number of one to four digits, without a sign.
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 4 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = |sum: i64, digit: &u8| sum * 10 + i64::from(digit - b'0');
    Some(digits.iter().fold(0, value))
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of its year; 400 years have 146,097 days.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970-01-01: the inverse of [`days_of`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use arrow::array::{TimestampMicrosecondArray, TimestampSecondArray};

    use super::*;

    #[track_caller]
    fn check_network(value: &str, expected: &str) {
        let mut out = String::new();
        write_network(value, &mut out);
        assert_eq!(out, expected);
        if expected != redact::REDACTED {
            let mut again = String::new();
            write_network(&out, &mut again);
            assert_eq!(again, expected, "generalized twice");
        }
    }

    #[track_caller]
    fn check_date(value: &str, expected_day: &str, expected_month: &str) {
        for (granularity, expected) in [
            (Granularity::Day, expected_day),
            (Granularity::Month, expected_month),
        ] {
            let mut out = String::new();
            write_date(value, granularity, &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn an_address_becomes_its_network() {
        check_network("203.0.113.77", "203.0.113.0/24");
        check_network("255.255.255.255", "255.255.255.0/24");
        check_network("2001:db8:1:2:3:4:5:6", "2001:db8:1::/48");
        check_network("::1", "::/48");
        check_network("::ffff:203.0.113.77", "203.0.113.0/24");
        check_network("::ffff:cb00:714d", "203.0.113.0/24");
    }

    #[test]
    fn a_network_is_widened_or_stays() {
        check_network("203.0.113.77/32", "203.0.113.0/24");
        check_network("203.0.113.77/25", "203.0.113.0/24");
        check_network("10.1.2.3/8", "10.0.0.0/8");
        check_network("10.1.2.3/0", "0.0.0.0/0");
        check_network("::ffff:10.1.2.3/104", "10.0.0.0/8");
        check_network("::ffff:10.1.2.3/95", "::/48");
        check_network("2001:db8::/32", "2001:db8::/32");
        check_network("2001:db8::/0", "::/0");
    }

    #[test]
    fn what_is_no_address_is_redacted() {
        for value in [
            "",
            "localhost",
            "203.0.113",
            "203.0.113.256",
            " 203.0.113.7",
            "203.0.113.7:443",
            "fe80::1%eth0",
            "203.0.113.7/33",
            "203.0.113.7/",
            "203.0.113.7/+8",
            "2001:db8::/129",
            "2001:db8::/99999999999999999999",
        ] {
            check_network(value, "[redacted]");
        }
    }

    #[test]
    fn a_date_is_truncated_in_utc() {
        check_date("2024-05-17T12:00:00Z", "2024-05-17", "2024-05");
        check_date("2024-05-17t12:00:00.123456789z", "2024-05-17", "2024-05");
        check_date("2024-05-31T23:30:00-05:00", "2024-06-01", "2024-06");
        check_date("2024-03-01 00:15:00+00:30", "2024-02-29", "2024-02");
        check_date("2016-12-31T23:59:60Z", "2016-12-31", "2016-12");
        check_date("1969-01-01T00:00:00+14:00", "1968-12-31", "1968-12");
        check_date("2024-05-17", "2024-05-17", "2024-05");
        check_date("2024-05", "2024-05", "2024-05");
    }

    #[test]
    fn what_is_no_date_is_redacted() {
        for value in [
            "",
            "yesterday",
            "2024",
            "2024-13",
            "2024-00-01",
            "2023-02-29",
            "2024-05-32",
            "+024-05-01",
            "2024-05-17T",
            "2024-05-17T12:00:00",
            "2024-05-17T24:00:00Z",
            "2024-05-17T12:60:00Z",
            "2024-05-17T12:00:61Z",
            "2024-05-17T12:00:00.Z",
            "2024-05-17T12:00:00+5:00",
            "2024-05-17T12:00:00+05:00x",
            "2024-05-17X12:00:00Z",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:00:00-01:00",
            "２０２４-05-17",
        ] {
            check_date(value, "[redacted]", "[redacted]");
        }
    }

    #[test]
    fn the_calendar_goes_both_ways() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(days_of(2000, 3, 1), 11_017);
        for days in (-800_000..800_000).step_by(13) {
            let (year, month, day) = civil(days);
            assert_eq!(days_of(year, month, day), days);
        }
    }

    #[test]
    fn timestamps_are_floored_before_the_epoch_too() {
        let micros = TimestampMicrosecondArray::from(vec![
            Some(1_715_986_200_123_456), // 2024-05-17T22:50:00.123456Z
            Some(-1),
            None,
            Some(i64::MIN),
        ])
        .with_timezone("+09:00");
        let array: ArrayRef = Arc::new(micros);
        let days = timestamps(&array, Granularity::Day);
        let expected = vec![
            Some(1_715_904_000_000_000),
            Some(-86_400_000_000),
            None,
            None,
        ];
        let expected = TimestampMicrosecondArray::from(expected).with_timezone("+09:00");
        assert_eq!(days.as_primitive::<TimestampMicrosecondType>(), &expected);
        let months = timestamps(&array, Granularity::Month);
        let months = months.as_primitive::<TimestampMicrosecondType>();
        assert_eq!(months.value(0), 1_714_521_600_000_000);
        assert_eq!(months.value(1), -31 * 86_400_000_000);
    }

    #[test]
    fn the_last_second_that_fits_is_floored() {
        let array: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX, i64::MIN]));
        for granularity in [Granularity::Day, Granularity::Month] {
            let floored = timestamps(&array, granularity);
            assert!(floored.is_valid(0) && floored.is_null(1));
        }
    }
}
