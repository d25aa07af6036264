//! The result of an Asynchronous Event Request. NVMe Base 2.0, section 5.2.

/// DW0 of the completion: the event, and the log page with more information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncEvent {
    /// Type; 3 bits.
    pub kind: u8,
    /// Event of this type.
    pub info: u8,
    /// Log page to read, one of [`crate::log::lid`].
    pub lid: u8,
}

impl AsyncEvent {
    /// Notice: a namespace was added, removed or changed. The changed namespace list says which.
    pub const NAMESPACE_ATTRIBUTE_CHANGED: Self = Self { kind: 2, info: 0x00, lid: 0x04 };
    /// Notice: an ANA state changed.
    pub const ANA_CHANGE: Self = Self { kind: 2, info: 0x03, lid: 0x0c };
    /// Notice: the discovery log changed.
    pub const DISCOVERY_LOG_CHANGE: Self = Self { kind: 2, info: 0xf0, lid: 0x70 };
    /// Error: persistent internal error.
    pub const PERSISTENT_INTERNAL_ERROR: Self = Self { kind: 0, info: 0x03, lid: 0x01 };
    /// Error: transient internal error.
    pub const TRANSIENT_INTERNAL_ERROR: Self = Self { kind: 0, info: 0x04, lid: 0x01 };
    /// Health: the subsystem's reliability is degraded.
    pub const RELIABILITY: Self = Self { kind: 1, info: 0x00, lid: 0x02 };
    /// I/O command set: a reservation notification is in its log page.
    pub const RESERVATION_LOG_AVAILABLE: Self = Self { kind: 6, info: 0x00, lid: 0x80 };

    /// Reads DW0.
    #[must_use]
    pub const fn from_dw0(dw0: u32) -> Self {
        Self { kind: (dw0 & 7) as u8, info: (dw0 >> 8 & 0xff) as u8, lid: (dw0 >> 16 & 0xff) as u8 }
    }

    /// DW0.
    #[must_use]
    pub const fn to_dw0(self) -> u32 {
        self.kind as u32 & 7 | (self.info as u32) << 8 | (self.lid as u32) << 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_have_known_values() {
        assert_eq!(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dw0(), 0x0004_0002);
        assert_eq!(AsyncEvent::DISCOVERY_LOG_CHANGE.to_dw0(), 0x0070_f002);
        assert_eq!(AsyncEvent::from_dw0(0x0070_f002), AsyncEvent::DISCOVERY_LOG_CHANGE);
    }
}
