//! Features. NVMe Base 2.0, section 5.27.1.

/// Feature identifiers.
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER_MANAGEMENT: u8 = 0x02;
    /// LBA Range Type.
    pub const LBA_RANGE_TYPE: u8 = 0x03;
    /// Temperature Threshold.
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache; bit 0 enables it.
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    /// Number of Queues; see [`super::NumberOfQueues`].
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    /// Interrupt Coalescing; not over fabrics.
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration; not over fabrics.
    pub const INTERRUPT_VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration, bits of [`super::async_event`].
    pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 0x0e;
    /// Keep Alive Timer, in milliseconds.
    pub const KEEP_ALIVE_TIMER: u8 = 0x0f;
    /// Host Behavior Support; 512 bytes of data.
    pub const HOST_BEHAVIOR_SUPPORT: u8 = 0x16;
    /// I/O Command Set Profile.
    pub const IO_COMMAND_SET_PROFILE: u8 = 0x19;
    /// Host Identifier; 8 or 16 bytes of data.
    pub const HOST_IDENTIFIER: u8 = 0x81;
    /// Reservation Notification Mask.
    pub const RESERVATION_NOTIFICATION_MASK: u8 = 0x82;
    /// Reservation Persistence.
    pub const RESERVATION_PERSISTENCE: u8 = 0x83;
    /// Namespace Write Protection Configuration.
    pub const NAMESPACE_WRITE_PROTECTION: u8 = 0x84;
}

/// The value that Get Features requests.
pub mod sel {
    /// The current value.
    pub const CURRENT: u8 = 0;
    /// The value after reset.
    pub const DEFAULT: u8 = 1;
    /// The saved value.
    pub const SAVED: u8 = 2;
    /// The capabilities: bit 0 saveable, 1 namespace specific, 2 changeable.
    pub const SUPPORTED: u8 = 3;
}

/// Bits of Asynchronous Event Configuration. Bits from 8 up are also the bits of OAES in Identify Controller.
pub mod async_event {
    /// All critical warnings of the health log.
    pub const CRITICAL_WARNINGS: u32 = 0xff;
    /// Namespace attribute notices.
    pub const NAMESPACE_ATTRIBUTE: u32 = 1 << 8;
    /// Firmware activation notices.
    pub const FIRMWARE_ACTIVATION: u32 = 1 << 9;
    /// ANA change notices.
    pub const ANA_CHANGE: u32 = 1 << 11;
    /// Discovery log change notices.
    pub const DISCOVERY_LOG_CHANGE: u32 = 1 << 31;
}

/// Number of Queues: CDW11 of Set Features and DW0 of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberOfQueues {
    /// Number of I/O submission queues, minus one. 65535 is not allowed.
    pub nsq: u16,
    /// Number of I/O completion queues, minus one. 65535 is not allowed.
    pub ncq: u16,
}

impl NumberOfQueues {
    /// Reads the dword.
    #[must_use]
    pub const fn from_dword(dword: u32) -> Self {
        Self { nsq: (dword & 0xffff) as u16, ncq: (dword >> 16) as u16 }
    }

    /// The dword.
    #[must_use]
    pub const fn to_dword(self) -> u32 {
        self.nsq as u32 | (self.ncq as u32) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_queues_are_in_the_upper_half() {
        let queues = NumberOfQueues { nsq: 3, ncq: 5 };
        assert_eq!(queues.to_dword(), 0x0005_0003);
        assert_eq!(NumberOfQueues::from_dword(0x0005_0003), queues);
    }
}
