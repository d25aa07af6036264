//! The header fields that all PDUs share. RFC 7143, section 11.2.

use crate::BHS_LEN;

macro_rules! opcodes {
    ($($(#[$meta:meta])* $name:ident = $code:literal,)*) => {
        /// The type of a PDU. RFC 7143, section 11.2.1.2.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Opcode {
            $($(#[$meta])* $name = $code,)*
        }

        impl Opcode {
            /// The opcode with this code.
            #[must_use]
            pub const fn from_bits(bits: u8) -> Option<Self> {
                Some(match bits {
                    $($code => Self::$name,)*
                    _ => return None,
                })
            }
        }
    };
}

opcodes! {
    /// Initiator's ping, or the answer to the target's.
    NopOut = 0x00,
    /// SCSI command.
    ScsiCommand = 0x01,
    /// Task management function.
    TaskManagement = 0x02,
    /// Login.
    Login = 0x03,
    /// Text.
    Text = 0x04,
    /// Data of a write.
    DataOut = 0x05,
    /// Logout.
    Logout = 0x06,
    /// Selective acknowledgement; error recovery level 1 and up.
    Snack = 0x10,
    /// Target's ping, or the answer to the initiator's.
    NopIn = 0x20,
    /// End of a command.
    ScsiResponse = 0x21,
    /// End of a task management function.
    TaskManagementResponse = 0x22,
    /// Answer to a login.
    LoginResponse = 0x23,
    /// Answer to a text.
    TextResponse = 0x24,
    /// Data of a read.
    DataIn = 0x25,
    /// Answer to a logout.
    LogoutResponse = 0x26,
    /// Ready to transfer: asks for data of a write.
    R2t = 0x31,
    /// Asynchronous message: an event at the target.
    AsyncMessage = 0x32,
    /// The target rejects a PDU.
    Reject = 0x3f,
}

/// The common part of a basic header segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The opcode as received, 6 bits.
    pub opcode: u8,
    /// I: immediate delivery, outside of the order of commands.
    pub immediate: bool,
    /// Length of the additional header segments, in bytes, 0 to 1020.
    pub ahs_len: u16,
    /// Length of the data, in bytes, without padding.
    pub data_len: u32,
}

impl Header {
    /// Parses the common part. Any content is accepted.
    #[must_use]
    pub const fn parse(bhs: &[u8; BHS_LEN]) -> Self {
        let [first, _, _, _, ahs, high, middle, low, ..] = *bhs;
        Self {
            opcode: first & 0x3f,
            immediate: first & 0x40 != 0,
            ahs_len: ahs as u16 * 4,
            data_len: u32::from_be_bytes([0, high, middle, low]),
        }
    }

    /// Its opcode, if it is known.
    #[must_use]
    pub const fn kind(&self) -> Option<Opcode> {
        Opcode::from_bits(self.opcode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_of_24_bits_and_of_words() {
        let mut bhs = [0; BHS_LEN];
        bhs[..8].copy_from_slice(&[0x41, 0, 0, 0, 2, 1, 2, 3]);
        let header = Header::parse(&bhs);
        assert_eq!(header.kind(), Some(Opcode::ScsiCommand));
        assert_eq!((header.immediate, header.ahs_len, header.data_len), (true, 8, 0x01_0203));
        bhs[0] = 0x1e;
        assert_eq!(Header::parse(&bhs).kind(), None);
    }
}
