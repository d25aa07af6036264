//! Runs libFuzzer on the target that `DRIVEBAY_FUZZ` names. `cargo xtask fuzz` builds and runs it.
#![no_main]

use drivebay_fuzz::Target;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("DRIVEBAY_FUZZ").unwrap_or_default();
        let found = drivebay_fuzz::TARGETS.iter().find(|target| target.name == name);
        found.expect("DRIVEBAY_FUZZ names a target")
    })
}

fuzz_target!(|data: &[u8]| (chosen().run)(data));
