//! Fields of a registration that the bus refuses: it does not act on them yet, so no module may rely on them.

use drivebay_plugin_api::bay_bdev_reg;

/// Refuses a field with a value that has no effect, or no meaning.
///
/// # Errors
/// The field, its value and the allowed values.
pub(super) fn check(record: &bay_bdev_reg) -> Result<(), String> {
    let unsupported = [
        ("max_copy", record.max_copy),
        ("dif_check_flags", record.dif_check_flags),
        ("nsid", record.nsid),
        ("reset_drain_ms", record.reset_drain_ms),
        ("needs_dma", record.needs_dma),
    ];
    for (name, value) in unsupported {
        if value != 0 {
            return Err(format!("{name} {value} is not supported yet; allowed: 0"));
        }
    }
    let enumerations = [
        ("md_interleave", record.md_interleave, 1),
        ("dif_type", record.dif_type, 3),
        ("dif_is_head", record.dif_is_head, 1),
        ("dif_pi_format", record.dif_pi_format, 2),
    ];
    for (name, value, most) in enumerations {
        if value > most {
            return Err(format!("{name} {value} is not allowed; allowed: 0 to {most}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Set = fn(&mut bay_bdev_reg, u8);

    /// Each field that is refused, by its name in the ABI.
    const REFUSED: [(&str, Set); 9] = [
        ("max_copy", |record, value| record.max_copy = value.into()),
        ("dif_check_flags", |record, value| record.dif_check_flags = value.into()),
        ("nsid", |record, value| record.nsid = value.into()),
        ("reset_drain_ms", |record, value| record.reset_drain_ms = value.into()),
        ("needs_dma", |record, value| record.needs_dma = value.into()),
        ("md_interleave", |record, value| record.md_interleave = value),
        ("dif_type", |record, value| record.dif_type = value),
        ("dif_is_head", |record, value| record.dif_is_head = value),
        ("dif_pi_format", |record, value| record.dif_pi_format = value),
    ];

    #[test]
    fn each_refused_field_is_named_with_its_value() {
        // SAFETY: the fields are numbers, texts and pointers, for which all zero bytes are valid.
        let zero: bay_bdev_reg = unsafe { std::mem::zeroed() };
        assert_eq!(check(&zero), Ok(()));
        for (name, set) in REFUSED {
            let mut record = zero;
            set(&mut record, 9);
            let refusal = check(&record).unwrap_err();
            assert!(refusal.starts_with(&format!("{name} 9 is not ")), "{refusal}");
            assert!(refusal.contains("; allowed: 0"), "{refusal}");
        }
    }
}
