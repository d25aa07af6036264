//! A request of a guest as the context of an I/O. Its buffers go to the bdev without a copy.
#![expect(unsafe_code, reason = "lends guest memory to the bus during an I/O")]

use crate::chain::{Chain, PIECES_AT_FIRST, Piece};
use crate::memory::GuestMemory;
use drivebay_plugin_api::bay_iov;
use drivebay_sdk::bdev::IoContext;
use std::ffi::c_void;
use std::sync::Arc;

/// A chain, the part of it that is the data of an I/O, and the state that the device keeps for it.
///
/// # Invariants
/// Every element of `data` is a piece of a chain in `memory`, which stays mapped as long as the request is alive.
pub struct Request<T> {
    /// The chain.
    pub chain: Chain,
    /// The state that the device keeps.
    pub state: T,
    data: Vec<bay_iov>,
    memory: Arc<GuestMemory>,
}

impl<T: std::fmt::Debug> std::fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Request");
        out.field("chain", &self.chain.id()).field("state", &self.state).finish_non_exhaustive()
    }
}

impl<T> Request<T> {
    /// Creates an empty request for a guest's memory. It can be reused.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, state: T) -> Box<Self> {
        let data = Vec::with_capacity(PIECES_AT_FIRST);
        Box::new(Self { chain: Chain::new(), state, data, memory })
    }

    /// The memory of its buffers.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Sets the data to `len` bytes of the buffers that the device reads, behind the first `skip` bytes. Returns false, and sets no
    /// data, when the buffers are too short.
    pub fn lend_readable(&mut self, skip: u64, len: u64) -> bool {
        lend(&mut self.data, self.chain.readable(), skip, len)
    }

    /// Sets the data to `len` bytes of the buffers that the device writes, behind the first `skip` bytes. Returns false, and sets no
    /// data, when the buffers are too short.
    pub fn lend_writable(&mut self, skip: u64, len: u64) -> bool {
        lend(&mut self.data, self.chain.writable(), skip, len)
    }

    /// As [`lend_readable`](Self::lend_readable), with the buffers of another request in the same memory.
    pub fn lend_readable_of<U>(&mut self, other: &Request<U>, skip: u64, len: u64) -> bool {
        self.lend_nothing();
        Arc::ptr_eq(&self.memory, &other.memory)
            && lend(&mut self.data, other.chain.readable(), skip, len)
    }

    /// As [`lend_writable`](Self::lend_writable), with the buffers of another request in the same memory.
    pub fn lend_writable_of<U>(&mut self, other: &Request<U>, skip: u64, len: u64) -> bool {
        self.lend_nothing();
        Arc::ptr_eq(&self.memory, &other.memory)
            && lend(&mut self.data, other.chain.writable(), skip, len)
    }

    /// Sets no data.
    pub fn lend_nothing(&mut self) {
        self.data.clear();
    }
}

/// Fills `list` with `len` bytes of `pieces`, behind the first `skip` bytes. Returns false, with an empty list, when the pieces
/// are too short.
fn lend(list: &mut Vec<bay_iov>, pieces: &[Piece], mut skip: u64, len: u64) -> bool {
    list.clear();
    let mut rest = len;
    for piece in pieces {
        let piece_len = u64::from(piece.len);
        if skip >= piece_len {
            skip -= piece_len;
            continue;
        }
        let count = (piece_len - skip).min(rest);
        if count == 0 {
            break;
        }
        // `skip` fits `usize`, because a piece is at most 4 GiB long and the machine has 64 bits.
        let offset = usize::try_from(skip).unwrap_or(usize::MAX);
        // SAFETY: `skip` is less than the piece's length.
        let addr = unsafe { piece.addr.add(offset) };
        let count_u32 = u32::try_from(count).unwrap_or(u32::MAX);
        list.push(bay_iov { addr: addr.as_ptr().cast(), len: count_u32, region: piece.region });
        (rest, skip) = (rest - count, 0);
    }
    if rest > 0 {
        list.clear();
    }
    rest == 0
}

// SAFETY: nothing accesses the box before `from_raw`, so the list stays where it is. The memory stays mapped (invariant of the
// type). The guest may write into it meanwhile, as into any shared buffer: the bus and its modules copy it or pass it to devices,
// and create no reference to it.
unsafe impl<T: 'static> IoContext for Box<Request<T>> {
    fn into_raw(self) -> *mut c_void {
        Self::into_raw(self).cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller passes a pointer from `into_raw`, and only once (contract of the trait).
        unsafe { Self::from_raw(raw.cast()) }
    }

    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: the pointer is from `into_raw`, and the box is alive until `from_raw` (contract of the trait).
        let request = unsafe { &*raw.cast::<Request<T>>() };
        // A chain has at most 256 pieces (`PIECES_MAX`).
        let count = u16::try_from(request.data.len()).unwrap_or(u16::MAX);
        (request.data.as_ptr(), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr::NonNull;

    fn pieces(lens: &[u32]) -> Vec<Piece> {
        let mut addr = 0x1000_usize;
        let piece = |&len: &u32| {
            let piece = Piece { addr: NonNull::new(addr as *mut u8).unwrap(), len, region: 3 };
            addr += 0x1000;
            piece
        };
        lens.iter().map(piece).collect()
    }

    fn lent(lens: &[u32], skip: u64, len: u64) -> Vec<(usize, u32)> {
        let mut list = Vec::new();
        lend(&mut list, &pieces(lens), skip, len);
        list.iter().map(|piece| (piece.addr as usize, piece.len)).collect()
    }

    #[test]
    fn the_header_and_the_status_are_left_out() {
        assert_eq!(lent(&[16, 512, 512], 16, 1024), [(0x2000, 512), (0x3000, 512)]);
        assert_eq!(lent(&[528], 16, 512), [(0x1010, 512)]);
        assert_eq!(lent(&[8, 520], 16, 512), [(0x2008, 512)]);
        assert_eq!(lent(&[512, 513], 0, 1024), [(0x1000, 512), (0x2000, 512)]);
        assert_eq!(lent(&[512, 1], 0, 512), [(0x1000, 512)]);
        assert_eq!(lent(&[1], 0, 0), []);
        assert_eq!(lent(&[512, 512], 16, 1024), [], "16 bytes are missing");
    }
}
