//! Completion status. NVMe Base 2.0, section 3.3.3.2.1.

use core::fmt;

/// The 15-bit status field: SC in bits 7:0, SCT 10:8, CRD 12:11, More 13, Do Not Retry 14.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Status(u16);

/// Status code types.
pub mod sct {
    /// Generic command status.
    pub const GENERIC: u8 = 0;
    /// Command specific status, including that of Fabrics commands.
    pub const COMMAND_SPECIFIC: u8 = 1;
    /// Media and data integrity errors.
    pub const MEDIA: u8 = 2;
    /// Path related status.
    pub const PATH: u8 = 3;
    /// Vendor specific.
    pub const VENDOR: u8 = 7;
}

const DNR: u16 = 1 << 14;
const MORE: u16 = 1 << 13;

impl Status {
    /// Makes a status from its type (3 bits) and code, without More and Do Not Retry.
    #[must_use]
    pub const fn new(sct: u8, sc: u8) -> Self {
        Self((sct as u16 & 7) << 8 | sc as u16)
    }

    /// Makes a status from these 15 bits. Ignores bit 15.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & 0x7fff)
    }

    /// The 15 bits.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Status code type, one of [`sct`].
    #[must_use]
    pub const fn sct(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Status code.
    #[must_use]
    pub const fn sc(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Command retry delay: 0 = none, otherwise the index of the CRDT field.
    #[must_use]
    pub const fn crd(self) -> u8 {
        (self.0 >> 11 & 3) as u8
    }

    /// Whether the error information log has more information.
    #[must_use]
    pub const fn more(self) -> bool {
        self.0 & MORE != 0
    }

    /// Do not retry: the same command would fail again.
    #[must_use]
    pub const fn dnr(self) -> bool {
        self.0 & DNR != 0
    }

    /// The same status with Do Not Retry.
    #[must_use]
    pub const fn with_dnr(self) -> Self {
        Self(self.0 | DNR)
    }

    /// The same status with More.
    #[must_use]
    pub const fn with_more(self) -> Self {
        Self(self.0 | MORE)
    }

    /// The same status with this retry delay index (2 bits).
    #[must_use]
    pub const fn with_crd(self, crd: u8) -> Self {
        Self(self.0 & !(3 << 11) | (crd as u16 & 3) << 11)
    }

    /// Only the type and the code, for comparison with the constants.
    #[must_use]
    pub const fn code(self) -> Self {
        Self(self.0 & 0x7ff)
    }

    /// Whether the type and the code mean success.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Names of the type and code. None if unknown; several if the code depends on the command.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(status, _)| *status == self.code()).map(|(_, name)| *name)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.names().enumerate() {
            f.write_str(if i > 0 { " or " } else { "" })?;
            f.write_str(name)?;
        }
        let space = if self.names().next().is_some() { " " } else { "" };
        write!(f, "{space}(sct {:x}h, sc {:02x}h", self.sct(), self.sc())?;
        f.write_str(if self.more() { ", more" } else { "" })?;
        f.write_str(if self.dnr() { ", dnr)" } else { ")" })
    }
}

