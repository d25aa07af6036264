//! Fabrics commands and their data. NVMe over Fabrics 1.1, section 3.

use crate::command::{join, split};
use crate::layout::layout;
use crate::nqn;
use crate::opcode::{self, fabrics};
use crate::sgl::SglDescriptor;
use crate::text::NulText;
use crate::{Command, Status};

/// Controller identifier in Connect: any controller (dynamic model).
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// Controller identifier in Connect: any controller (static model).
pub const CNTLID_STATIC: u16 = 0xfffe;
/// Minimum size of the admin queue of a Fabrics controller, in entries.
pub const MIN_ADMIN_QUEUE_ENTRIES: u16 = 32;

const fn command(fctype: u8) -> Command {
    let mut command = Command::new(opcode::FABRICS);
    command.dw[1] = fctype as u32;
    command
}

/// The Connect command. NVMe over Fabrics 1.1, section 3.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// Record format; only 0 is defined.
    pub recfmt: u16,
    /// Queue: 0 is the admin queue.
    pub qid: u16,
    /// Submission queue size, in entries, minus one.
    pub sqsize: u16,
    /// Connect attributes, bits of [`cattr`].
    pub cattr: u8,
    /// Keep alive timeout, in milliseconds; 0 = none. Only for the admin queue.
    pub kato_ms: u32,
}

/// Bits of [`Connect::cattr`].
pub mod cattr {
    /// Priority class, two bits.
    pub const PRIORITY_MASK: u8 = 3;
    /// No submission queue flow control.
    pub const DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;
    /// Individual I/O queues may be deleted (Disconnect).
    pub const INDIVIDUAL_IO_QUEUE_DELETION: u8 = 1 << 3;
}

impl Connect {
    /// Reads the command's fields.
    #[must_use]
    pub const fn from_command(command: &Command) -> Self {
        Self {
            recfmt: (command.dw[10] & 0xffff) as u16,
            qid: (command.dw[10] >> 16) as u16,
            sqsize: (command.dw[11] & 0xffff) as u16,
            cattr: (command.dw[11] >> 16 & 0xff) as u8,
            kato_ms: command.dw[12],
        }
    }

    /// Makes the command. Its [`ConnectData`] goes into the capsule.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let sgl = SglDescriptor::InCapsule { offset: 0, length: 1024 };
        let mut command = command(fabrics::CONNECT).with_sgl1(sgl);
        command.dw[10] = self.recfmt as u32 | (self.qid as u32) << 16;
        command.dw[11] = self.sqsize as u32 | (self.cattr as u32) << 16;
        command.dw[12] = self.kato_ms;
        command
    }

    /// Byte offsets of fields in the command, for [`InvalidParameter`].
    pub const RECFMT_OFFSET: u16 = 40;
    /// See [`Self::RECFMT_OFFSET`].
    pub const QID_OFFSET: u16 = 42;
    /// See [`Self::RECFMT_OFFSET`].
    pub const SQSIZE_OFFSET: u16 = 44;
    /// See [`Self::RECFMT_OFFSET`].
    pub const CATTR_OFFSET: u16 = 46;
    /// See [`Self::RECFMT_OFFSET`].
    pub const KATO_OFFSET: u16 = 48;
}

layout! {
    /// The data of Connect. NVMe over Fabrics 1.1, figure 20.
    pub struct ConnectData[1024] {
        /// Host identifier, a UUID in network order.
        0 => hostid: [u8; 16],
        /// Requested controller: [`CNTLID_DYNAMIC`], [`CNTLID_STATIC`], or for I/O queues the controller of the admin queue.
        16 => cntlid: u16,
        /// NQN of the subsystem.
        256 => subnqn: NulText<{ nqn::FIELD_LEN }>,
        /// NQN of the host.
        512 => hostnqn: NulText<{ nqn::FIELD_LEN }>,
    }
}

impl ConnectData {
    /// Byte offsets of fields in the data, for [`InvalidParameter`].
    pub const HOSTID_OFFSET: u16 = 0;
    /// See [`Self::HOSTID_OFFSET`].
    pub const CNTLID_OFFSET: u16 = 16;
    /// See [`Self::HOSTID_OFFSET`].
    pub const SUBNQN_OFFSET: u16 = 256;
    /// See [`Self::HOSTID_OFFSET`].
    pub const HOSTNQN_OFFSET: u16 = 512;
}

/// DW0 of a successful Connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResult {
    /// The controller allocated.
    pub cntlid: u16,
    /// Authentication requirements: bit 1 ATR (authenticate), bit 2 ASCR (authenticate and create a secure channel).
    pub authreq: u16,
}

impl ConnectResult {
    /// Reads DW0.
    #[must_use]
    pub const fn from_dw0(dw0: u32) -> Self {
        Self { cntlid: (dw0 & 0xffff) as u16, authreq: (dw0 >> 16) as u16 }
    }

    /// DW0.
    #[must_use]
    pub const fn to_dw0(self) -> u32 {
        self.cntlid as u32 | (self.authreq as u32) << 16
    }
}

/// DW0 of a Connect that failed with [`Status::CONNECT_INVALID_PARAMETERS`]: the wrong field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidParameter {
    /// Whether the field is in the data; otherwise it is in the command.
    pub in_data: bool,
    /// Byte offset of the field.
    pub offset: u16,
}

impl InvalidParameter {
    /// A field of the command.
    #[must_use]
    pub const fn command(offset: u16) -> Self {
        Self { in_data: false, offset }
    }

    /// A field of the data.
    #[must_use]
    pub const fn data(offset: u16) -> Self {
        Self { in_data: true, offset }
    }

