//! A request of a guest as the context of an I/O: its buffers go to the bdev as they are, nothing is copied.
#![expect(unsafe_code, reason = "lends guest memory to the bus for the time of an I/O")]

use crate::chain::{Chain, PIECES_MAX, Piece};
use crate::memory::GuestMemory;
use drivebay_plugin_api::bay_iov;
use drivebay_sdk::bdev::IoContext;
use std::ffi::c_void;
use std::sync::Arc;

/// A chain, the part of it that is the data of an I/O, and what the device keeps beside it.
///
/// # Invariants
/// Every element of `data` is a piece of a chain that lies in `memory`: the memory stays mapped as long as the
/// request is alive.
pub struct Request<T> {
    /// The chain.
    pub chain: Chain,
    /// The device's own.
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
    /// An empty request over a guest's memory, to be used again and again.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, state: T) -> Box<Self> {
        let data = Vec::with_capacity(PIECES_MAX);
        Box::new(Self { chain: Chain::new(), state, data, memory })
    }

    /// The memory that it lies in.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The data are `len` bytes of what the device reads, from `skip` on. `false`, and no data, when they are not all there.
    pub fn lend_readable(&mut self, skip: u64, len: u64) -> bool {
        lend(&mut self.data, self.chain.readable(), skip, len)
    }

    /// The data are `len` bytes of what the device writes, from `skip` on. `false`, and no data, when they are not all there.
    pub fn lend_writable(&mut self, skip: u64, len: u64) -> bool {
        lend(&mut self.data, self.chain.writable(), skip, len)
    }

    /// As [`lend_readable`](Self::lend_readable), of another request over the same memory.
    pub fn lend_readable_of<U>(&mut self, other: &Request<U>, skip: u64, len: u64) -> bool {
        self.lend_nothing();
        Arc::ptr_eq(&self.memory, &other.memory)
            && lend(&mut self.data, other.chain.readable(), skip, len)
    }

    /// As [`lend_writable`](Self::lend_writable), of another request over the same memory.
    pub fn lend_writable_of<U>(&mut self, other: &Request<U>, skip: u64, len: u64) -> bool {
        self.lend_nothing();
        Arc::ptr_eq(&self.memory, &other.memory)
            && lend(&mut self.data, other.chain.writable(), skip, len)
    }

    /// There are no data.
    pub fn lend_nothing(&mut self) {
        self.data.clear();
    }
}

/// Fills `list` with `len` bytes of `pieces` from `skip` on: whether they are all there. If not, it stays empty.
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
        // A piece is at most 4 GiB long, on a machine of 64 bits.
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

// SAFETY: the box is not touched before `from_raw`, so the list stays where it is; the memory stays mapped by the
// type's invariant. The guest may write into it meanwhile, as any shared disk buffer: the bus and its modules copy
// or hand it to devices, and make no reference to it.
unsafe impl<T: 'static> IoContext for Box<Request<T>> {
    fn into_raw(self) -> *mut c_void {
        Self::into_raw(self).cast()
    }

    unsafe fn from_raw(raw: *mut c_void) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::from_raw(raw.cast()) }
    }

    unsafe fn iov(raw: *mut c_void) -> (*const bay_iov, u16) {
        // SAFETY: the box is ours until `from_raw`.
        let request = unsafe { &*raw.cast::<Request<T>>() };
        // A chain has at most `PIECES_MAX` pieces.
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
