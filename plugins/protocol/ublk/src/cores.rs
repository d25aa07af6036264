//! Core masks as operators write them: `0x3`, or `[0,2-3]`.

use drivebay_sdk::{Error, Result, thread};
use std::collections::BTreeSet;

/// The cores with reactors that a mask names; all of them for the empty text.
///
/// # Errors
/// `EINVAL` for a text that is no mask, and for a core without a reactor.
pub(crate) fn of_mask(text: &str) -> Result<Vec<u32>> {
    let reactors: Vec<u32> = thread::cores().collect();
    if text.is_empty() {
        return Ok(reactors);
    }
    let refused = || {
        let allowed = format!("a mask such as 0x3 or [0,1], of cores with reactors: {reactors:?}");
        Error::invalid("cpumask", text, allowed)
    };
    let cores = parse(text).ok_or_else(refused)?;
    if cores.is_empty() || cores.iter().any(|core| !reactors.contains(core)) {
        return Err(refused());
    }
    Ok(cores)
}

/// `None` for a text that is no mask.
fn parse(text: &str) -> Option<Vec<u32>> {
    let Some(list) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        let mask = u128::from_str_radix(digits, 16).ok()?;
        return Some((0..u128::BITS).filter(|core| mask >> core & 1 != 0).collect());
    };
    let mut cores = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= 1024 {
            return None;
        }
        cores.extend(first..=last);
    }
    Some(cores.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_lists_name_the_same_cores() {
        assert_eq!(parse("0x5"), Some(vec![0, 2]));
        assert_eq!(parse("5"), Some(vec![0, 2]));
        assert_eq!(parse("[2, 0]"), Some(vec![0, 2]));
        assert_eq!(parse("[0-2,2]"), Some(vec![0, 1, 2]));
        for wrong in ["x", "[", "[]", "[1-]", "[0-4000000000]", "-1"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
