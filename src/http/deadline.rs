//! Deadlines that travel with a request: `grpc-timeout` and `x-weir-timeout-ms`.

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::http2::once;

/// The deadline of a gRPC call, relative
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The deadline of any request between Weirs, relative, in milliseconds.
pub const X_WEIR_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-weir-timeout-ms");

/// How long the client gives the whole exchange: the smaller of the two headers that are there.
///
/// A header that is malformed or repeated counts as not there: the client then has no deadline that Weir
/// knows of, and the route's timeouts still hold. Zero is a deadline that is over.
pub fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    let grpc = only(headers, &GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    let weir = only(headers, &X_WEIR_TIMEOUT_MS).and_then(parse_timeout_ms);
    match (grpc, weir) {
        (Some(grpc), Some(weir)) => Some(grpc.min(weir)),
        (grpc, weir) => grpc.or(weir),
    }
}

/// Tells the next hop what is left, both headers replaced. `None` = no deadline, both removed.
///
/// `grpc` says whether the request is gRPC and gets `grpc-timeout` too. Values are rounded down, so that the
/// next hop never thinks to have longer than there is, but not to nothing.
pub fn write_remaining(headers: &mut HeaderMap, remaining: Option<Duration>, grpc: bool) {
    let Some(remaining) = remaining else {
        headers.remove(&GRPC_TIMEOUT);
        headers.remove(&X_WEIR_TIMEOUT_MS);
        return;
    };
    let millis = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX).clamp(1, MAX_MILLIS);
    headers.insert(X_WEIR_TIMEOUT_MS, once(HeaderValue::from(millis)));
    if grpc {
        headers.insert(GRPC_TIMEOUT, grpc_timeout(remaining));
    } else {
        headers.remove(&GRPC_TIMEOUT);
    }
}

/// The most digits of `grpc-timeout`.
const GRPC_DIGITS: usize = 8;
/// The first number that has more.
const GRPC_LIMIT: u128 = 100_000_000;
/// The most digits of `x-weir-timeout-ms`: some 317 years.
const MS_DIGITS: usize = 13;
/// The largest number of so many digits.
const MAX_MILLIS: u64 = 9_999_999_999_999;

/// The value of a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?;
    lines.next().is_none().then(|| first.as_bytes())
}

/// Parses 1 to 8 digits and a unit: `H`, `M`, `S`, `m`, `u` or `n`.
fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let amount = number(digits, GRPC_DIGITS)?;
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn parse_timeout_ms(value: &[u8]) -> Option<Duration> {
    number(value, MS_DIGITS).map(Duration::from_millis)
}

/// A number of 1 to `most` digits and nothing else.
fn number(digits: &[u8], most: usize) -> Option<u64> {
    let fits = (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Writes a time in the finest unit whose number has at most 8 digits.
fn grpc_timeout(remaining: Duration) -> HeaderValue {
    let units = [
        (remaining.as_nanos(), 'n'),
        (remaining.as_micros(), 'u'),
        (remaining.as_millis(), 'm'),
        (u128::from(remaining.as_secs()), 'S'),
        (u128::from(remaining.as_secs() / 60), 'M'),
        (u128::from(remaining.as_secs() / 3600), 'H'),
    ];
    let fitting = units.into_iter().find(|(amount, _)| *amount < GRPC_LIMIT);
    let (amount, unit) = fitting.unwrap_or((GRPC_LIMIT - 1, 'H'));
    let text = format!("{}{unit}", amount.max(1));
    once(HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1n")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeout(lines: &[(HeaderName, &str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::try_from(*value).unwrap());
        }
        client_timeout(&headers)
    }

    #[test]
    fn reads_grpc_timeouts() {
        for (value, expected) in [
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("7n", Some(Duration::from_nanos(7))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("0S", Some(Duration::ZERO)),
            ("123456789n", None),
            ("", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("-5S", None),
            ("+5S", None),
            ("1.5S", None),
            ("5 S", None),
            ("5Sx", None),
        ] {
            assert_eq!(timeout(&[(GRPC_TIMEOUT, value)]), expected, "{value}");
        }
    }

    #[test]
    fn the_smaller_of_both_counts_and_a_broken_one_does_not() {
        let ms = Duration::from_millis;
        assert_eq!(timeout(&[]), None);
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "250")]), Some(ms(250)));
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "0")]), Some(Duration::ZERO));
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "250"), (GRPC_TIMEOUT, "1S")]), Some(ms(250)));
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "2500"), (GRPC_TIMEOUT, "1S")]), Some(ms(1000)));
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "x"), (GRPC_TIMEOUT, "1S")]), Some(ms(1000)));
        for broken in ["", "-1", "1.5", "1s", "99999999999999"] {
            assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, broken)]), None, "{broken}");
        }
        assert_eq!(timeout(&[(X_WEIR_TIMEOUT_MS, "5"), (X_WEIR_TIMEOUT_MS, "5")]), None);
    }

    #[test]
    fn tells_the_next_hop_what_is_left() {
        for (remaining, ms, grpc) in [
            (Duration::from_micros(1_999), "1", "1999000n"),
            (Duration::from_millis(150), "150", "150000u"),
            (Duration::from_secs(15), "15000", "15000000u"),
            (Duration::from_secs(200), "200000", "200000m"),
            (Duration::from_secs(200_000), "200000000", "200000S"),
            (Duration::ZERO, "1", "1n"),
            (Duration::MAX, "9999999999999", "99999999H"),
        ] {
            let mut headers = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static("9H"))]);
            write_remaining(&mut headers, Some(remaining), true);
            assert_eq!(headers[X_WEIR_TIMEOUT_MS], ms);
            assert_eq!(headers[GRPC_TIMEOUT], grpc);
            write_remaining(&mut headers, Some(remaining), false);
            assert!(!headers.contains_key(GRPC_TIMEOUT));
            write_remaining(&mut headers, None, true);
            assert!(headers.is_empty());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_never_longer(
            secs in 0_u64..1_000_000_000,
            nanos in 1_u32..1_000_000_000,
        ) {
            let remaining = Duration::new(secs, nanos);
            let read = parse_grpc_timeout(grpc_timeout(remaining).as_bytes()).unwrap();
            prop_assert!(read <= remaining);
            prop_assert!(read >= remaining.mul_f64(0.98), "{:?} became {:?}", remaining, read);
        }
    }
}
