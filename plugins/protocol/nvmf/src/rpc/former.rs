//! Parameters of earlier SPDK releases. Today they have other names and units.

use drivebay_sdk::{Error, Result};

/// Converts `max_discard_size_kib`, with blocks of 512 bytes, to `dmrsl`.
pub(super) fn dmrsl(kib: u64) -> Result<u32> {
    let blocks = kib.checked_mul(2).and_then(|blocks| u32::try_from(blocks).ok());
    let allowed = format!("0 to {}", u32::MAX / 2);
    blocks.ok_or_else(|| Error::invalid("max_discard_size_kib", kib, allowed))
}

/// Converts `max_write_zeroes_size_kib` to `wzsl`, a power of two of 4 KiB.
pub(super) fn wzsl(kib: u64) -> Result<u8> {
    let pages = kib / 4;
    let power = match pages {
        0 if kib == 0 => Some(0),
        0 | 1 => None,
        _ if kib.is_power_of_two() => u8::try_from(pages.trailing_zeros()).ok(),
        _ => None,
    };
    let allowed = "0, or a power of two of at least 8";
    power.ok_or_else(|| Error::invalid("max_write_zeroes_size_kib", kib, allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_kib_become_blocks_and_powers_of_two() {
        assert_eq!((dmrsl(0), dmrsl(4)), (Ok(0), Ok(8)));
        assert_eq!((wzsl(0), wzsl(8), wzsl(1024)), (Ok(0), Ok(1), Ok(8)));
        for wrong in [1, 4, 12] {
            assert!(wzsl(wrong).unwrap_err().message().contains("max_write_zeroes_size_kib"));
        }
        assert!(dmrsl(u64::MAX).is_err());
    }
}
