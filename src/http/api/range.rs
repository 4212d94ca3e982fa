//! The `Range` header with one range of bytes (RFC 9110, section 14).

use std::ops::Range;

/// The requested part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it; also for forms that are not supported, such as several ranges, as the RFC allows.
    All,
    /// These bytes.
    Part(Range<u64>),
    /// A range beyond the end of the file.
    Beyond,
}

impl Wanted {
    /// Reads the header for a file of this size.
    pub(super) fn read(header: Option<&str>, size: u64) -> Self {
        let Some((unit, range)) = header.and_then(|header| header.split_once('=')) else { return Self::All };
        let Some((first, last)) = range.split_once('-') else { return Self::All };
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return Self::All;
        }
        match (number(first), number(last)) {
            (Number::Value(first), Number::Value(last)) if first <= last => {
                Self::of(first..last.saturating_add(1), size)
            }
            (Number::Value(first), Number::Missing) => Self::of(first..size, size),
            (Number::Missing, Number::Value(suffix)) => Self::of(size.saturating_sub(suffix)..size, size),
            _ => Self::All,
        }
    }

    fn of(range: Range<u64>, size: u64) -> Self {
        let range = range.start..range.end.min(size);
        if range.is_empty() { Self::Beyond } else { Self::Part(range) }
    }
}

enum Number {
    Value(u64),
    Missing,
    Wrong,
}

fn number(text: &str) -> Number {
    match text.trim() {
        "" => Number::Missing,
        // A number that overflows is beyond the end of every file.
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Number::Value(digits.parse().unwrap_or(u64::MAX)),
        _ => Number::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (header, wanted) in [
            (None, Wanted::All),
            (Some("bytes=0-0"), Wanted::Part(0..1)),
            (Some("bytes=0-99"), Wanted::Part(0..10)),
            (Some("bytes=3-"), Wanted::Part(3..10)),
            (Some("bytes=-3"), Wanted::Part(7..10)),
            (Some("bytes=-99"), Wanted::Part(0..10)),
            (Some("bytes=10-"), Wanted::Beyond),
            (Some("bytes=99999999999999999999999-"), Wanted::Beyond),
            (Some("bytes=0-99999999999999999999999"), Wanted::Part(0..10)),
            (Some("bytes=-0"), Wanted::Beyond),
            (Some("bytes=5-4"), Wanted::All),
            (Some("bytes=0-1,3-4"), Wanted::All),
            (Some("bytes=+1-2"), Wanted::All),
            (Some("bytes=-"), Wanted::All),
            (Some("lines=1-2"), Wanted::All),
            (Some("bytes"), Wanted::All),
        ] {
            assert_eq!(Wanted::read(header, 10), wanted, "{header:?}");
        }
        assert_eq!(Wanted::read(Some("bytes=0-"), 0), Wanted::Beyond);
    }
}
