//! Features of a controller. NVMe Base 2.0, section 5.27.1.

use super::Controller;
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::admin::{GetFeatures, SetFeatures};
use drivebay_spec_nvme::feature::{NumberOfQueues, async_event, fid};

/// The values of a controller's features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Keep alive timeout in force, in milliseconds; 0 = none.
    pub kato_ms: u32,
    arbitration: u32,
    power_state: u32,
    temperature_thresholds: [u32; 2],
    error_recovery: u32,
    write_atomicity: u32,
    host_behavior: HostBehavior,
}

/// Host Behavior Support: the features that the host supports. NVMe Base 2.0, section 5.27.1.18.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HostBehavior {
    /// Advanced Command Retry Enable.
    acre: u8,
    /// LBA Format Extension Enable.
    lbafee: u8,
}

/// The result of Get Features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// DW0 of the completion.
    pub dw0: u32,
    /// Data; may be empty.
    pub data: Vec<u8>,
}

/// Events that the host can enable.
const EVENTS: u32 = async_event::CRITICAL_WARNINGS
    | async_event::NAMESPACE_ATTRIBUTE
    | async_event::DISCOVERY_LOG_CHANGE
    | async_event::ANA_CHANGE;
/// Bit of CDW11 that selects the threshold for low temperatures.
const UNDER_TEMPERATURE: u32 = 1 << 20;
/// Threshold: temperature in bits 15:0, sensor in 19:16, "under" in 21:20.
const TEMPERATURE_BITS: u32 = 0xffff;
/// Deallocated or Unwritten Logical Block Error Enable, of Error Recovery.
const DULBE: u32 = 1 << 16;
/// Bits of the reservation notifications that a host can mask.
const MASKABLE: u32 = 0b1110;
/// Volatile Write Cache Enable.
const WCE: u32 = 1;

impl HostBehavior {
    /// Bytes of the feature's data.
    const LEN: usize = 512;

    fn encode(self) -> Vec<u8> {
        let mut data = vec![0; Self::LEN];
        if let [acre, _, lbafee, ..] = data.as_mut_slice() {
            (*acre, *lbafee) = (self.acre, self.lbafee);
        }
        data
    }

    fn parse(data: &[u8]) -> Option<Self> {
        match *data {
            [acre @ 0..=1, _, lbafee @ 0..=1, ..] if data.len() == Self::LEN => {
                Some(Self { acre, lbafee })
            }
            _ => None,
        }
    }
}

impl Features {
    /// The values after a reset.
    pub fn new(kato_ms: u32) -> Self {
        Self {
            kato_ms,
            arbitration: 0,
            power_state: 0,
            temperature_thresholds: [TEMPERATURE_BITS, 0],
            error_recovery: 0,
            write_atomicity: 0,
            host_behavior: HostBehavior::default(),
        }
    }
}

/// Get Features.
///
/// # Errors
/// INVALID_FIELD for a feature that is not supported.
pub fn get(controller: &Controller, get: GetFeatures) -> Result<Value, Status> {
    let features = &controller.features;
    let dw0 = match get.fid {
        fid::ARBITRATION => features.arbitration,
        fid::POWER_MANAGEMENT => features.power_state,
        fid::TEMPERATURE_THRESHOLD => {
            let [over, under] = features.temperature_thresholds;
            if get.cdw11 & UNDER_TEMPERATURE == 0 { over } else { under }
        }
        fid::ERROR_RECOVERY => features.error_recovery,
        fid::VOLATILE_WRITE_CACHE => WCE,
        fid::NUMBER_OF_QUEUES => number_of_queues(controller).to_dword(),
        fid::INTERRUPT_COALESCING | fid::INTERRUPT_VECTOR => 0,
        fid::WRITE_ATOMICITY => features.write_atomicity,
        fid::ASYNC_EVENT_CONFIGURATION => controller.events.configuration,
        fid::KEEP_ALIVE_TIMER => features.kato_ms,
        fid::HOST_IDENTIFIER => return host_identifier(controller, get.cdw11),
        fid::RESERVATION_NOTIFICATION_MASK => controller.notifications.mask(get.nsid),
        fid::HOST_BEHAVIOR_SUPPORT => {
            return Ok(Value { dw0: 0, data: features.host_behavior.encode() });
        }
        _ => return Err(Status::INVALID_FIELD.with_dnr()),
    };
    Ok(Value { dw0, data: Vec::new() })
}