    /// Reads DW0.
    #[must_use]
    pub const fn from_dw0(dw0: u32) -> Self {
        Self { in_data: dw0 >> 16 & 1 == 1, offset: (dw0 & 0xffff) as u16 }
    }

    /// DW0.
    #[must_use]
    pub const fn to_dw0(self) -> u32 {
        self.offset as u32 | (self.in_data as u32) << 16
    }
}

/// Property Get. NVMe over Fabrics 1.1, section 3.4. The value is in the completion's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertyGet {
    /// Size: 8 bytes if true, otherwise 4.
    pub wide: bool,
    /// Offset, one of [`crate::property::offset`].
    pub offset: u32,
}

/// Property Set. NVMe over Fabrics 1.1, section 3.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertySet {
    /// Size: 8 bytes if true, otherwise 4.
    pub wide: bool,
    /// Offset, one of [`crate::property::offset`].
    pub offset: u32,
    /// The value. If the size is 4 bytes, only its low half counts.
    pub value: u64,
}

/// Reads ATTRIB: 0 is 4 bytes, 1 is 8 bytes, all other values are reserved.
const fn wide(command: &Command) -> Result<bool, Status> {
    match command.dw[10] & 7 {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Status::INVALID_FIELD),
    }
}

impl PropertyGet {
    /// Reads the command's fields.
    ///
    /// # Errors
    /// [`Status::INVALID_FIELD`] if the size is reserved.
    pub const fn from_command(command: &Command) -> Result<Self, Status> {
        match wide(command) {
            Ok(wide) => Ok(Self { wide, offset: command.dw[11] }),
            Err(status) => Err(status),
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = command(fabrics::PROPERTY_GET);
        command.dw[10] = self.wide as u32;
        command.dw[11] = self.offset;
        command
    }
}

impl PropertySet {
    /// Reads the command's fields.
    ///
    /// # Errors
    /// [`Status::INVALID_FIELD`] if the size is reserved.
    pub const fn from_command(command: &Command) -> Result<Self, Status> {
        match wide(command) {
            Ok(wide) => {
                let high = if wide { command.dw[13] } else { 0 };
                Ok(Self { wide, offset: command.dw[11], value: join(command.dw[12], high) })
            }
            Err(status) => Err(status),
        }
    }

    /// The command.
    #[must_use]
    pub const fn to_command(self) -> Command {
        let mut command = command(fabrics::PROPERTY_SET);
        command.dw[10] = self.wide as u32;
        command.dw[11] = self.offset;
        (command.dw[12], command.dw[13]) = split(self.value);
        command
    }
}

/// The Disconnect command. It deletes the I/O queue that it is sent on. NVMe over Fabrics 1.1, section 3.6.
#[must_use]
pub const fn disconnect() -> Command {
    command(fabrics::DISCONNECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_has_the_bytes_of_the_specification() {
        let connect = Connect { recfmt: 0, qid: 1, sqsize: 127, cattr: 4, kato_ms: 30_000 };
        let bytes = connect.to_command().encode();
        assert_eq!((bytes[0], bytes[1], bytes[4]), (0x7f, 0x40, 0x01));
        assert_eq!(bytes[24..40], [0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes[40..52], [0, 0, 1, 0, 127, 0, 4, 0, 0x30, 0x75, 0, 0]);
        assert_eq!(Connect::from_command(&Command::parse(&bytes)), connect);
    }

    #[test]
    fn connect_data_keeps_its_names_where_the_specification_puts_them() {
        let data = ConnectData {
            hostid: [7; 16],
            cntlid: CNTLID_DYNAMIC,
            subnqn: NulText::new("nqn.2016-06.io.spdk:cnode1").unwrap(),
            hostnqn: NulText::new("nqn.2014-08.org.nvmexpress:host").unwrap(),
        };
        let bytes = data.encode();
        assert_eq!(bytes[16..18], [0xff, 0xff]);
        assert!(bytes[256..].starts_with(b"nqn.2016-06.io.spdk:cnode1\0"));
        assert!(bytes[512..].starts_with(b"nqn.2014-08.org.nvmexpress:host\0"));
        assert_eq!(ConnectData::parse(&bytes), data);
    }

    #[test]
    fn an_unterminated_name_is_no_name() {
        let data = ConnectData::parse(&[b'a'; 1024]);
        assert_eq!(data.subnqn.as_str(), None);
    }

    #[test]
    fn properties_of_a_reserved_size_are_refused() {
        let mut command = PropertyGet { wide: true, offset: 0 }.to_command();
        assert_eq!(PropertyGet::from_command(&command), Ok(PropertyGet { wide: true, offset: 0 }));
        command.dw[10] = 2;
        assert_eq!(PropertyGet::from_command(&command), Err(Status::INVALID_FIELD));
        assert_eq!(PropertySet::from_command(&command), Err(Status::INVALID_FIELD));
    }

    #[test]
    fn a_four_byte_property_ignores_the_upper_half() {
        let set = PropertySet { wide: false, offset: 0x14, value: 0xff_0046_0001 };
        assert_eq!(PropertySet::from_command(&set.to_command()).unwrap().value, 0x0046_0001);
    }

    #[test]
    fn an_invalid_parameter_names_its_field() {
        let invalid = InvalidParameter::data(ConnectData::SUBNQN_OFFSET);
        assert_eq!(invalid.to_dw0(), 0x0001_0100);
        assert_eq!(InvalidParameter::from_dw0(0x0001_0100), invalid);
    }
}