macro_rules! statuses {
    ($( $sct:ident { $( $(#[$meta:meta])* $sc:literal $name:ident, )* } )*) => {
        impl Status {
            $($( $(#[$meta])* pub const $name: Self = Self::new(sct::$sct, $sc); )*)*
        }
        const NAMES: &[(Status, &str)] = &[ $($( (Status::$name, stringify!($name)), )*)* ];
    };
}

statuses! {
    GENERIC {
        /// The command succeeded.
        0x00 SUCCESS,
        /// The opcode is not supported on this queue.
        0x01 INVALID_OPCODE,
        /// A field has a value that is not allowed.
        0x02 INVALID_FIELD,
        /// Another command of the queue uses the identifier.
        0x03 COMMAND_ID_CONFLICT,
        /// The transfer of data or metadata failed.
        0x04 DATA_TRANSFER_ERROR,
        /// Aborted because power is about to be lost.
        0x05 ABORTED_POWER_LOSS,
        /// Internal error.
        0x06 INTERNAL_ERROR,
        /// Aborted by an Abort command.
        0x07 ABORTED_BY_REQUEST,
        /// Aborted because its submission queue was deleted.
        0x08 ABORTED_SQ_DELETION,
        /// The other command of the fused pair failed.
        0x09 ABORTED_FAILED_FUSED,
        /// The other command of the fused pair is missing.
        0x0a ABORTED_MISSING_FUSED,
        /// The namespace does not exist, or its format is not valid.
        0x0b INVALID_NAMESPACE_OR_FORMAT,
        /// Not allowed now, because a required earlier command is missing.
        0x0c COMMAND_SEQUENCE_ERROR,
        /// An SGL segment descriptor is not valid.
        0x0d INVALID_SGL_SEGMENT_DESCRIPTOR,
        /// There are too many or too few SGL descriptors.
        0x0e INVALID_NUMBER_OF_SGL_DESCRIPTORS,
        /// The SGL's data length does not fit the command.
        0x0f DATA_SGL_LENGTH_INVALID,
        /// The SGL's metadata length does not fit the command.
        0x10 METADATA_SGL_LENGTH_INVALID,
        /// The type of an SGL descriptor is not supported.
        0x11 SGL_DESCRIPTOR_TYPE_INVALID,
        /// This use of the controller memory buffer is not allowed.
        0x12 INVALID_USE_OF_CMB,
        /// The offset of a PRP entry is not valid.
        0x13 PRP_OFFSET_INVALID,
        /// The command exceeds the atomic write unit.
        0x14 ATOMIC_WRITE_UNIT_EXCEEDED,
        /// The host has no access rights.
        0x15 OPERATION_DENIED,
        /// The offset of an SGL descriptor is not valid: past the in-capsule data.
        0x16 SGL_OFFSET_INVALID,
        /// The subsystem has received host identifiers of both formats.
        0x18 HOST_ID_INCONSISTENT_FORMAT,
        /// The keep alive timer has expired.
        0x19 KEEP_ALIVE_EXPIRED,
        /// The keep alive timeout is not valid.
        0x1a KEEP_ALIVE_TIMEOUT_INVALID,
        /// Aborted by a Reservation Acquire with preempt and abort.
        0x1b ABORTED_PREEMPT,
        /// The last sanitize operation failed.
        0x1c SANITIZE_FAILED,
        /// A sanitize operation is running.
        0x1d SANITIZE_IN_PROGRESS,
        /// The length or address of a data block has the wrong granularity.
        0x1e SGL_DATA_BLOCK_GRANULARITY_INVALID,
        /// The command must not be in the controller memory buffer.
        0x1f COMMAND_NOT_SUPPORTED_IN_CMB,
        /// The namespace is write protected.
        0x20 NAMESPACE_WRITE_PROTECTED,
        /// The command was interrupted and may be retried.
        0x21 COMMAND_INTERRUPTED,
        /// A transient transport error occurred.
        0x22 TRANSIENT_TRANSPORT_ERROR,
        /// Command and feature lockdown prohibits the command.
        0x23 PROHIBITED_BY_LOCKDOWN,
        /// The media that an admin command needs is not ready.
        0x24 ADMIN_COMMAND_MEDIA_NOT_READY,
        /// A logical block is past the end of the namespace.
        0x80 LBA_OUT_OF_RANGE,
        /// The command would exceed the namespace's capacity.
        0x81 CAPACITY_EXCEEDED,
        /// The namespace is not ready. Do Not Retry says whether to try again.
        0x82 NAMESPACE_NOT_READY,
        /// The command conflicts with a reservation of another host.
        0x83 RESERVATION_CONFLICT,
        /// The namespace is being formatted.
        0x84 FORMAT_IN_PROGRESS,
    }
    COMMAND_SPECIFIC {
        /// The completion queue is not valid.
        0x00 COMPLETION_QUEUE_INVALID,
        /// The queue identifier is not valid.
        0x01 INVALID_QUEUE_IDENTIFIER,
        /// The queue size is not valid.
        0x02 INVALID_QUEUE_SIZE,
        /// There are too many concurrent Abort commands.
        0x03 ABORT_COMMAND_LIMIT_EXCEEDED,
        /// There are too many outstanding Asynchronous Event Requests.
        0x05 ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED,
        /// The firmware slot does not exist, or it is read-only.
        0x06 INVALID_FIRMWARE_SLOT,
        /// The firmware image is not valid.
        0x07 INVALID_FIRMWARE_IMAGE,
        /// The interrupt vector is not valid.
        0x08 INVALID_INTERRUPT_VECTOR,
        /// The log page is not supported, or not at present.
        0x09 INVALID_LOG_PAGE,
        /// The LBA format is not supported.
        0x0a INVALID_FORMAT,
        /// The firmware needs a conventional reset.
        0x0b FIRMWARE_NEEDS_CONVENTIONAL_RESET,
        /// The queue may not be deleted in this order.
        0x0c INVALID_QUEUE_DELETION,
        /// The feature cannot be saved.
        0x0d FEATURE_NOT_SAVEABLE,
        /// The feature cannot be changed.
        0x0e FEATURE_NOT_CHANGEABLE,
        /// The feature is not per namespace.
        0x0f FEATURE_NOT_NAMESPACE_SPECIFIC,
        /// The firmware needs a subsystem reset.
        0x10 FIRMWARE_NEEDS_SUBSYSTEM_RESET,
        /// The firmware needs a controller reset.
        0x11 FIRMWARE_NEEDS_CONTROLLER_RESET,
        /// Activating the firmware would take too long.
        0x12 FIRMWARE_NEEDS_MAX_TIME_VIOLATION,
        /// The firmware may not be activated.
        0x13 FIRMWARE_ACTIVATION_PROHIBITED,
        /// The ranges overlap.
        0x14 OVERLAPPING_RANGE,
        /// There is not enough capacity for the namespace.
        0x15 NAMESPACE_INSUFFICIENT_CAPACITY,
        /// No namespace identifier is left.
        0x16 NAMESPACE_IDENTIFIER_UNAVAILABLE,
        /// The namespace is already attached.
        0x18 NAMESPACE_ALREADY_ATTACHED,
        /// The namespace is private and attached to another controller.
        0x19 NAMESPACE_IS_PRIVATE,
        /// The namespace is not attached.
        0x1a NAMESPACE_NOT_ATTACHED,
        /// Thin provisioning is not supported.
        0x1b THIN_PROVISIONING_NOT_SUPPORTED,
        /// The controller list is not valid.
        0x1c CONTROLLER_LIST_INVALID,
        /// A device self-test is running.
        0x1d DEVICE_SELF_TEST_IN_PROGRESS,
        /// The boot partition may not be written.
        0x1e BOOT_PARTITION_WRITE_PROHIBITED,
        /// The controller identifier is not valid.
        0x1f INVALID_CONTROLLER_IDENTIFIER,
        /// The secondary controller's state does not allow it.
        0x20 INVALID_SECONDARY_CONTROLLER_STATE,
        /// The number of controller resources is not valid.
        0x21 INVALID_NUMBER_OF_CONTROLLER_RESOURCES,
        /// The resource identifier is not valid.
        0x22 INVALID_RESOURCE_IDENTIFIER,
        /// Sanitize is prohibited while the persistent memory region is enabled.
        0x23 SANITIZE_PROHIBITED,
        /// The ANA group identifier is not valid.
        0x24 ANA_GROUP_IDENTIFIER_INVALID,
        /// Attaching failed because of the ANA state.
        0x25 ANA_ATTACH_FAILED,
        /// There is not enough capacity.
        0x26 INSUFFICIENT_CAPACITY,
        /// Too many namespaces are attached.
        0x27 NAMESPACE_ATTACHMENT_LIMIT_EXCEEDED,
        /// The command cannot be prohibited.
        0x28 PROHIBITION_NOT_SUPPORTED,
        /// The I/O command set is not supported.
        0x29 IO_COMMAND_SET_NOT_SUPPORTED,
        /// The I/O command set is not enabled.
        0x2a IO_COMMAND_SET_NOT_ENABLED,
        /// The combination of I/O command sets is rejected.
        0x2b IO_COMMAND_SET_COMBINATION_REJECTED,
        /// The I/O command set is not valid.
        0x2c INVALID_IO_COMMAND_SET,
        /// No identifier is left.
        0x2d IDENTIFIER_UNAVAILABLE,
        /// Dataset Management and others: attributes conflict.
        0x80 CONFLICTING_ATTRIBUTES,
        /// The protection information settings do not match the namespace's format.
        0x81 INVALID_PROTECTION_INFORMATION,
        /// The command writes to a read-only range.
        0x82 WRITE_TO_READ_ONLY_RANGE,
        /// The command exceeds a size limit.
        0x83 COMMAND_SIZE_LIMIT_EXCEEDED,
        /// The command crosses a zone boundary, or begins past the capacity of its zone.
        0xb8 ZONE_BOUNDARY_ERROR,
        /// The zone is full.
        0xb9 ZONE_IS_FULL,
        /// The zone is read only.
        0xba ZONE_IS_READ_ONLY,
        /// The zone is offline.
        0xbb ZONE_IS_OFFLINE,
        /// The write does not begin at the zone's write pointer.
        0xbc ZONE_INVALID_WRITE,
        /// There are too many active zones.
        0xbd TOO_MANY_ACTIVE_ZONES,
        /// There are too many open zones.
        0xbe TOO_MANY_OPEN_ZONES,
        /// The zone's state does not allow the action.
        0xbf INVALID_ZONE_STATE_TRANSITION,
        /// Connect: the record format is not supported.
        0x80 CONNECT_INCOMPATIBLE_FORMAT,
        /// Connect: the controller is in use.
        0x81 CONNECT_CONTROLLER_BUSY,
        /// Connect: a parameter is not valid. The result says which (see [`crate::fabrics::InvalidParameter`]).
        0x82 CONNECT_INVALID_PARAMETERS,
        /// Connect: the host must discover again.
        0x83 CONNECT_RESTART_DISCOVERY,
        /// Connect: this host is not allowed.
        0x84 CONNECT_INVALID_HOST,
        /// Disconnect: the queue's type is not valid.
        0x85 INVALID_QUEUE_TYPE,
        /// Get Log Page: the discovery log changed during the read.
        0x90 DISCOVER_RESTART,
        /// The queue must authenticate first.
        0x91 AUTHENTICATION_REQUIRED,
    }
    MEDIA {
        /// The data could not be written.
        0x80 WRITE_FAULT,
        /// The data could not be read.
        0x81 UNRECOVERED_READ_ERROR,
        /// End-to-end guard check failed.
        0x82 GUARD_CHECK_ERROR,
        /// End-to-end application tag check failed.
        0x83 APPLICATION_TAG_CHECK_ERROR,
        /// End-to-end reference tag check failed.
        0x84 REFERENCE_TAG_CHECK_ERROR,
        /// Compare: the data differs.
        0x85 COMPARE_FAILURE,
        /// Access denied.
        0x86 ACCESS_DENIED,
        /// The command reads a block that was deallocated or never written, and the host has requested an error for this.
        0x87 DEALLOCATED_OR_UNWRITTEN_BLOCK,
        /// End-to-end storage tag check failed.
        0x88 STORAGE_TAG_CHECK_ERROR,
    }
    PATH {
        /// Internal path error.
        0x00 INTERNAL_PATH_ERROR,
        /// The ANA state is persistent loss.
        0x01 ANA_PERSISTENT_LOSS,
        /// The ANA state is inaccessible.
        0x02 ANA_INACCESSIBLE,
        /// The ANA state is changing.
        0x03 ANA_TRANSITION,
        /// The controller detected a path error.
        0x60 CONTROLLER_PATHING_ERROR,
        /// The host detected a path error.
        0x70 HOST_PATHING_ERROR,
        /// The host aborted the command without the controller.
        0x71 ABORTED_BY_HOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_kept_apart() {
        let status = Status::new(sct::MEDIA, 0x81).with_dnr().with_more().with_crd(2);
        assert_eq!((status.sct(), status.sc(), status.crd()), (2, 0x81, 2));
        assert!(status.dnr() && status.more() && !status.is_success());
        assert_eq!(status.code(), Status::UNRECOVERED_READ_ERROR);
        assert!(Status::SUCCESS.with_dnr().is_success());
    }

    #[test]
    fn it_prints_its_name_and_both_where_the_command_decides() {
        assert_eq!(
            Status::INVALID_FIELD.with_dnr().to_string(),
            "INVALID_FIELD (sct 0h, sc 02h, dnr)"
        );
        assert_eq!(
            Status::CONNECT_INVALID_HOST.to_string(),
            "CONNECT_INVALID_HOST (sct 1h, sc 84h)"
        );
        assert!(Status::new(1, 0x80).to_string().contains(" or CONNECT_INCOMPATIBLE_FORMAT"));
        assert_eq!(Status::new(7, 0xfe).to_string(), "(sct 7h, sc feh)");
    }
}
