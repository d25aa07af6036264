//! CHAP. RFC 7143, section 12.1.3; RFC 1994.

use md5::{Digest, Md5};
use sha2::Sha256;

/// Longest challenge and response, in bytes.
pub const BINARY_LEN_MAX: usize = 1024;
/// Length of a generated challenge, in bytes.
pub const CHALLENGE_LEN: usize = 32;
/// Shortest secret that the standard allows without IPsec, in bytes (96 bits). RFC 7143, section 9.2.1.
pub const SECRET_LEN_MIN: usize = 12;
/// Longest name and secret, in bytes. RFC 7143, section 6.1.
pub const TEXT_LEN_MAX: usize = 255;

/// Checks the length and characters of a CHAP name or secret. Secrets shorter than [`SECRET_LEN_MIN`] pass.
///
/// # Errors
/// What is allowed, for error messages.
pub fn check(text: &str) -> Result<(), &'static str> {
    let fits = (1..=TEXT_LEN_MAX).contains(&text.len()) && !text.contains('\0');
    if fits { Ok(()) } else { Err("1 to 255 bytes without NUL") }
}

/// Whether a secret is shorter than the standard allows without IPsec.
#[must_use]
pub fn is_short(secret: &str) -> bool {
    secret.len() < SECRET_LEN_MIN
}

/// The algorithm of a response, by its number (CHAP_A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// MD5, which every peer supports.
    Md5 = 5,
    /// SHA-256. IANA, PPP authentication algorithms.
    Sha256 = 7,
}

impl Algorithm {
    /// Returns the first supported algorithm of a list.
    #[must_use]
    pub fn choose(list: &str) -> Option<Self> {
        list.split(',').find_map(|item| match item {
            "5" => Some(Self::Md5),
            "7" => Some(Self::Sha256),
            _ => None,
        })
    }

    /// The response to a challenge. RFC 1994, section 4.1.
    #[must_use]
    pub fn response(self, id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            let hash = D::new().chain_update([id]).chain_update(secret);
            hash.chain_update(challenge).finalize().to_vec()
        }
        match self {
            Self::Md5 => hash::<Md5>(id, secret, challenge),
            Self::Sha256 => hash::<Sha256>(id, secret, challenge),
        }
    }
}

/// Whether both are equal. The duration does not depend on where they differ.
#[must_use]
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && difference == 0
}

/// Encodes bytes as hexadecimal text.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or('0');
    let digits = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]);
    ['0', 'x'].into_iter().chain(digits).collect()
}

/// Decodes text: hexadecimal after `0x`, Base64 after `0b`. RFC 7143, section 6.1.
///
/// `None` for other text, an odd number of digits, nothing, or more than [`BINARY_LEN_MAX`] bytes.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (prefix, digits) = text.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => decode_hexadecimal(digits.as_bytes())?,
        "0b" | "0B" => decode_base64(digits.as_bytes())?,
        _ => return None,
    };
    (!bytes.is_empty() && bytes.len() <= BINARY_LEN_MAX).then_some(bytes)
}

fn decode_hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || digits.len() > 2 * BINARY_LEN_MAX {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| {
        let [high, low] = *pair else { return None };
        u8::try_from(value(high)? << 4 | value(low)?).ok()
    };
    digits.chunks_exact(2).map(byte).collect()
}

fn decode_base64(digits: &[u8]) -> Option<Vec<u8>> {
    let text = match digits {
        [rest @ .., b'=', b'='] | [rest @ .., b'='] => rest,
        all => all,
    };
    if !digits.len().is_multiple_of(4) || text.len() > BINARY_LEN_MAX * 4 / 3 + 4 {
        return None;
    }
    let value = |digit: &u8| match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text {
        bits = bits << 6 | u32::from(value(digit)?);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn responses_are_the_hash_of_identifier_secret_and_challenge() {
        // MD5("\x01" "secret" "challenge"), by another implementation.
        let response = encode(&Algorithm::Md5.response(1, b"secret", b"challenge"));
        assert_eq!(response, "0x46e47770030e2b4e26a0db72a7efec00");
        assert_eq!(Algorithm::Sha256.response(1, b"secret", b"challenge").len(), 32);
    }

    #[test]
    fn the_peers_first_known_algorithm_is_chosen() {
        assert_eq!(Algorithm::choose("8,7,5"), Some(Algorithm::Sha256));
        assert_eq!(Algorithm::choose("5"), Some(Algorithm::Md5));
        assert_eq!(Algorithm::choose("6,8"), None);
    }

    #[test]
    fn binary_is_hexadecimal_or_base64_and_has_a_limit() {
        assert_eq!(decode("0x00ff").unwrap(), [0, 0xff]);
        assert_eq!(decode("0bAP8=").unwrap(), [0, 0xff]);
        assert_eq!(decode("0bAP9=").map(|bytes| bytes.len()), Some(2), "spare bits are ignored");
        for wrong in ["", "00ff", "0x", "0x0", "0xgg", "0b*", "0bAAA", "0x+1", "ü", "é0"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        assert!(decode(&format!("0x{}", "00".repeat(1024))).is_some());
        assert!(decode(&format!("0x{}", "00".repeat(1025))).is_none());
        assert!(decode(&format!("0b{}", "AAAA".repeat(400))).is_none());
    }

    #[test]
    fn a_name_or_secret_has_1_to_255_bytes_and_a_secret_below_12_bytes_counts_as_short() {
        let longest = "x".repeat(TEXT_LEN_MAX);
        for good in ["a", "a name with spaces", &longest] {
            assert!(check(good).is_ok(), "{good}");
        }
        for wrong in ["", "a\0b", &format!("{longest}x")] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
        assert!(is_short("11-byte-key") && !is_short("12-bytes-key"));
    }

    #[test]
    fn secrets_are_the_same_or_not() {
        assert!(is_same(b"abc", b"abc"));
        assert!(!is_same(b"abc", b"abd") && !is_same(b"abc", b"ab") && !is_same(b"", b"a"));
    }

    proptest! {
        #[test]
        fn binary_survives(bytes in proptest::collection::vec(any::<u8>(), 1..80)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
