//! Open structs: they begin with their size, and grow at the end from one minor to the next.
#![expect(unsafe_code, reason = "reads structs of the other side")]

/// Largest open struct of a later minor, in bytes. What claims more is refused.
const SIZE_MAX: usize = 64 * 1024;

/// A struct that begins with its size in bytes. `structs!` implements it for every `open` struct.
///
/// # Safety
/// The first field is `size: u32`, and all zeroes is a value: integers, raw pointers, texts, and
/// functions that may be `None`.
pub unsafe trait Open: Copy {}

/// Copies an open struct: the smaller of both sizes into a zeroed struct. What the other side does
/// not have reads as absent. `None` for NULL and for a size that no struct has.
///
/// # Safety
/// `from` is NULL or points to as many readable bytes as its first field says.
#[must_use]
pub unsafe fn copy_open<T: Open>(from: *const T) -> Option<T> {
    if from.is_null() {
        return None;
    }
    // SAFETY: the caller's promise: the first word is readable.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if !(size_of::<u32>()..=SIZE_MAX).contains(&size) {
        return None;
    }
    // SAFETY: `Open` promises that zeroes are a value.
    let mut copy: T = unsafe { core::mem::zeroed() };
    let len = if size < size_of::<T>() { size } else { size_of::<T>() };
    // SAFETY: the caller promises `size` readable bytes, `copy` has `size_of::<T>()`, and `copy` is
    // new memory. The bytes are the other side's values of the same fields.
    unsafe { core::ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut copy).cast(), len) };
    Some(copy)
}

/// What an open struct says in its first field.
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
        // SAFETY: a struct of that kind.
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
            // SAFETY: only the first word of it is read.
            assert!(unsafe { copy_open(&raw const wrong) }.is_none());
        }
    }
}
