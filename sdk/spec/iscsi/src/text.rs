//! Text of Login and Text PDUs: `key=value` pairs, each with a NUL at its end. RFC 7143, section 6.1.

/// Longest accepted text of one exchange, in bytes, over all its PDUs.
pub const LEN_MAX: usize = 64 << 10;
/// Maximum number of pairs in one text.
pub const PAIRS_MAX: usize = 256;
/// Longest key, in bytes.
pub const KEY_LEN_MAX: usize = 63;
/// Longest value, in bytes: more than 1,024 bytes of binary take in hexadecimal.
pub const VALUE_LEN_MAX: usize = 8 << 10;

/// A text is not `key=value` pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Parses the pairs of a text. Empty strings between NULs are padding.
///
/// # Errors
/// A pair without `=`; a key that is empty, too long, or has invalid characters; a value that is too long or no UTF-8; too many
/// pairs.
pub fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    if text.len() > LEN_MAX {
        return Err(Malformed);
    }
    let mut pairs = Vec::new();
    for pair in text.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        let pair = std::str::from_utf8(pair).map_err(|_| Malformed)?;
        let (key, value) = pair.split_once('=').ok_or(Malformed)?;
        let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(&byte);
        let key_is_fine = !key.is_empty() && key.len() <= KEY_LEN_MAX && key.bytes().all(is_key);
        if !key_is_fine || value.len() > VALUE_LEN_MAX || pairs.len() == PAIRS_MAX {
            return Err(Malformed);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Appends a pair.
pub fn push(text: &mut Vec<u8>, key: &str, value: &str) {
    text.extend(key.as_bytes());
    text.push(b'=');
    text.extend(value.as_bytes());
    text.push(0);
}

/// Parses a number: decimal, or hexadecimal after `0x`. RFC 7143, section 6.1 ("numerical-value").
#[must_use]
pub fn number(value: &str) -> Option<u64> {
    let hexadecimal = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((value, 10), |digits| (digits, 16));
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

/// Parses `Yes` or `No`.
#[must_use]
pub fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_read_in_order_and_padding_is_passed_over() {
        let text = b"InitiatorName=iqn.a\0SessionType=Normal\0\0\0X-a.b=\0";
        let pairs = [("InitiatorName", "iqn.a"), ("SessionType", "Normal"), ("X-a.b", "")];
        assert_eq!(parse(text).unwrap(), pairs);
        assert_eq!(parse(b"").unwrap(), []);
        // The last NUL may be missing: some initiators omit it.
        assert_eq!(parse(b"A=b=c").unwrap(), [("A", "b=c")]);
    }

    #[test]
    fn what_is_no_pair_is_malformed() {
        for text in [b"Alone\0".as_slice(), b"=1\0", b"A b=1\0", b"A=\xff\0"] {
            assert_eq!(parse(text), Err(Malformed));
        }
        let long = format!("{}=1", "K".repeat(64));
        assert_eq!(parse(long.as_bytes()), Err(Malformed));
        assert_eq!(parse("A=1\0".repeat(PAIRS_MAX + 1).as_bytes()), Err(Malformed));
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(["10", "0x10", "0XfF", "0"].map(number).map(Option::unwrap), [10, 16, 255, 0]);
        assert_eq!(["", "-1", "+1", "0x", "0x+1", "1 ", "Yes"].map(number), [None; 7]);
    }

    proptest! {
        #[test]
        fn what_was_read_is_read_again(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(pairs) = parse(&text) {
                let mut again = Vec::new();
                for (key, value) in &pairs {
                    push(&mut again, key, value);
                }
                prop_assert_eq!(parse(&again).unwrap(), pairs);
            }
        }
    }
}
