//! Durations and sizes as they are written in settings.

use std::{fmt, time::Duration};

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

const DURATION: &str = "a duration such as 250ms, 30s, 5m, 2h or 3d";
const DURATION_OR_NONE: &str = "a duration such as 30s, 10m or 1h, or 0 to turn it off";
const SIZE: &str = "a size such as 64KiB, 12MiB or 1GiB, or a number of bytes";

/// Longer ones are slips, and overflow what adds them to a point in time.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The duration of a text: a whole number and `ms`, `s`, `m`, `h` or `d`; `0` needs no
/// unit. Ten years at most.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        "" if number == 0 => 0,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(millis)?);
    (duration <= MAX_DURATION).then_some(duration)
}

/// The bytes of a text: a whole number and `KiB`, `MiB`, `GiB` or nothing.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit))
}

/// For `deserialize_with`, where 0 turns off what lasts so long.
pub(super) fn duration_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from_text(from, DURATION_OR_NONE, parse_duration)
}

/// For `deserialize_with`.
pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    from_text(from, DURATION, parse_duration)
}

/// For `deserialize_with`.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

/// For `deserialize_with`.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    from_text(from, SIZE, parse_size)
}

/// What `parse` makes of a text; where it makes nothing, `expected` is the mistake's words.
pub(super) fn from_text<'de, D: Deserializer<'de>, T>(
    from: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Text<P>(&'static str, P);

    impl<T, P: FnOnce(&str) -> Option<T>> Visitor<'_> for Text<P> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            let Self(expected, parse) = self;
            parse(text).ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &expected))
        }
    }

    from.deserialize_str(Text(expected, parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("3d", 259_200_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "30",
            "30 s",
            "1.5s",
            "-1s",
            "5 minutes",
            "9999999d",
            "18446744073709551615h",
            "30S",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("64KiB", 65_536),
            ("12MiB", 12 << 20),
            ("1GiB", 1 << 30),
            ("65536", 65_536),
            ("0", 0),
            ("10B", 10),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "12MB",
            "12 MiB",
            "-1",
            "1.5GiB",
            "99999999999999999999",
            "18446744073709551615KiB",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
