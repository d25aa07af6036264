//! The zones of a registration. As in SPDK, the size of a zone is not always a power of two.

use drivebay_plugin_api::*;

/// Checks the fields and ops for zones.
///
/// # Errors
/// The field, its value and the allowed values.
pub(super) fn check(record: &bay_bdev_reg) -> Result<(), String> {
    if record.zone_size == 0 {
        return check_not_zoned(record);
    }
    check_size(record.zone_size, record.num_blocks)?;
    let unit = u64::from(record.write_unit.max(1));
    if !record.zone_size.is_multiple_of(unit) {
        let zone_size = record.zone_size;
        return Err(format!("zone_size {zone_size} must be a multiple of write_unit {unit}"));
    }
    if record.max_zone_append != 0 && u64::from(record.max_zone_append) < unit {
        let most = record.max_zone_append;
        return Err(format!("max_zone_append {most} must be 0 or at least the write_unit, {unit}"));
    }
    if !has(record, BAY_OP_ZONE_REPORT) {
        let zone_size = record.zone_size;
        return Err(format!("zone_size {zone_size} needs the op get_zone_info in ops_mask"));
    }
    Ok(())
}

/// Checks a size, at registration and at resize: it is whole zones.
pub(super) fn check_size(zone_size: u64, num_blocks: u64) -> Result<(), String> {
    if zone_size == 0 || num_blocks.is_multiple_of(zone_size) {
        return Ok(());
    }
    Err(format!("num_blocks {num_blocks} must be a multiple of zone_size {zone_size}"))
}

fn check_not_zoned(record: &bay_bdev_reg) -> Result<(), String> {
    let fields = [
        ("max_open_zones", record.max_open_zones),
        ("max_active_zones", record.max_active_zones),
        ("optimal_open_zones", record.optimal_open_zones),
        ("max_zone_append", record.max_zone_append),
    ];
    if let Some((name, value)) = fields.into_iter().find(|(_, value)| *value != 0) {
        return Err(format!("{name} {value} needs a zone_size; allowed without zones: 0"));
    }
    let ops = [BAY_OP_ZONE_REPORT, BAY_OP_ZONE_MANAGE, BAY_OP_ZONE_APPEND];
    match ops.into_iter().find(|op| has(record, *op)).and_then(op_rules) {
        Some(rules) => Err(format!("the op {} in ops_mask needs a zone_size", rules.name)),
        None => Ok(()),
    }
}

fn has(record: &bay_bdev_reg, op: u16) -> bool {
    record.ops_mask & (1 << op) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoned() -> bay_bdev_reg {
        // SAFETY: the fields are numbers, texts and pointers, for which all zero bytes are valid.
        let zero: bay_bdev_reg = unsafe { std::mem::zeroed() };
        let ops_mask = 1 << BAY_OP_ZONE_REPORT;
        bay_bdev_reg { num_blocks: 60, zone_size: 12, write_unit: 4, ops_mask, ..zero }
    }

    #[test]
    fn zones_of_any_whole_number_of_write_units_are_accepted() {
        assert_eq!(check(&zoned()), Ok(()));
        assert_eq!(check(&bay_bdev_reg { max_zone_append: 4, ..zoned() }), Ok(()));
        assert_eq!(check_size(12, 72), Ok(()));
        assert_eq!(check_size(0, 71), Ok(()));
    }

    #[test]
    fn each_wrong_field_is_named() {
        let wrong = [
            (bay_bdev_reg { num_blocks: 61, ..zoned() }, "num_blocks 61 "),
            (bay_bdev_reg { zone_size: 10, ..zoned() }, "zone_size 10 "),
            (bay_bdev_reg { max_zone_append: 3, ..zoned() }, "max_zone_append 3 "),
            (bay_bdev_reg { ops_mask: 0, ..zoned() }, "zone_size 12 needs "),
            (bay_bdev_reg { zone_size: 0, ..zoned() }, "the op get_zone_info "),
            (bay_bdev_reg { zone_size: 0, max_open_zones: 1, ..zoned() }, "max_open_zones 1 "),
            (bay_bdev_reg { zone_size: 0, max_active_zones: 1, ..zoned() }, "max_active_zones 1 "),
            (
                bay_bdev_reg { zone_size: 0, optimal_open_zones: 1, ..zoned() },
                "optimal_open_zones 1 ",
            ),
            (bay_bdev_reg { zone_size: 0, max_zone_append: 1, ..zoned() }, "max_zone_append 1 "),
        ];
        for (record, begin) in wrong {
            let refusal = check(&record).unwrap_err();
            assert!(refusal.starts_with(begin), "{refusal}");
        }
    }
}
