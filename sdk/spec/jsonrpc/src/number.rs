//! Whole numbers written with a fraction or an exponent, such as `1.024e3`.
//!
//! JSON (RFC 8259, section 6) has one number type, so a client may send 1024 as `1024.0`. SPDK
//! accepts such numbers for integers.

use std::borrow::Cow;

/// Maximum number of digits of a rewritten number. `u64::MAX` has 20.
const DIGITS_MAX: usize = 20;

/// Rewrites every whole number in `json` as plain digits. Leaves other numbers and all strings
/// unchanged.
pub(crate) fn whole_numbers(json: &str) -> Cow<'_, str> {
    if !json.contains(['.', 'e', 'E']) {
        return Cow::Borrowed(json);
    }
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => string_len(rest),
            '-' | '0'..='9' => rest.find(|c| !is_number_char(c)).unwrap_or(rest.len()),
            _ => rest
                .find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())
                .unwrap_or(rest.len()),
        };
        let (token, behind) = rest.split_at(len);
        match digits(token) {
            Some(digits) if first != '"' => text.push_str(&digits),
            _ => text.push_str(token),
        }
        rest = behind;
    }
    Cow::Owned(text)
}

fn is_number_char(c: char) -> bool {
    c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E')
}

/// Length of the string at the start of `text` with its quotes, in bytes.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    for (place, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return place + 1,
            _ => {}
        }
    }
    text.len()
}

/// The plain digits of a whole number with a fraction or an exponent; `None` for anything else.
fn digits(number: &str) -> Option<String> {
    let (sign, magnitude) = match number.strip_prefix('-') {
        Some(magnitude) => ("-", magnitude),
        None => ("", number),
    };
    let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_plain = mantissa.len() == magnitude.len() && fraction.is_empty();
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain || whole.is_empty() || !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let exponent: i32 = exponent.parse().ok()?;
    let mut digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    let point = usize::try_from(point).ok().filter(|point| *point <= DIGITS_MAX)?;
    let behind = digits.len().saturating_sub(point);
    if digits.bytes().rev().take(behind).any(|digit| digit != b'0') {
        return None;
    }
    digits.truncate(point);
    digits.extend(std::iter::repeat_n('0', point.saturating_sub(digits.len())));
    let digits = digits.trim_start_matches('0');
    Some(if digits.is_empty() { "0".to_owned() } else { format!("{sign}{digits}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_become_plain_digits_and_keep_every_digit() {
        for (given, plain) in [
            ("1.024e3", "1024"),
            ("1024.0", "1024"),
            ("-1.5E+1", "-15"),
            ("100e-2", "1"),
            ("0.0", "0"),
            ("0e99", "0e99"),
            ("1.8446744073709551615e19", "18446744073709551615"),
            (r#"{"a":[2.0,1e1],"b":8}"#, r#"{"a":[2,10],"b":8}"#),
        ] {
            assert_eq!(whole_numbers(given), plain, "{given}");
        }
    }

    #[test]
    fn fractions_strings_and_huge_numbers_stay_as_they_are() {
        for text in [
            "1.5",
            "1e-1",
            "1e21",
            "1e999999999999",
            "1.2.3",
            "e",
            r#"{"a\"1.0":"1.0 \\","b":true}"#,
        ] {
            assert_eq!(whole_numbers(text), text);
        }
    }
}
