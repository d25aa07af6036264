//! NVMe Qualified Names. NVMe Base 2.0, section 4.5.

use core::fmt;

/// Maximum length of an NQN without its NUL, in bytes.
pub const MAX_LEN: usize = 223;
/// Size of an NQN field, in bytes.
pub const FIELD_LEN: usize = 256;
/// The well-known name of every discovery subsystem.
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
/// Prefix of an NQN that is made from a UUID.
pub const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// Why a text is not a valid NQN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NqnError {
    /// It is longer than [`MAX_LEN`] bytes.
    TooLong,
    /// It is empty.
    Empty,
    /// It has a control character.
    Control,
    /// It does not start with `nqn.yyyy-mm.`.
    Prefix,
    /// Its reverse domain name is missing, or has a label that is empty or too long.
    Domain,
    /// Nothing follows the `:`.
    Suffix,
    /// It has [`UUID_PREFIX`], but not exactly one UUID after it.
    Uuid,
}

impl fmt::Display for NqnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "an NQN has at most 223 bytes",
            Self::Empty => "a name has at least one character",
            Self::Control => "an NQN has no control characters",
            Self::Prefix => "an NQN starts with \"nqn.yyyy-mm.\"",
            Self::Domain => {
                "an NQN names a reverse domain after its date: labels of 1 to 63 letters, digits and \"-\""
            }
            Self::Suffix => "an NQN has a name after its \":\"",
            Self::Uuid => {
                "an NQN with \"nqn.2014-08.org.nvmexpress:uuid:\" ends in a UUID (8-4-4-4-12 hexadecimal digits)"
            }
        })
    }
}

impl std::error::Error for NqnError {}

/// Checks the form of an NQN.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check(text: &str) -> Result<(), NqnError> {
    check_text(text)?;
    if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid) { Ok(()) } else { Err(NqnError::Uuid) };
    }
    let rest = text.strip_prefix("nqn.").ok_or(NqnError::Prefix)?;
    let (date, rest) = rest.split_once('.').ok_or(NqnError::Prefix)?;
    if !is_year_month(date) {
        return Err(NqnError::Prefix);
    }
    let (domain, suffix) = match rest.split_once(':') {
        Some((domain, suffix)) => (domain, Some(suffix)),
        None => (rest, None),
    };
    if !domain.split('.').all(is_label) {
        return Err(NqnError::Domain);
    }
    // Only the discovery NQN has no ":".
    match suffix {
        Some("") => Err(NqnError::Suffix),
        None if text != DISCOVERY => Err(NqnError::Suffix),
        _ => Ok(()),
    }
}

/// Checks the name of a host. Hosts in the field send names without a domain, without a `:`, with a UUID without dashes, or without
/// `nqn.`. A target must accept these, because it is useless to such hosts otherwise.
///
/// # Errors
/// The first rule that `text` breaks.
pub fn check_host(text: &str) -> Result<(), NqnError> {
    if text.is_empty() {
        return Err(NqnError::Empty);
    }
    check_text(text)
}

fn check_text(text: &str) -> Result<(), NqnError> {
    if text.len() > MAX_LEN {
        return Err(NqnError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(NqnError::Control);
    }
    Ok(())
}

fn is_year_month(date: &str) -> bool {
    date.len() == 7
        && date
            .bytes()
            .enumerate()
            .all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() })
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, byte)| match i {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_names_pass() {
        for good in [
            DISCOVERY,
            "nqn.2016-06.io.spdk:cnode1",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2001-04.com.example:a:b c",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn each_broken_rule_is_named() {
        let long = format!("nqn.2016-06.io.spdk:{}", "a".repeat(204));
        for (bad, why) in [
            (long.as_str(), NqnError::TooLong),
            ("nqn.2016-06.io.spdk:cnode1\n", NqnError::Control),
            ("nqn.2016-06.io.spdk:\u{9b}31mcnode1", NqnError::Control),
            ("", NqnError::Prefix),
            ("iqn.2016-06.io.spdk:cnode1", NqnError::Prefix),
            ("nqn.2016-6x.io.spdk:cnode1", NqnError::Prefix),
            ("nqn.2016-06.io..spdk:cnode1", NqnError::Domain),
            ("nqn.2016-06.:cnode1", NqnError::Domain),
            ("nqn.2016-06.io.spdk:", NqnError::Suffix),
            ("nqn.2016-06.io.spdk", NqnError::Suffix),
            ("nqn.2014-08.org.nvmexpress:uuid:f81d4fae", NqnError::Uuid),
        ] {
            assert_eq!(check(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_host_may_have_any_name_of_the_field_without_control_characters() {
        for good in [
            "nqn.2014-08.org.nvmexpress:uuid:07e4a0a641d54bff96b28a173dcfb6b5",
            "nqn.2008-04.org.example.lan.host1",
            "2014-08.org.nvmexpress:uuid:6b1f0e7c-2f6c-4a0e-9d1c-0c5a6f1d2e3f",
            "nqn.2014-08.com.my_company:host",
            "h\u{f6}st",
        ] {
            assert_eq!(check_host(good), Ok(()), "{good}");
        }
        let long = "h".repeat(MAX_LEN + 1);
        for (bad, why) in [
            ("", NqnError::Empty),
            (long.as_str(), NqnError::TooLong),
            ("host\n", NqnError::Control),
            ("\u{1b}[31m", NqnError::Control),
            ("a\0b", NqnError::Control),
        ] {
            assert_eq!(check_host(bad), Err(why), "{bad:?}");
        }
    }
}
