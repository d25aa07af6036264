//! A callback that does not return is named, with its thread, for as long as it does not.

use drivebay_core::env::CpuSet;
use drivebay_core::reactor::{self, Mode, poller, thread, watch};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A busy machine is allowed for.
const PATIENCE: Duration = Duration::from_secs(60);

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: {:?}", watch::stuck());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_callback_that_does_not_return_is_named_until_it_does() {
    let cores = CpuSet::one(CpuSet::available().first());
    let reactors = reactor::start(&cores, Mode::Adaptive).unwrap();
    let (release, released) = mpsc::channel::<()>();
    thread::send_app(move || {
        let mut released = Some(released);
        let poll = move || {
            // The sender gives up after a while, so the test ends either way.
            released.take().is_some_and(|released| released.recv().is_err())
        };
        poller::register("sleepy", 1000, poll).unwrap();
    });
    wait_for("nobody is named", || !watch::stuck().is_empty());
    let named = watch::stuck().concat();
    assert!(named.contains("poller sleepy") && named.contains("on thread app_thread"), "{named}");
    drop(release);
    wait_for("it is still named", || watch::stuck().is_empty());

    let (release, released) = mpsc::channel::<()>();
    thread::send_app(move || {
        let _call = watch::call("plugin acme: method acme_create".into());
        let _ = released.recv();
    });
    wait_for("the call is not named", || watch::stuck().concat().contains("acme_create"));
    drop(release);
    reactors.stop();
}
