//! Cache lines that are nobody else's.

/// Something in cache lines of its own (they are fetched in pairs), so that who writes it does not take
/// from other cores what is beside it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);
