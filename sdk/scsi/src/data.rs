//! Blocks repeated and compared.

/// Fills `to` with copies of `block`.
pub(crate) fn repeat(block: &[u8], to: &mut [u8]) {
    for place in to.chunks_mut(block.len().max(1)) {
        copy(block, place);
    }
}

/// Copies as much as both have.
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// The offset of the first byte that differs.
pub(crate) fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

/// The offset of the first byte that differs from copies of `block`.
pub(crate) fn first_difference_from_copies(block: &[u8], bytes: &[u8]) -> Option<usize> {
    bytes.iter().zip(block.iter().cycle()).position(|(a, b)| a != b)
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
