//! iSCSI names. RFC 7143, section 4.2.7. Upper and lower case count as equal (RFC 3722, section 3).

/// Longest name, in bytes.
pub const LEN_MAX: usize = 223;

/// Whether `name` is an iSCSI name of type iqn, eui or naa.
///
/// # Errors
/// The allowed form of a name, for error messages.
pub fn check(name: &str) -> Result<(), &'static str> {
    if name.len() > LEN_MAX {
        return Err("at most 223 bytes");
    }
    let name = name.to_ascii_lowercase();
    if let Some(rest) = name.strip_prefix("iqn.") {
        return check_iqn(rest);
    }
    let is_hex = |text: &str, lens: &[usize]| {
        lens.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    match name.split_once('.') {
        Some(("eui", digits)) if is_hex(digits, &[16]) => Ok(()),
        Some(("eui", _)) => Err("eui. and 16 hexadecimal digits"),
        Some(("naa", digits)) if is_hex(digits, &[16, 32]) => Ok(()),
        Some(("naa", _)) => Err("naa. and 16 or 32 hexadecimal digits"),
        _ => Err("a name that begins with iqn., eui. or naa."),
    }
}

/// `yyyy-mm.` and a reversed domain, optionally followed by `:` and text.
fn check_iqn(rest: &str) -> Result<(), &'static str> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'.', domain @ ..] = rest.as_bytes() else {
        return Err("iqn.yyyy-mm.reversed.domain, optionally followed by : and a name");
    };
    let is_date = [y1, y2, y3, y4, m1, m2].iter().all(|byte| byte.is_ascii_digit());
    let month = u32::from(m1 & 0xf) * 10 + u32::from(m2 & 0xf);
    if !is_date || !(1..=12).contains(&month) {
        return Err("iqn. and a year and month such as 2016-06");
    }
    let is_allowed = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(byte) || *byte >= 0x80
    };
    if domain.is_empty() || !domain.iter().all(is_allowed) {
        return Err("letters, digits, '-', '.' and ':' after the date");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_three_types_are_told_apart_from_others() {
        for name in [
            "iqn.2016-06.io.spdk:disk1",
            "iqn.2001-04.com.example",
            "IQN.2016-06.io.spdk:Target1",
            "eui.02004567a425678d",
            "naa.52004567ba64678d",
            "naa.62004567ba64678d0123456789abcdef",
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "disk1",
            "iqn.",
            "iqn.2016-13.io.spdk:a",
            "iqn.2016-06.",
            "iqn.2016-06.io.spdk:a_b",
            "iqn.2016-06.io spdk",
            "eui.0",
            "naa.g2004567ba64678d",
        ] {
            assert!(check(name).is_err(), "{name}");
        }
        assert!(check(&format!("iqn.2016-06.io.spdk:{}", "a".repeat(204))).is_err());
    }
}
