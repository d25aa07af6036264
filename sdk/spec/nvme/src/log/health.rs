//! Errors (LID 01h), health (02h), firmware slots (03h), changed namespaces (04h). NVMe Base 2.0, sections 5.16.1.2 to 5.16.1.5.

use crate::identify;
use crate::layout::layout;
use crate::text::SpaceText;

layout! {
    /// One entry of the error information log.
    pub struct ErrorEntry[64] {
        /// Number of errors over the controller's life; 0 = the entry is not used.
        0 => error_count: u64,
        /// Queue.
        8 => sqid: u16,
        /// Command.
        10 => cid: u16,
        /// Status field of the completion, phase in bit 0: [`crate::Status::bits`] shifted left by one.
        12 => status: u16,
        /// Position of the wrong field: byte in bits 7:0, bit in 10:8; FFFFh if the error is not about one field.
        14 => parameter_error_location: u16,
        /// First block.
        16 => lba: u64,
        /// Namespace.
        24 => nsid: u32,
        /// Vendor specific log page, or 0.
        28 => vendor: u8,
        /// Transport.
        29 => trtype: u8,
        /// Command specific.
        32 => command_specific: u64,
        /// Transport specific.
        40 => transport_specific: u16,
    }
}

layout! {
    /// The SMART / health information log.
    pub struct Health[512] {
        /// Critical warnings.
        0 => critical_warning: u8,
        /// Temperature, in kelvins.
        1 => temperature: u16,
        /// Remaining spare capacity, in percent.
        3 => available_spare: u8,
        /// Spare capacity below which the controller warns, in percent.
        4 => available_spare_threshold: u8,
        /// Used part of the expected life, in percent.
        5 => percentage_used: u8,
        /// Data read, in units of 1000 times 512 bytes, rounded up.
        32 => data_units_read: u128,
        /// Data written, in units of 1000 times 512 bytes, rounded up.
        48 => data_units_written: u128,
        /// Read commands.
        64 => host_read_commands: u128,
        /// Write commands.
        80 => host_write_commands: u128,
        /// Busy time, in minutes.
        96 => controller_busy_time: u128,
        /// Power cycles.
        112 => power_cycles: u128,
        /// Hours powered on.
        128 => power_on_hours: u128,
        /// Unsafe shutdowns.
        144 => unsafe_shutdowns: u128,
        /// Media errors.
        160 => media_errors: u128,
        /// Number of error log entries over the controller's life.
        176 => error_log_entries: u128,
        /// Time above the warning temperature, in minutes.
        192 => warning_temperature_time: u32,
        /// Time above the critical temperature, in minutes.
        196 => critical_temperature_time: u32,
        /// Sensors, in kelvins.
        200 => temperature_sensors: [u16; 8],
    }
}

layout! {
    /// The firmware slot log.
    pub struct FirmwareSlots[512] {
        /// Active slot in bits 2:0, slot after the next reset in 6:4.
        0 => afi: u8,
        /// Revisions of slots 1 to 7.
        8 => revisions: [SpaceText<8>; 7],
    }
}

/// Makes the changed namespace list: `nsids` in increasing order, or only FFFFFFFFh if there are more than 1024.
#[must_use]
pub fn changed_namespaces(nsids: &[u32]) -> [u8; identify::LEN] {
    if nsids.len() > 1024 {
        return identify::namespace_list([crate::NSID_ALL], 0);
    }
    identify::namespace_list(nsids.iter().copied(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_counters_are_at_the_bytes_of_the_specification() {
        let health = Health {
            temperature: 0x1234,
            available_spare: 100,
            data_units_read: 7,
            host_write_commands: 9,
            error_log_entries: 3,
            ..Health::default()
        };
        let bytes = health.encode();
        assert_eq!(bytes[..4], [0, 0x34, 0x12, 100]);
        assert_eq!((bytes[32], bytes[80], bytes[176]), (7, 9, 3));
        assert_eq!(Health::parse(&bytes), health);
    }

    #[test]
    fn too_many_changed_namespaces_are_reported_as_all() {
        let many: Vec<u32> = (1..=1025).collect();
        assert_eq!(changed_namespaces(&many)[..8], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(changed_namespaces(&[3])[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
