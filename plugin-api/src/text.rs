//! Texts that cross the ABI, and the sink that collects them.
#![expect(unsafe_code, reason = "reads texts of the other side of the ABI")]

use crate::door::{bay_sink, bay_str};
use alloc::string::String;
use core::ffi::c_void;

impl bay_str {
    /// Borrows `text`. The caller keeps `text` alive as long as the result is in use.
    #[must_use]
    pub const fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr(), len: text.len() }
    }

    /// The empty text.
    pub const EMPTY: Self = Self { ptr: core::ptr::null(), len: 0 };

    /// Returns the text, or `None` when it is longer than `len_max` bytes or not UTF-8.
    ///
    /// # Safety
    /// `ptr` is NULL or points to `len` bytes that stay valid and unchanged for `'a`.
    #[must_use]
    pub unsafe fn borrow<'a>(self, len_max: usize) -> Option<&'a str> {
        if self.len == 0 {
            return Some("");
        }
        if self.ptr.is_null() || self.len > len_max.min(isize::MAX as usize) {
            return None;
        }
        // SAFETY: the caller's promise; `ptr` is not NULL, and the length was checked.
        let bytes = unsafe { core::slice::from_raw_parts(self.ptr, self.len) };
        core::str::from_utf8(bytes).ok()
    }
}

/// Collects a text that the other side writes piece by piece.
#[derive(Debug)]
pub struct Collected {
    text: String,
    len_max: usize,
}

impl Collected {
    /// Creates an empty text of at most `len_max` bytes. It drops pieces that do not fit or are not UTF-8.
    #[must_use]
    pub const fn new(len_max: usize) -> Self {
        Self { text: String::new(), len_max }
    }

    /// Returns a sink that writes into `self`. Valid until `self` moves or is used again.
    pub fn sink(&mut self) -> bay_sink {
        bay_sink { ctx: core::ptr::from_mut(self).cast(), write: Some(write) }
    }

    /// Returns the collected text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }
}

/// # Safety
/// `ctx` is from [`Collected::sink`] and no one else uses it during the call; `piece` is valid for the call.
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
            // SAFETY: the texts borrow constants and `bytes`.
            assert_eq!(unsafe { text.borrow(len_max) }.is_some(), is_ok);
        }
    }

    #[test]
    fn a_sink_keeps_what_fits() {
        let mut collected = Collected::new(4);
        let sink = collected.sink();
        for piece in ["abc", "de", "f"] {
            // SAFETY: `ctx` is the sink's own, and the piece is a constant.
            unsafe { sink.write.unwrap()(sink.ctx, bay_str::new(piece)) };
        }
        assert_eq!(collected.into_text(), "abcf");
    }
}
