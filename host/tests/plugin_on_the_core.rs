//! A C plugin on the real core: its bdev is on the bus and prevents the unload.
#![allow(clippy::unwrap_used, reason = "tests")]

use drivebay::loader::trust::Policy;
use drivebay::loader::{ConfigWriter, Events, Manager, Outside, ProcessCore, Settings};
use drivebay::rpc::Registry;
use drivebay_core::bdev;
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, thread};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, mpsc};
use std::time::Duration;

struct NoEvents;

impl Events for NoEvents {
    fn notify(&self, _: &str, _: &str) {}
    fn add_subsystem(&self, _: u64, _: &str, _: Option<ConfigWriter>) {}
    fn remove_subsystems(&self, _: u64) {}
}

/// Compiles the null plugin of the ABI's tests.
fn build_null(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let status = Command::new("cc")
        .args(["-std=c11", "-shared", "-fPIC", "-I"])
        .arg(root.join("sdk/c"))
        .arg("-o")
        .arg(folder.join("cnull.so"))
        .arg(root.join("tests/abi/plugins/null.c"))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_bdev_of_a_plugin_in_c_comes_on_the_bus_and_keeps_its_plugin() {
    static LOG_LEVEL: AtomicU32 = AtomicU32::new(3);
    let folder = tempfile::tempdir().unwrap();
    build_null(folder.path());
    let reactors = reactor::start(&CpuSet::parse("[0]").unwrap(), Mode::Adaptive).unwrap();

    let settings = Settings {
        folders: vec![folder.path().to_owned()],
        runtime: folder.path().to_owned(),
        policy: Policy::default(),
    };
    let outside = Outside {
        core: Arc::new(ProcessCore),
        rpc: Arc::new(Registry::new()),
        events: Arc::new(NoEvents),
        log_level: &LOG_LEVEL,
    };
    let (sender, outcome) = mpsc::channel();
    thread::send_app(move || {
        let manager = Manager::new(settings, outside).unwrap();
        let loaded = manager.load("cnull");
        let is_on_the_bus = bdev::all().iter().any(|device| device.name == "cnull0");
        let (refusal, refused) = mpsc::channel();
        manager.unload("cnull", Box::new(move |result| refusal.send(result).unwrap()));
        sender.send((loaded, is_on_the_bus, refused.try_recv())).unwrap();
    });
    let (loaded, is_on_the_bus, refused) = outcome.recv_timeout(Duration::from_secs(20)).unwrap();
    loaded.unwrap();
    assert!(is_on_the_bus);
    let refusal = refused.unwrap().unwrap_err();
    assert!(refusal.message().contains("has 1 bdevs or open descriptors"), "{refusal}");
    reactors.stop();
}
