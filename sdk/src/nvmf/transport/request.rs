//! A request: memory of the fabric, lent to the target from `exec` to `complete`.
#![expect(unsafe_code, reason = "requests cross the ABI as pointers")]

use crate::buf::{self, Buf};
use api::{bay_iov, bay_nvmf_req};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::fmt;
use std::ptr;

/// The source for data that is zeroes. The program never writes it, so it takes only one page of memory.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// The direction of a request's data transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// No data.
    None,
    /// From the host. The fabric has received it before it lends the request.
    FromHost,
    /// To the host. The fabric sends it after success.
    ToHost,
}

/// One command with its data and its response, and the fabric's part `B`.
///
/// # Invariants
/// While a request is lent, only the target uses it. `Slot::pieces` and `Slot::iov` do not change meanwhile, so the
/// list and the memory that the target uses are valid until it returns the request.
pub struct Request<B>(Box<Slot<B>>);

/// `raw` comes first, so the target's pointer to it is also a pointer to the slot.
#[repr(C)]
struct Slot<B> {
    raw: bay_nvmf_req,
    pieces: Vec<Buf>,
    iov: Vec<bay_iov>,
    /// Length of a piece, in bytes. The last piece may be shorter.
    piece_len: u32,
    body: B,
}

impl<B> Request<B> {
    /// Creates a request. Its data is in pieces of `piece_len` bytes, at most `data_len_max` bytes in total.
    pub fn new(body: B, piece_len: u32, data_len_max: u32) -> Self {
        let piece_len = piece_len.max(1);
        let pieces = data_len_max.div_ceil(piece_len) as usize;
        Self(Box::new(Slot {
            raw: bay_nvmf_req {
                cmd: [0; 8],
                rsp: [0; 2],
                iov: ptr::null_mut(),
                iovcnt: 0,
                len: 0,
                xfer: api::BAY_NVMF_XFER_NONE,
                rsv0: 0,
                rsv1: 0,
                rsp_len: 0,
                conn: ptr::null_mut(),
                tgt: [0; 8],
            },
            pieces: Vec::with_capacity(pieces),
            iov: Vec::with_capacity(pieces),
            piece_len,
            body,
        }))
    }

    /// The fabric's part.
    pub fn body(&self) -> &B {
        &self.0.body
    }

    /// The fabric's part.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.0.body
    }

    /// Sets the received command, and clears the transfer and response of the previous one.
    pub fn begin(&mut self, command: &[u8; 64]) {
        let raw = &mut self.0.raw;
        for (word, bytes) in raw.cmd.iter_mut().zip(command.chunks_exact(8)) {
            *word = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        }
        raw.rsp = [0; 2];
        raw.rsp_len = 0;
        raw.xfer = api::BAY_NVMF_XFER_NONE;
        raw.len = 0;
    }

    /// Sets the direction and the length of the data; `len` in bytes.
    pub fn set_transfer(&mut self, transfer: Transfer, len: u32) {
        self.0.raw.len = len;
        self.0.raw.xfer = match transfer {
            Transfer::None => api::BAY_NVMF_XFER_NONE,
            Transfer::FromHost => api::BAY_NVMF_XFER_H2C,
            Transfer::ToHost => api::BAY_NVMF_XFER_C2H,
        };
    }

    /// Gets memory for `len` bytes of data from the host's pools, all or nothing. Returns whether there was enough.
    #[inline]
    pub fn obtain(&mut self, len: u32) -> bool {
        let slot = &mut *self.0;
        slot.pieces.clear();
        let mut left = len;
        while left > 0 {
            let piece = left.min(slot.piece_len);
            let Some(buf) = buf::get(piece) else {
                slot.pieces.clear();
                return false;
            };
            slot.pieces.push(buf);
            left -= piece;
        }
        true
    }

    /// Releases the memory of the data.
    pub fn release(&mut self) {
        self.0.pieces.clear();
    }

    /// The pieces of the data, `len` bytes from `offset` on. They are zeroes if the target asked for zeroes.
    #[inline]
    pub fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]> {
        let (mut skip, mut left) = (offset as usize, len as usize);
        let zeroes = self.0.raw.xfer == api::BAY_NVMF_XFER_ZEROES;
        let slice_max = if zeroes { ZEROES.len() } else { usize::MAX };
        let slices = self.0.pieces.iter().flat_map(move |piece| {
            let from = skip.min(piece.len() as usize);
            skip -= from;
            let rest = piece.get(from..).unwrap_or_default();
            let bytes = rest.get(..left).unwrap_or(rest);
            left -= bytes.len();
            bytes.chunks(slice_max)
        });
        slices.map(
            move |bytes| if zeroes { ZEROES.get(..bytes.len()).unwrap_or(bytes) } else { bytes },
        )
    }

    /// The data from `offset` to the end of its piece; empty when `offset` is past the end.
    pub fn data_mut(&mut self, offset: u32) -> &mut [u8] {
        let slot = &mut *self.0;
        let (index, within) = (offset / slot.piece_len, offset % slot.piece_len);
        let piece = slot.pieces.get_mut(index as usize);
        piece.and_then(|piece| piece.get_mut(within as usize..)).unwrap_or_default()
    }

    /// The 16-byte response.
    #[must_use]
    pub fn response(&self) -> [u8; 16] {
        let [low, high] = self.0.raw.rsp;
        let mut bytes = [0; 16];
        let (low_place, high_place) = bytes.split_at_mut(8);
        low_place.copy_from_slice(&low.to_le_bytes());
        high_place.copy_from_slice(&high.to_le_bytes());
        bytes
    }

    /// Answers instead of the target, for tests: success, and `len` bytes of data.
    #[cfg(any(test, feature = "testing"))]
    pub fn succeed(&mut self, cid: u16, len: u32) {
        self.0.raw.rsp = [0, u64::from(cid) << 32];
        self.0.raw.rsp_len = len;
    }

    /// How much data the target sends to the host, in bytes, at most the length of the transfer.
    #[must_use]
    pub fn response_len(&self) -> u32 {
        self.0.raw.rsp_len.min(self.0.raw.len)
    }

    /// Turns the request into a pointer, which then owns it.
    pub(super) fn into_raw(mut self, conn: *mut c_void) -> *mut bay_nvmf_req {
        let slot = &mut *self.0;
        slot.iov.clear();
        for piece in &mut slot.pieces {
            let (len, region) = (piece.len(), piece.region());
            slot.iov.push(bay_iov { addr: piece.as_mut_ptr().cast(), len, region });
        }
        slot.raw.iovcnt = u32::try_from(slot.iov.len()).unwrap_or(0);
        slot.raw.iov = if slot.iov.is_empty() { ptr::null_mut() } else { slot.iov.as_mut_ptr() };
        slot.raw.conn = conn;
        Box::into_raw(self.0).cast()
    }

    /// # Safety
    /// `raw` came from `into_raw` of a `Request<B>` and is turned back once.
    pub(super) unsafe fn from_raw(raw: *mut bay_nvmf_req) -> Self {
        // SAFETY: the caller's promise; `raw` is the first field of the slot.
        Self(unsafe { Box::from_raw(raw.cast()) })
    }
}

impl<B: fmt::Debug> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("body", &self.0.body).finish_non_exhaustive()
    }
}