/// Set Features. Returns DW0 of the completion. `data`: the data of the command.
///
/// # Errors
/// FEATURE_NOT_SAVEABLE, FEATURE_NOT_CHANGEABLE, KEEP_ALIVE_TIMEOUT_INVALID, COMMAND_SEQUENCE_ERROR or INVALID_FIELD.
pub fn set(controller: &mut Controller, set: SetFeatures, data: &[u8]) -> Result<u32, Status> {
    if set.save {
        return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
    }
    let features = &mut controller.features;
    match set.fid {
        fid::RESERVATION_NOTIFICATION_MASK => {
            controller.notifications.set_mask(set.nsid, set.cdw11 & MASKABLE);
        }
        // A host changes persistence with Reservation Register.
        fid::RESERVATION_PERSISTENCE => return Err(Status::FEATURE_NOT_CHANGEABLE.with_dnr()),
        fid::ARBITRATION => features.arbitration = set.cdw11,
        fid::POWER_MANAGEMENT if set.cdw11 & 0x1f == 0 => features.power_state = set.cdw11,
        fid::TEMPERATURE_THRESHOLD => set_temperature(features, set.cdw11)?,
        fid::ERROR_RECOVERY if set.cdw11 & DULBE == 0 => {
            features.error_recovery = set.cdw11 & 0xffff
        }
        // Refuse this, because the bus cannot write through. A host that disables the cache must learn that it still has to flush.
        fid::VOLATILE_WRITE_CACHE if set.cdw11 & WCE == 0 => {
            return Err(Status::FEATURE_NOT_CHANGEABLE.with_dnr());
        }
        fid::VOLATILE_WRITE_CACHE => {}
        fid::HOST_BEHAVIOR_SUPPORT => {
            let refused = Status::INVALID_FIELD.with_dnr();
            features.host_behavior = HostBehavior::parse(data).ok_or(refused)?;
        }
        fid::NUMBER_OF_QUEUES => return set_number_of_queues(controller, set.cdw11),
        fid::WRITE_ATOMICITY => features.write_atomicity = set.cdw11 & 1,
        fid::ASYNC_EVENT_CONFIGURATION => controller.events.configuration = set.cdw11 & EVENTS,
        fid::KEEP_ALIVE_TIMER => {
            if set.cdw11 == 0 {
                return Err(Status::KEEP_ALIVE_TIMEOUT_INVALID.with_dnr());
            }
            features.kato_ms = controller.limits.keep_alive_ms(set.cdw11);
        }
        fid::HOST_IDENTIFIER => return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()),
        fid::INTERRUPT_COALESCING | fid::INTERRUPT_VECTOR => {
            return Err(Status::FEATURE_NOT_CHANGEABLE.with_dnr());
        }
        _ => return Err(Status::INVALID_FIELD.with_dnr()),
    }
    Ok(0)
}

fn set_temperature(features: &mut Features, value: u32) -> Result<(), Status> {
    let [over, under] = &mut features.temperature_thresholds;
    match value >> 20 & 3 {
        0 => *over = value & TEMPERATURE_BITS,
        1 => *under = value & TEMPERATURE_BITS,
        _ => return Err(Status::INVALID_FIELD.with_dnr()),
    }
    Ok(())
}

