//! What plugins hand over in memory: borrowed texts, and open structs of their own size.
#![expect(unsafe_code, reason = "reads what plugins point at")]

use drivebay_plugin_api::{bay_log_iface, bay_quiesce, bay_rpc_method, bay_sink, bay_str};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

/// Largest open struct of a later minor, in bytes.
const STRUCT_SIZE_MAX: usize = 64 * 1024;

/// A struct that begins with its size and may be all zero.
///
/// # Safety
/// Made of integers, raw pointers, texts and optional function pointers only; its first field is
/// `size: u32`.
pub(super) unsafe trait Open {}

// SAFETY: as the trait asks; see its declaration in plugin-api.
unsafe impl Open for bay_quiesce {}
// SAFETY: as above.
unsafe impl Open for bay_log_iface {}
// SAFETY: as above.
unsafe impl Open for bay_rpc_method {}

/// Copies an open struct: the smaller of both sizes, the rest zero. `None` for NULL or no size.
///
/// # Safety
/// `from` is NULL or points at a struct of that kind whose first word is its size.
pub(super) unsafe fn copy_open<T: Open>(from: *const T) -> Option<T> {
    if from.is_null() {
        return None;
    }
    // SAFETY: by contract the first word is its size.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if !(size_of::<u32>()..=STRUCT_SIZE_MAX).contains(&size) {
        return None;
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    let len = size.min(size_of::<T>());
    // SAFETY: `len` bytes lie in both, which do not overlap.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), len) };
    // SAFETY: zero is a value of every field, by `Open`; the rest is the plugin's of the same layout.
    Some(unsafe { copy.assume_init() })
}

/// Borrows a plugin's text; `None` when it is longer than `len_max` bytes or not UTF-8.
///
/// # Safety
/// `text` points at `len` bytes that stay as they are for `'a`.
pub(super) unsafe fn borrow<'a>(text: bay_str, len_max: usize) -> Option<&'a str> {
    if text.len == 0 {
        return Some("");
    }
    if text.ptr.is_null() || text.len > len_max {
        return None;
    }
    // SAFETY: by contract; not NULL, and the length is far below `isize::MAX`.
    let bytes = unsafe { std::slice::from_raw_parts(text.ptr, text.len) };
    std::str::from_utf8(bytes).ok()
}

/// A text under collection from a plugin.
pub(super) struct Collected {
    text: String,
    len_max: usize,
}

impl Collected {
    /// Empty, to be at most `len_max` bytes long; what is written beyond is dropped.
    pub(super) fn new(len_max: usize) -> Self {
        Self { text: String::new(), len_max }
    }

    /// Where the plugin writes; valid as long as `self` stays where it is.
    pub(super) fn sink(&mut self) -> bay_sink {
        bay_sink { ctx: ptr::from_mut(self).cast(), write: Some(write) }
    }

    /// What was written.
    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// # Safety
/// `ctx` is a `Collected` that nobody else uses now; `piece` is valid for the call.
unsafe extern "C" fn write(ctx: *mut c_void, piece: bay_str) {
    // SAFETY: by contract.
    let Some(collected) = (unsafe { ctx.cast::<Collected>().as_mut() }) else { return };
    let room = collected.len_max.saturating_sub(collected.text.len());
    // SAFETY: by contract.
    if let Some(piece) = unsafe { borrow(piece, room) } {
        collected.text.push_str(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_struct_reads_as_zero_behind_its_end() {
        let whole = bay_quiesce { size: 8, flags: 7, begin: None };
        // SAFETY: a struct of that kind.
        let copy = unsafe { copy_open(&raw const whole) }.unwrap();
        assert_eq!((copy.size, copy.flags), (8, 7));
        assert!(copy.begin.is_none());
    }

    #[test]
    fn null_and_impossible_sizes_are_refused() {
        // SAFETY: NULL is allowed.
        assert!(unsafe { copy_open::<bay_quiesce>(ptr::null()) }.is_none());
        let wrong = bay_quiesce { size: 1, flags: 0, begin: None };
        // SAFETY: a struct of that kind.
        assert!(unsafe { copy_open(&raw const wrong) }.is_none());
    }

    #[test]
    fn texts_are_bounded_and_checked() {
        // SAFETY: borrowed from constants.
        unsafe {
            assert_eq!(borrow(bay_str::new("abc"), 3), Some("abc"));
        }
        // SAFETY: as above.
        assert_eq!(unsafe { borrow(bay_str::new("abcd"), 3) }, None);
        // SAFETY: as above.
        assert_eq!(unsafe { borrow(bay_str::EMPTY, 0) }, Some(""));
        let bytes = [0xff_u8];
        // SAFETY: `bytes` lives.
        assert_eq!(unsafe { borrow(bay_str { ptr: bytes.as_ptr(), len: 1 }, 9) }, None);
    }

    #[test]
    fn a_sink_keeps_what_fits() {
        let mut collected = Collected::new(4);
        let sink = collected.sink();
        for piece in ["abc", "de", "f"] {
            // SAFETY: the sink's own context, and a constant.
            unsafe { sink.write.unwrap()(sink.ctx, bay_str::new(piece)) };
        }
        assert_eq!(collected.into_text(), "abcf");
    }
}
