//! Properties: capabilities, configuration, status. NVMe Base 2.0, section 3.1.3.

use super::Controller;
use crate::model::ControllerKind;
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::fabrics::{PropertyGet, PropertySet};
use drivebay_spec_nvme::property::{Cap, Cc, Csts, Version, css, offset, shn, shst};

/// The NVMe version of the controller.
pub const VERSION: Version = Version::V1_4;
/// CAP.TO: longest time to become ready, in units of 500 ms.
const TIMEOUT: u8 = 30;
/// Sizes of queue entries, as powers of two.
const IOSQES: u8 = 6;
const IOCQES: u8 = 4;

/// The effect of a write to a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only the value changes.
    None,
    /// The controller is ready.
    Enabled,
    /// The controller is reset: its I/O queues end, and its admin state is new.
    Reset,
    /// The controller is shut down: its I/O queues end.
    ShutDown,
}

/// Reads a property. The error is the status of the command.
pub fn get(controller: &Controller, get: PropertyGet) -> Result<u64, Status> {
    match (get.offset, get.wide) {
        (offset::CAP, true) => Ok(capabilities(controller).bits()),
        (offset::VS, false) => Ok(VERSION.bits().into()),
        (offset::CC, false) => Ok(controller.cc.bits().into()),
        (offset::CSTS, false) => Ok(controller.csts.bits().into()),
        _ => Err(Status::INVALID_FIELD.with_dnr()),
    }
}

/// Writes a property. Only CC can be written. The error is the status of the command.
pub fn set(controller: &mut Controller, set: PropertySet) -> Result<Effect, Status> {
    if (set.offset, set.wide) != (offset::CC, false) {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    let value = u32::try_from(set.value).map_err(|_| Status::INVALID_FIELD.with_dnr())?;
    let (old, new) = (controller.cc, Cc::from_bits(value));
    if !old.en && new.en {
        check_enable(controller.kind, new)?;
    }
    controller.cc = new;
    if new.shn != shn::NONE && old.shn != new.shn {
        controller.csts.shst = shst::COMPLETE;
        return Ok(Effect::ShutDown);
    }
    Ok(match (old.en, new.en) {
        (false, true) => {
            controller.csts = Csts { rdy: true, ..Csts::default() };
            Effect::Enabled
        }
        (true, false) => {
            controller.csts = Csts::default();
            Effect::Reset
        }
        _ => Effect::None,
    })
}

fn check_enable(kind: ControllerKind, cc: Cc) -> Result<(), Status> {
    let has_entry_sizes =
        matches!(kind, ControllerKind::Discovery) || (cc.iosqes == IOSQES && cc.iocqes == IOCQES);
    if cc.css != css::NVM || cc.mps != 0 || cc.ams != 0 || !has_entry_sizes {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    Ok(())
}

fn capabilities(controller: &Controller) -> Cap {
    Cap {
        mqes: controller.limits.max_queue_depth.saturating_sub(1),
        cqr: true,
        to: TIMEOUT,
        css: css::CAP_NVM,
        ..Cap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::controller;

    const ENABLE: u64 = 0x0046_0001;

    fn write(controller: &mut Controller, value: u64) -> Result<Effect, Status> {
        set(controller, PropertySet { wide: false, offset: offset::CC, value })
    }

    fn read(controller: &Controller, offset: u32) -> u64 {
        get(controller, PropertyGet { wide: offset == offset::CAP, offset }).unwrap()
    }

    #[test]
    fn enabling_makes_it_ready_and_disabling_is_a_reset() {
        let mut controller = controller();
        assert_eq!(read(&controller, offset::CSTS), 0);
        assert_eq!(write(&mut controller, ENABLE), Ok(Effect::Enabled));
        assert_eq!(read(&controller, offset::CSTS), 1);
        assert_eq!(read(&controller, offset::CC), ENABLE);
        assert_eq!(write(&mut controller, ENABLE & !1), Ok(Effect::Reset));
        assert_eq!(read(&controller, offset::CSTS), 0);
    }

    #[test]
    fn a_shutdown_is_complete_at_once_and_ready_stays() {
        let mut controller = controller();
        write(&mut controller, ENABLE).unwrap();
        assert_eq!(write(&mut controller, ENABLE | 1 << 14), Ok(Effect::ShutDown));
        assert_eq!(read(&controller, offset::CSTS), 0x9);
    }

    #[test]
    fn a_configuration_that_is_not_supported_is_refused_and_changes_nothing() {
        for wrong in [
            ENABLE | 1 << 4,                // CSS: not the NVM command set
            ENABLE | 1 << 7,                // MPS: 8 KiB pages
            ENABLE | 1 << 11,               // AMS: weighted round robin
            (ENABLE & !0xf_0000) | 7 << 16, // IOSQES: 128 bytes
        ] {
            let mut controller = controller();
            assert_eq!(write(&mut controller, wrong), Err(Status::INVALID_FIELD.with_dnr()));
            assert_eq!(read(&controller, offset::CC), 0, "{wrong:#x}");
        }
    }

    #[test]
    fn capabilities_tell_the_depth_of_queues_less_one() {
        let cap = Cap::from_bits(read(&controller(), offset::CAP));
        assert_eq!((cap.mqes, cap.cqr, cap.css), (127, true, 1));
    }

    #[test]
    fn a_property_of_the_wrong_size_or_place_is_an_invalid_field() {
        for (wide, offset) in [(false, offset::CAP), (true, offset::CC), (false, 0x24)] {
            let status = get(&controller(), PropertyGet { wide, offset }).unwrap_err();
            assert_eq!(status, Status::INVALID_FIELD.with_dnr());
        }
        let set_csts = PropertySet { wide: false, offset: offset::CSTS, value: 0 };
        assert!(set(&mut controller(), set_csts).is_err());
    }
}