fn set_number_of_queues(controller: &Controller, wanted: u32) -> Result<u32, Status> {
    let wanted = NumberOfQueues::from_dword(wanted);
    if wanted.nsq == u16::MAX || wanted.ncq == u16::MAX {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if controller.num_io_queues() > 0 {
        return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    // Answer with the number of queues that the transport allows, whatever the host asks for. The host may use fewer.
    Ok(number_of_queues(controller).to_dword())
}

fn number_of_queues(controller: &Controller) -> NumberOfQueues {
    let less_one = controller.limits.max_io_qpairs_per_ctrlr.saturating_sub(1);
    NumberOfQueues { nsq: less_one, ncq: less_one }
}

/// Bit 0 of CDW11 requests the extended form, the only one over fabrics.
fn host_identifier(controller: &Controller, cdw11: u32) -> Result<Value, Status> {
    if cdw11 & 1 == 0 {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    Ok(Value { dw0: 0, data: controller.hostid.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::QueueId;
    use crate::controller::tests::ready;

    fn read(controller: &Controller, fid: u8, cdw11: u32) -> Result<Value, Status> {
        get(controller, GetFeatures { nsid: 0, fid, sel: 0, cdw11 })
    }

    fn write(controller: &mut Controller, fid: u8, cdw11: u32) -> Result<u32, Status> {
        set(controller, SetFeatures { nsid: 0, fid, save: false, cdw11 }, &[])
    }

    #[test]
    fn what_is_set_is_read_back() {
        for (fid, value, kept) in [
            (fid::ARBITRATION, 0x0102_0304, 0x0102_0304),
            (fid::ERROR_RECOVERY, 5, 5),
            (fid::TEMPERATURE_THRESHOLD, 0x0150, 0x0150),
            (fid::VOLATILE_WRITE_CACHE, 1, 1),
            (fid::WRITE_ATOMICITY, 1, 1),
            (fid::ASYNC_EVENT_CONFIGURATION, u32::MAX, EVENTS),
            (fid::KEEP_ALIVE_TIMER, 15_000, 20_000),
        ] {
            let mut controller = ready();
            assert_eq!(write(&mut controller, fid, value), Ok(0), "{fid:#x}");
            assert_eq!(read(&controller, fid, 0).unwrap().dw0, kept, "{fid:#x}");
        }
    }

    #[test]
    fn each_wrong_value_has_its_status() {
        for (fid, value, status) in [
            (0x7f, 0, Status::INVALID_FIELD),
            (fid::POWER_MANAGEMENT, 1, Status::INVALID_FIELD),
            (fid::TEMPERATURE_THRESHOLD, 3 << 20, Status::INVALID_FIELD),
            (fid::NUMBER_OF_QUEUES, 0xffff, Status::INVALID_FIELD),
            (fid::NUMBER_OF_QUEUES, 0xffff_0000, Status::INVALID_FIELD),
            (fid::KEEP_ALIVE_TIMER, 0, Status::KEEP_ALIVE_TIMEOUT_INVALID),
            (fid::INTERRUPT_COALESCING, 1, Status::FEATURE_NOT_CHANGEABLE),
            (fid::VOLATILE_WRITE_CACHE, 0, Status::FEATURE_NOT_CHANGEABLE),
            (fid::ERROR_RECOVERY, 1 << 16, Status::INVALID_FIELD),
            (fid::HOST_BEHAVIOR_SUPPORT, 0, Status::INVALID_FIELD),
            (fid::HOST_IDENTIFIER, 1, Status::COMMAND_SEQUENCE_ERROR),
        ] {
            assert_eq!(write(&mut ready(), fid, value), Err(status.with_dnr()), "{fid:#x}");
        }
        let saved = SetFeatures { nsid: 0, fid: fid::ARBITRATION, save: true, cdw11: 0 };
        assert_eq!(set(&mut ready(), saved, &[]), Err(Status::FEATURE_NOT_SAVEABLE.with_dnr()));
    }

    #[test]
    fn the_number_of_queues_is_the_transports_and_fixed_once_a_queue_is_connected() {
        let mut controller = ready();
        assert_eq!(write(&mut controller, fid::NUMBER_OF_QUEUES, 0x0003_0003), Ok(0x007e_007e));
        controller.queues.insert(1, QueueId { group: 0, number: 2 });
        let late = write(&mut controller, fid::NUMBER_OF_QUEUES, 0);
        assert_eq!(late, Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()));
    }

    #[test]
    fn the_host_identifier_has_sixteen_bytes() {
        assert_eq!(read(&ready(), fid::HOST_IDENTIFIER, 1).unwrap().data, [7; 16]);
        assert!(read(&ready(), fid::HOST_IDENTIFIER, 0).is_err());
    }

    #[test]
    fn the_hosts_behavior_is_kept_and_read_back() {
        let mut controller = ready();
        assert_eq!(read(&controller, fid::HOST_BEHAVIOR_SUPPORT, 0).unwrap().data, [0; 512]);
        let command = SetFeatures { fid: fid::HOST_BEHAVIOR_SUPPORT, ..SetFeatures::default() };
        let mut data = [0; 512];
        data[0] = 1;
        assert_eq!(set(&mut controller, command, &data), Ok(0));
        assert_eq!(read(&controller, fid::HOST_BEHAVIOR_SUPPORT, 0).unwrap().data, data);
        data[0] = 2;
        for wrong in [&data[..], &data[..2]] {
            let refused = Err(Status::INVALID_FIELD.with_dnr());
            assert_eq!(set(&mut controller, command, wrong), refused);
        }
    }
}
