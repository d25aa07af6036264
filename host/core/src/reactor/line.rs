//! Cache lines that nothing else shares.

/// A value in its own pair of cache lines (processors fetch them in pairs). A write to it does not
/// evict neighboring data from the caches of other cores.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Line<T>(pub(super) T);
