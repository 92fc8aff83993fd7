//! Durations as the Gateway API writes them (GEP-2257).

use std::time::Duration;

/// Parses e.g. `500ms`, `10s`, `1m30s`, `1h`: 1 to 4 numbers of up to 5 digits, each with `h`, `m`, `s` or `ms`. `0s`
/// is allowed.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("{text:?} is not a duration");
    let mut total = Duration::ZERO;
    let mut rest = text;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(refuse)?;
        if !(1..=5).contains(&digits) || parts == 4 {
            return Err(refuse());
        }
        let number: u64 = number.parse().map_err(|_| refuse())?;
        let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
        let (unit, millis) = units.into_iter().find(|(unit, _)| tail.starts_with(unit)).ok_or_else(refuse)?;
        total += Duration::from_millis(number * millis);
        rest = tail.get(unit.len()..).unwrap_or_default();
        parts += 1;
    }
    if parts == 0 { Err(refuse()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_gep_2257_allows_and_nothing_else() {
        for (text, millis) in
            [("500ms", 500), ("10s", 10_000), ("1m30s", 90_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1.5s", "-1s", "1d", "123456s", "1s 2s", "1h1m1s1ms1s", "1S"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
