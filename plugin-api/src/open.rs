//! Open structs: they begin with their size and grow at the end from one ABI minor to the next.
#![expect(unsafe_code, reason = "reads structs of the other side of the ABI")]

/// Largest size of an open struct, in bytes, with room for later minors. A struct that says it is larger is refused.
const SIZE_MAX: usize = 64 * 1024;

/// A struct that begins with its size in bytes. `structs!` implements it for every `open` struct.
///
/// # Safety
/// The first field is `size: u32`, and all zero bytes are a valid value: the fields are integers, raw
/// pointers, texts, and optional functions.
pub unsafe trait Open: Copy {}

/// Copies the smaller of both sizes of an open struct into a zeroed struct. Fields that the other side
/// does not have are zero, which means absent. Returns `None` for NULL and for an impossible size.
///
/// # Safety
/// `from` is NULL or points to as many readable bytes as its first field says.
#[must_use]
pub unsafe fn copy_open<T: Open>(from: *const T) -> Option<T> {
    if from.is_null() {
        return None;
    }
    // SAFETY: the caller promises that the first word is readable.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if !(size_of::<u32>()..=SIZE_MAX).contains(&size) {
        return None;
    }
    // SAFETY: `Open` promises that all zero bytes are a valid value.
    let mut copy: T = unsafe { core::mem::zeroed() };
    let len = if size < size_of::<T>() { size } else { size_of::<T>() };
    // SAFETY: the caller promises `size` readable bytes, `copy` has `size_of::<T>()` bytes, and `copy` is
    // new memory. The bytes are values of the same fields on the other side.
    unsafe { core::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut copy).cast(), len) };
    Some(copy)
}

/// The value for the first field of an open struct: its size in bytes.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
pub const fn size_of_table<T>() -> u32 {
    const { assert!(size_of::<T>() <= SIZE_MAX, "a table is small") };
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bay_quiesce;

    #[test]
    fn a_shorter_struct_reads_as_zero_behind_its_end() {
        let whole = bay_quiesce { size: 8, flags: 7, begin: None };
        // SAFETY: `whole` is a `bay_quiesce` with its own size.
        let copy = unsafe { copy_open(&raw const whole) }.unwrap();
        assert_eq!((copy.size, copy.flags), (8, 7));
        assert!(copy.begin.is_none());
    }

    #[test]
    fn null_and_impossible_sizes_are_refused() {
        // SAFETY: NULL is allowed.
        assert!(unsafe { copy_open::<bay_quiesce>(core::ptr::null()) }.is_none());
        for size in [0, 3, u32::MAX] {
            let wrong = bay_quiesce { size, flags: 0, begin: None };
            // SAFETY: the size is refused, so the function reads only the first word.
            assert!(unsafe { copy_open(&raw const wrong) }.is_none());
        }
    }
}
