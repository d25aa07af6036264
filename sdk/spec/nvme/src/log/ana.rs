//! The asymmetric namespace access log (LID 0Ch). NVMe Base 2.0, section 5.16.1.13.

use crate::layout::layout;

layout! {
    /// The start of the log. The groups follow it.
    pub struct AnaHeader[16] {
        /// Change count; 0 if not reported.
        0 => change_count: u64,
        /// Number of groups.
        8 => num_groups: u16,
    }
}

layout! {
    /// One group. `num_nsids` namespace identifiers of 4 bytes follow it.
    pub struct AnaGroup[32] {
        /// Group.
        0 => group_id: u32,
        /// Number of namespace identifiers.
        4 => num_nsids: u32,
        /// Change count; 0 if not reported.
        8 => change_count: u64,
        /// State, a value of [`AnaState`], in bits 3:0.
        16 => state: u8,
    }
}

/// The access state of a group through this controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AnaState {
    /// Accessible with the best performance.
    Optimized = 1,
    /// Accessible, but slower.
    NonOptimized = 2,
    /// Not accessible now.
    Inaccessible = 3,
    /// Lost permanently.
    PersistentLoss = 4,
    /// Changing to another state.
    Change = 15,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_followed_by_its_namespaces() {
        let group = AnaGroup {
            group_id: 1,
            num_nsids: 2,
            change_count: 0,
            state: AnaState::Optimized as u8,
        };
        let bytes = group.encode();
        assert_eq!((bytes[0], bytes[4], bytes[16]), (1, 2, 1));
    }
}
