//! The format of commands and responses. All numbers are little-endian.
//!
//! ```text
//! to the target:  u32 length of the data | u32 0 | 64-byte command  | data
//! to the host:    u32 length of the data | u32 0 | 16-byte response | data
//! ```

use drivebay_sdk::nvmf::transport::Transfer;

/// Maximum length of the data of one command, in bytes. The target reports it to hosts (MDTS).
pub const DATA_LEN_MAX: u32 = 128 << 10;
/// Length of a frame in front of its data, in bytes.
pub const HEAD_LEN: usize = 72;

/// One received command.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The command.
    pub command: &'a [u8; 64],
    /// Direction of the data.
    pub transfer: Transfer,
    /// Length of the data, in bytes.
    pub len: u32,
    /// The data of a write.
    pub data: &'a [u8],
}

/// The error for a peer that does not speak this protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Parses the first frame of `bytes`. Returns it and the rest, or `None` when it is not complete yet.
///
/// # Errors
/// The length is too long, or differs from the length in the command.
pub fn first(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
    let sent = number(head.first_chunk());
    if sent > DATA_LEN_MAX {
        return Err(Malformed);
    }
    let Some((command, rest)) = rest.split_first_chunk::<64>() else { return Ok(None) };
    let (transfer, len) = transfer_of(command);
    let wanted = if transfer == Transfer::FromHost { len } else { 0 };
    if sent != wanted || len > DATA_LEN_MAX {
        return Err(Malformed);
    }
    let whole = rest.split_at_checked(sent as usize);
    Ok(whole.map(|(data, rest)| (Frame { command, transfer, len, data }, rest)))
}

/// Direction and length of a command's data. NVMe Base 2.0, section 3.3.3.1: the low two bits of the opcode, or of the
/// Fabrics command type, are the direction; the SGL descriptor has the length.
fn transfer_of(command: &[u8; 64]) -> (Transfer, u32) {
    const FABRICS: u8 = 0x7f;
    let [opcode, _, _, _, fctype, ..] = *command;
    let code = if opcode == FABRICS { fctype } else { opcode };
    let len = number(command.get(32..).and_then(<[u8]>::first_chunk));
    match code & 3 {
        _ if len == 0 => (Transfer::None, 0),
        1 => (Transfer::FromHost, len),
        2 => (Transfer::ToHost, len),
        _ => (Transfer::None, 0),
    }
}

fn number(bytes: Option<&[u8; 4]>) -> u32 {
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, sgl_len: u32, sent: u32, data: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_LEN + data];
        bytes[..4].copy_from_slice(&sent.to_le_bytes());
        bytes[8] = opcode;
        bytes[8 + 32..8 + 36].copy_from_slice(&sgl_len.to_le_bytes());
        bytes
    }

    #[test]
    fn a_frame_is_none_until_its_last_byte() {
        let mut bytes = frame(1, 512, 512, 512);
        bytes.extend([9; 3]);
        for len in 0..HEAD_LEN + 512 {
            assert_eq!(first(&bytes[..len]), Ok(None), "{len}");
        }
        let (frame, rest) = first(&bytes).unwrap().unwrap();
        assert_eq!((frame.transfer, frame.len, frame.data.len()), (Transfer::FromHost, 512, 512));
        assert_eq!(rest, [9; 3]);
    }

    #[test]
    fn a_read_brings_no_data_and_says_how_much_it_wants() {
        let bytes = frame(2, 4096, 0, 0);
        let (frame, rest) = first(&bytes).unwrap().unwrap();
        assert_eq!((frame.transfer, frame.len, rest.len()), (Transfer::ToHost, 4096, 0));
    }

    #[test]
    fn lengths_that_do_not_fit_are_malformed() {
        for bytes in [
            frame(1, 512, 511, 512),
            frame(2, 512, 512, 512),
            frame(1, DATA_LEN_MAX + 1, DATA_LEN_MAX + 1, 0),
            frame(2, u32::MAX, 0, 0),
        ] {
            assert_eq!(first(&bytes), Err(Malformed));
        }
    }
}
