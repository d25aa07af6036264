//! Texts of the other side, and the sink that collects them.
#![expect(unsafe_code, reason = "reads texts of the other side")]

use crate::door::{bay_sink, bay_str};
use alloc::string::String;
use core::ffi::c_void;

impl bay_str {
    /// Borrows `text` for as long as the caller keeps it.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// The empty text.
    pub const EMPTY: Self = Self { ptr: core::ptr::null(), len: 0 };

    /// The text; `None` when it is longer than `len_max` bytes or not UTF-8.
    ///
    /// # Safety
    /// `ptr` is NULL or points to `len` bytes that stay as they are for `'a`.
    #[must_use]
    pub unsafe fn borrow<'a>(self, len_max: usize) -> Option<&'a str> {
        if self.len == 0 {
            return Some("");
        }
        if self.ptr.is_null() || self.len > len_max.min(isize::MAX as usize) {
            return None;
        }
        // SAFETY: the caller's promise; not NULL, and the length was checked.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr, self.len) };
        core::str::from_utf8(bytes).ok()
    }
}

/// A text that the other side writes piece by piece.
#[derive(Debug)]
pub struct Collected {
    text: String,
    len_max: usize,
}

impl Collected {
    /// An empty text of at most `len_max` bytes. Pieces that do not fit, or are not UTF-8, are dropped.
    #[must_use]
    pub const fn new(len_max: usize) -> Self {
        Self { text: String::new(), len_max }
    }

    /// Where the other side writes. Valid until `self` moves or is used again.
    pub fn sink(&mut self) -> bay_sink {
        bay_sink { ctx: core::ptr::from_mut(self).cast(), write: Some(write) }
    }

    /// What was written.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// # Safety
/// `ctx` is from [`Collected::sink`] and nobody else uses it now; `piece` is valid for the call.
unsafe extern "C" fn write(ctx: *mut c_void, piece: bay_str) {
    // SAFETY: by contract.
    let Some(collected) = (unsafe { ctx.cast::<Collected>().as_mut() }) else { return };
    let room = collected.len_max.saturating_sub(collected.text.len());
    // SAFETY: by contract.
    if let Some(piece) = unsafe { piece.borrow(room) } {
        collected.text.push_str(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded_and_checked() {
        let bytes = [0xff_u8];
        for (text, len_max, is_ok) in [
            (bay_str::new("abc"), 3, true),
            (bay_str::new("abcd"), 3, false),
            (bay_str::EMPTY, 0, true),
            (bay_str { ptr: core::ptr::null(), len: 1 }, 9, false),
            (bay_str { ptr: bytes.as_ptr(), len: 1 }, 9, false),
        ] {
            // SAFETY: borrowed from constants and `bytes`.
            assert_eq!(unsafe { text.borrow(len_max) }.is_some(), is_ok);
        }
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
