//! Opcodes. Constants rather than an enum: a controller must answer every byte.

/// The opcode of every Fabrics command. Byte 4 has the type (see [`fabrics`]).
pub const FABRICS: u8 = 0x7f;

/// Direction of a command's data: bits 1:0 of its opcode or Fabrics type. NVMe Base 2.0, figure 86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// Host to controller.
    HostToController,
    /// Controller to host.
    ControllerToHost,
    /// Both directions. No command of these command sets uses it.
    Bidirectional,
}

impl Transfer {
    /// The direction of an opcode. For a Fabrics command, pass its Fabrics type.
    #[must_use]
    pub const fn of(opcode: u8) -> Self {
        match opcode & 3 {
            0 => Self::None,
            1 => Self::HostToController,
            2 => Self::ControllerToHost,
            _ => Self::Bidirectional,
        }
    }
}

macro_rules! opcodes {
    ($( $(#[$mod_meta:meta])* $mod:ident { $( $value:literal $name:ident $doc:literal, )* } )*) => {$(
        $(#[$mod_meta])*
        pub mod $mod {
            $( #[doc = $doc] pub const $name: u8 = $value; )*

            /// Name of an opcode of this set.
            #[must_use]
            pub const fn name(opcode: u8) -> Option<&'static str> {
                match opcode {
                    $( $name => Some($doc), )*
                    _ => None,
                }
            }
        }
    )*};
}

opcodes! {
    /// Admin commands. NVMe Base 2.0, figure 138.
    admin {
        0x00 DELETE_IO_SQ "Delete I/O Submission Queue",
        0x01 CREATE_IO_SQ "Create I/O Submission Queue",
        0x02 GET_LOG_PAGE "Get Log Page",
        0x04 DELETE_IO_CQ "Delete I/O Completion Queue",
        0x05 CREATE_IO_CQ "Create I/O Completion Queue",
        0x06 IDENTIFY "Identify",
        0x08 ABORT "Abort",
        0x09 SET_FEATURES "Set Features",
        0x0a GET_FEATURES "Get Features",
        0x0c ASYNC_EVENT_REQUEST "Asynchronous Event Request",
        0x0d NAMESPACE_MANAGEMENT "Namespace Management",
        0x10 FIRMWARE_COMMIT "Firmware Commit",
        0x11 FIRMWARE_IMAGE_DOWNLOAD "Firmware Image Download",
        0x14 DEVICE_SELF_TEST "Device Self-test",
        0x15 NAMESPACE_ATTACHMENT "Namespace Attachment",
        0x18 KEEP_ALIVE "Keep Alive",
        0x19 DIRECTIVE_SEND "Directive Send",
        0x1a DIRECTIVE_RECEIVE "Directive Receive",
        0x1c VIRTUALIZATION_MANAGEMENT "Virtualization Management",
        0x1d NVME_MI_SEND "NVMe-MI Send",
        0x1e NVME_MI_RECEIVE "NVMe-MI Receive",
        0x20 CAPACITY_MANAGEMENT "Capacity Management",
        0x24 LOCKDOWN "Lockdown",
        0x7c DOORBELL_BUFFER_CONFIG "Doorbell Buffer Config",
        0x80 FORMAT_NVM "Format NVM",
        0x81 SECURITY_SEND "Security Send",
        0x82 SECURITY_RECEIVE "Security Receive",
        0x84 SANITIZE "Sanitize",
        0x86 GET_LBA_STATUS "Get LBA Status",
    }
    /// NVM commands. NVM Command Set 1.0, figure 21, and the I/O commands of Base 2.0.
    nvm {
        0x00 FLUSH "Flush",
        0x01 WRITE "Write",
        0x02 READ "Read",
        0x04 WRITE_UNCORRECTABLE "Write Uncorrectable",
        0x05 COMPARE "Compare",
        0x08 WRITE_ZEROES "Write Zeroes",
        0x09 DATASET_MANAGEMENT "Dataset Management",
        0x0c VERIFY "Verify",
        0x0d RESERVATION_REGISTER "Reservation Register",
        0x0e RESERVATION_REPORT "Reservation Report",
        0x11 RESERVATION_ACQUIRE "Reservation Acquire",
        0x15 RESERVATION_RELEASE "Reservation Release",
        0x19 COPY "Copy",
    }
    /// Commands that zoned namespaces have besides those of [`nvm`]. Zoned Namespace Command Set 1.1, figure 30.
    zoned {
        0x79 ZONE_MANAGEMENT_SEND "Zone Management Send",
        0x7a ZONE_MANAGEMENT_RECEIVE "Zone Management Receive",
        0x7d ZONE_APPEND "Zone Append",
    }
    /// Types of Fabrics commands. NVMe over Fabrics 1.1, section 3.
    fabrics {
        0x00 PROPERTY_SET "Property Set",
        0x01 CONNECT "Connect",
        0x04 PROPERTY_GET "Property Get",
        0x05 AUTHENTICATION_SEND "Authentication Send",
        0x06 AUTHENTICATION_RECEIVE "Authentication Receive",
        0x08 DISCONNECT "Disconnect",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcode_says_where_the_data_goes() {
        assert_eq!(Transfer::of(nvm::WRITE), Transfer::HostToController);
        assert_eq!(Transfer::of(nvm::READ), Transfer::ControllerToHost);
        assert_eq!(Transfer::of(nvm::WRITE_ZEROES), Transfer::None);
        assert_eq!(Transfer::of(admin::IDENTIFY), Transfer::ControllerToHost);
        assert_eq!(Transfer::of(zoned::ZONE_APPEND), Transfer::HostToController);
        assert_eq!(Transfer::of(zoned::ZONE_MANAGEMENT_RECEIVE), Transfer::ControllerToHost);
        assert_eq!(Transfer::of(fabrics::CONNECT), Transfer::HostToController);
        assert_eq!(Transfer::of(fabrics::PROPERTY_SET), Transfer::None);
        assert_eq!(admin::name(0x03), None);
    }
}
