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

/// What is new joins the committed text with its release: nothing is unguarded.
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
    use abi_stable::StableAbi;
    use abi_stable::abi_stability::abi_checking::check_layout_compatibility;
    use drivebay_plugin_api::AbiRoot;

    #[test]
    fn abi_stable_finds_the_structs_compatible_with_themselves() {
        let layout = <AbiRoot as StableAbi>::LAYOUT;
        check_layout_compatibility(layout, layout).map_err(|e| e.to_string()).unwrap();
    }

    #[test]
    fn abi_stable_sees_two_structs_apart() {
        let (root, io) =
            (<AbiRoot as StableAbi>::LAYOUT, <drivebay_plugin_api::bay_io as StableAbi>::LAYOUT);
        assert!(check_layout_compatibility(root, io).is_err());
    }
}
