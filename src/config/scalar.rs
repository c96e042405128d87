//! What a plain scalar is: the core schema of YAML 1.2 (§10.3.2), no more. So `on`, `off`, `yes` and `no` are texts.

use super::node::Value;

/// The value of a plain scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(digits) = text.strip_prefix("0o") {
        return i64::from_str_radix(digits, 8).ok().filter(|_| all_digits(digits)).map(Value::Int);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        let legal = digits.bytes().all(|b| b.is_ascii_hexdigit());
        return i64::from_str_radix(digits, 16).ok().filter(|_| legal).map(Value::Int);
    }
    if all_digits(unsigned) {
        return text.parse().map(Value::Int).or_else(|_| text.parse().map(Value::Float)).ok();
    }
    match unsigned {
        ".inf" | ".Inf" | ".INF" if text.starts_with('-') => return Some(Value::Float(f64::NEG_INFINITY)),
        ".inf" | ".Inf" | ".INF" => return Some(Value::Float(f64::INFINITY)),
        ".nan" | ".NaN" | ".NAN" if unsigned.len() == text.len() => return Some(Value::Float(f64::NAN)),
        _ => {}
    }
    // Rust also reads `inf` and `nan`; the schema wants a digit first, or a dot and a digit.
    let mantissa = unsigned.strip_prefix('.').unwrap_or(unsigned);
    let numeric = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-');
    let begins = mantissa.starts_with(|c: char| c.is_ascii_digit());
    if begins && unsigned.bytes().all(numeric) { text.parse().map(Value::Float).ok() } else { None }
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_schema() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("FALSE", Value::Bool(false)),
            ("12", Value::Int(12)),
            ("+12", Value::Int(12)),
            ("-012", Value::Int(-12)),
            ("0o14", Value::Int(12)),
            ("0xC", Value::Int(12)),
            ("9223372036854775808", Value::Float(9_223_372_036_854_775_808.0)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("12e03", Value::Float(12000.0)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
        for text in [
            "on",
            "off",
            "yes",
            "inf",
            "nan",
            "1.2.3.4",
            "5s",
            "0o9",
            "0x",
            "e5",
            "-",
            ".",
            "+.",
            "1:30",
            "10.0.0.1:80",
        ] {
            assert_eq!(resolve(text), Value::String(text.to_owned()), "{text}");
        }
    }
}
