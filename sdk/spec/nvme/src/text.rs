//! Fixed-width text fields. Most are padded with spaces; NQNs end with a NUL.

use crate::layout::{Field, chunk, put_chunk};
use core::fmt;

/// ASCII text of `N` bytes, left justified and padded with spaces. NVMe Base 2.0, section 1.4.2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpaceText<const N: usize>([u8; N]);

impl<const N: usize> SpaceText<N> {
    /// Makes a field with `text`, truncated to `N` bytes. Bytes that are not printable ASCII become `?`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let mut bytes = [b' '; N];
        for (place, byte) in bytes.iter_mut().zip(text.bytes()) {
            *place = if (0x20..=0x7e).contains(&byte) { byte } else { b'?' };
        }
        Self(bytes)
    }

    /// All bytes of the field, including the padding.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// The text without padding (spaces, and NULs from some controllers); `None` if it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        core::str::from_utf8(&self.0).ok().map(|text| text.trim_end_matches([' ', '\0']))
    }
}

/// Text of at most `N - 1` bytes with a terminating NUL. NVMe Base 2.0, section 4.5 (NQNs).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NulText<const N: usize>([u8; N]);

impl<const N: usize> NulText<N> {
    /// Makes a field with `text`; `None` if the text has `N` or more bytes or contains a NUL.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let mut bytes = [0; N];
        if text.len() >= N || text.contains('\0') {
            return None;
        }
        put_chunk(&mut bytes, 0, text.as_bytes());
        Some(Self(bytes))
    }

    /// All bytes of the field, including the padding.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// The text before the NUL; `None` if there is no NUL or it is not UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        core::str::from_utf8(self.0.get(..end)?).ok()
    }
}

macro_rules! text_field {
    ($name:ident) => {
        impl<const N: usize> Field for $name<N> {
            const LEN: usize = N;
            fn take(bytes: &[u8], offset: usize) -> Self {
                Self(chunk(bytes, offset))
            }
            fn put(&self, bytes: &mut [u8], offset: usize) {
                put_chunk(bytes, offset, &self.0);
            }
        }
        impl<const N: usize> fmt::Debug for $name<N> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.as_str() {
                    Some(text) => fmt::Debug::fmt(text, f),
                    None => fmt::Debug::fmt(&self.0, f),
                }
            }
        }
    };
}
text_field!(SpaceText);
text_field!(NulText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_text_is_padded_cut_and_made_printable() {
        assert_eq!(SpaceText::<4>::new("ab").as_bytes(), b"ab  ");
        assert_eq!(SpaceText::<4>::new("abcdef").as_bytes(), b"abcd");
        assert_eq!(SpaceText::<4>::new("a\n").as_bytes(), b"a?  ");
        assert_eq!(SpaceText::<4>::new("ab").as_str(), Some("ab"));
    }

    #[test]
    fn nul_text_needs_room_for_its_end() {
        assert_eq!(NulText::<4>::new("abc").unwrap().as_bytes(), b"abc\0");
        assert_eq!(NulText::<4>::new("abcd"), None);
        assert_eq!(NulText::<4>::take(b"abcd", 0).as_str(), None);
        assert_eq!(NulText::<4>::take(b"a\0cd", 0).as_str(), Some("a"));
    }
}
