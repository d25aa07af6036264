//! The format of requests and responses. All numbers are little-endian.
//!
//! ```text
//! request:   u32 op (1 read, 2 write, 3 flush) | u32 tag | u64 lba | u32 blocks | u32 0 | data of a write
//! response:  u32 tag | i32 status: 0 or a negative errno | data of a read that succeeded
//! ```

use drivebay_sdk::prelude::*;

/// Maximum length of the data of one request, in bytes.
pub const DATA_LEN_MAX: usize = 128 << 10;
/// Length of a request in front of its data, in bytes.
pub const HEAD_LEN: usize = 24;

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The response has the same tag.
    pub tag: u32,
    /// The op. Its range is not checked yet.
    pub op: Op,
    /// Length of the data to read or write, in bytes.
    pub len: u32,
    /// The data of a write.
    pub data: &'a [u8],
}

/// The error for a peer that does not speak this protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Parses the first request of `bytes`. Returns it and the rest, or `None` when it is not complete yet.
///
/// # Errors
/// An unknown op, or more data than one request may have.
pub fn first(bytes: &[u8], block_size: u32) -> Result<Option<(Request<'_>, &[u8])>, Malformed> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else { return Ok(None) };
    let word = |at: usize| {
        let bytes = head.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let lba = u64::from(word(8)) | u64::from(word(12)) << 32;
    let range = Range::new(lba, word(16).into());
    let op = match word(0) {
        1 => Op::Read(range),
        2 => Op::Write(range),
        3 => Op::Flush,
        _ => return Err(Malformed),
    };
    let len = if op == Op::Flush { 0 } else { range.nblocks.saturating_mul(block_size.into()) };
    let len = u32::try_from(len).map_err(|_| Malformed)?;
    if len as usize > DATA_LEN_MAX {
        return Err(Malformed);
    }
    let sent = if let Op::Write(_) = op { len as usize } else { 0 };
    let whole = rest.split_at_checked(sent);
    Ok(whole.map(|(data, rest)| (Request { tag: word(4), op, len, data }, rest)))
}

/// Appends a response.
pub fn respond(to: &mut Vec<u8>, tag: u32, status: i32, data: &[u8]) {
    to.extend(tag.to_le_bytes());
    to.extend(status.to_le_bytes());
    to.extend_from_slice(data);
}
