//! Fixed structures, declared by their byte offsets as in the specifications' figures.
//!
//! [`layout!`] makes a struct with public fields, a `parse` that accepts any content, and an `encode` that leaves all other bytes
//! zero. A field that overlaps the one before it or ends past the structure is a compile error.

/// A value with a fixed little-endian encoding.
pub(crate) trait Field: Sized {
    /// Encoded length, in bytes.
    const LEN: usize;
    /// Reads the value at `offset`. Bytes past the end of `bytes` count as zero.
    fn take(bytes: &[u8], offset: usize) -> Self;
    /// Writes the value at `offset`. Does nothing if it does not fit.
    fn put(&self, bytes: &mut [u8], offset: usize);
}

/// Returns the `N` bytes at `offset`, or zeros if the range is past the end.
#[inline]
pub(crate) fn chunk<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Writes `value` at `offset` if it fits.
#[inline]
pub(crate) fn put_chunk(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

macro_rules! integer_fields {
    ($($ty:ty)*) => {$(
        impl Field for $ty {
            const LEN: usize = size_of::<$ty>();
            #[inline]
            fn take(bytes: &[u8], offset: usize) -> Self {
                Self::from_le_bytes(chunk(bytes, offset))
            }
            #[inline]
            fn put(&self, bytes: &mut [u8], offset: usize) {
                put_chunk(bytes, offset, &self.to_le_bytes());
            }
        }
    )*};
}
integer_fields!(u8 u16 u32 u64 u128);

impl<T: Field, const N: usize> Field for [T; N] {
    const LEN: usize = N * T::LEN;
    #[inline]
    fn take(bytes: &[u8], offset: usize) -> Self {
        core::array::from_fn(|i| T::take(bytes, offset + i * T::LEN))
    }
    fn put(&self, bytes: &mut [u8], offset: usize) {
        for (i, item) in self.iter().enumerate() {
            item.put(bytes, offset + i * T::LEN);
        }
    }
}

/// Declares a structure of `$size` bytes: `layout! { pub struct Name[size] { offset => field: type, … } }`.
macro_rules! layout {
    (
        $(#[$meta:meta])*
        pub struct $name:ident[$size:literal] {
            $( $(#[$field_meta:meta])* $offset:literal => $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        const _: () = {
            let end = 0;
            $(
                assert!($offset >= end, concat!(stringify!($field), " overlaps the field before it"));
                let end = $offset + <$ty as $crate::layout::Field>::LEN;
            )*
            assert!(end <= $size, "the last field ends past the structure");
        };

        impl $name {
            /// Encoded length, in bytes.
            pub const LEN: usize = $size;

            /// Parses the structure. Accepts any content, and ignores bytes that belong to no field.
            #[must_use]
            pub fn parse(bytes: &[u8; $size]) -> Self {
                <Self as $crate::layout::Field>::take(bytes, 0)
            }

            /// Encodes the structure. Bytes that belong to no field are zero.
            #[must_use]
            pub fn encode(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                <Self as $crate::layout::Field>::put(self, &mut bytes, 0);
                bytes
            }
        }

        impl Default for $name {
            /// All zero: nothing is supported or reported.
            fn default() -> Self {
                Self::parse(&[0; $size])
            }
        }

        impl $crate::layout::Field for $name {
            const LEN: usize = $size;
            #[inline]
            fn take(bytes: &[u8], offset: usize) -> Self {
                Self { $( $field: <$ty as $crate::layout::Field>::take(bytes, offset + $offset), )* }
            }
            #[inline]
            fn put(&self, bytes: &mut [u8], offset: usize) {
                $( $crate::layout::Field::put(&self.$field, bytes, offset + $offset); )*
            }
        }
    };
}
pub(crate) use layout;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes public structures, here in a private module")]
mod tests {
    use super::*;

    layout! {
        /// A structure with a gap.
        pub struct Gap[8] {
            /// One.
            0 => one: u16,
            /// Two.
            4 => two: [u8; 4],
        }
    }

    #[test]
    fn unnamed_bytes_are_ignored_on_parse_and_zero_on_encode() {
        let gap = Gap::parse(&[1, 2, 0xff, 0xff, 3, 4, 5, 6]);
        assert_eq!(Gap::LEN, 8);
        assert_eq!(gap, Gap { one: 0x0201, two: [3, 4, 5, 6] });
        assert_eq!(gap.encode(), [1, 2, 0, 0, 3, 4, 5, 6]);
    }

    #[test]
    fn reading_past_the_end_yields_zero_and_writing_there_does_nothing() {
        assert_eq!(u32::take(&[1, 2, 3], 0), 0);
        assert_eq!(u16::take(&[1, 2, 3], 3), 0);
        let mut bytes = [7; 3];
        0u32.put(&mut bytes, 0);
        assert_eq!(bytes, [7; 3]);
    }
}
