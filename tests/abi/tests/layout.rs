//! The gate of the ABI: the present tables extend the committed ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use drivebay::loader::layout::{broken_promises, parse};
use drivebay_abi_tests::header::present_layout;

const COMMITTED: &str = include_str!("../../../plugin-api/abi/v1.layout");

#[test]
fn the_present_layout_extends_the_committed_one() {
    let committed = parse(COMMITTED).unwrap();
    let broken = broken_promises(&committed, &present_layout().unwrap());
    assert_eq!(broken, Vec::<String>::new(), "plugins that were built before would break");
}

/// New lines must be in the committed text with their release, so that all of the layout is guarded.
#[test]
fn the_committed_layout_lists_all_there_is() {
    let (committed, present) = (parse(COMMITTED).unwrap(), present_layout().unwrap());
    let missing: Vec<&String> = present
        .structs
        .keys()
        .filter(|name| !committed.structs.contains_key(*name))
        .chain(present.functions.keys().filter(|name| !committed.functions.contains_key(*name)))
        .collect();
    assert!(missing.is_empty(), "add to plugin-api/abi/v1.layout: {missing:?}");
}

#[cfg(feature = "abi-stable")]
mod second_belt {
    use super::*;
    use abi_stable::StableAbi;
    use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
    use abi_stable::type_layout::TypeLayout;
    use drivebay_plugin_api::AbiRoot;

    /// Each load compares layout texts of our own macro. This test compares the text with abi_stable's view of
    /// the same structs.
    #[test]
    fn abi_stable_sees_what_the_layout_text_says() {
        let present = present_layout().unwrap();
        let root = <AbiRoot as StableAbi>::LAYOUT;
        let mut seen = 0;
        for member in root.get_fields().unwrap() {
            let layout: &TypeLayout = member.layout();
            let reported = &present.structs[layout.name()];
            assert_eq!(
                (layout.size(), layout.alignment()),
                (reported.size, reported.align),
                "{}",
                layout.name()
            );
            let fields = layout.get_fields().unwrap();
            let theirs: Vec<(&str, usize)> =
                fields.iter().map(|field| (field.name(), field.layout().size())).collect();
            let ours: Vec<(&str, usize)> =
                reported.fields.iter().map(|field| (field.name.as_str(), field.size)).collect();
            assert_eq!(theirs, ours, "{}", layout.name());
            seen += 1;
        }
        assert_eq!(seen, present.structs.len(), "a struct is missing in AbiRoot");
    }

    #[test]
    fn abi_stable_sees_two_structs_apart() {
        let (root, io) =
            (<AbiRoot as StableAbi>::LAYOUT, <drivebay_plugin_api::bay_io as StableAbi>::LAYOUT);
        assert!(check_layout_compatibility(root, io).is_err());
    }
}
