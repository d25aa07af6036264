//! The life of plugins, in the real loader: loading, on demand, refusals, unloading.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{TestHost, bdevs_registered, build, text};
use std::fs;

#[test]
fn a_plugin_is_loaded_by_name_and_answers_its_method() {
    let host = TestHost::new();
    host.probe("p.so", &[("METHOD", &text("ping"))]);
    assert_eq!(host.state("probe").unwrap().0, "allowed");
    assert_eq!(host.call("plugin_load", r#"{"name":"probe"}"#).unwrap(), true);
    assert_eq!(host.state("probe").unwrap().0, "serving");
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.0.0");
    host.call("plugin_load", r#"{"name":"probe"}"#).unwrap();
    assert_eq!(host.seen(), ["probe start"], "a second load does nothing");
}

#[test]
fn a_null_bdev_in_c_is_loaded_by_path_and_registers() {
    let host = TestHost::new();
    let folder = tempfile::tempdir().unwrap();
    let path = build("null", folder.path(), "cnull.so", &[]);
    let before = bdevs_registered();
    host.manager.load(path.to_str().unwrap()).unwrap();
    assert_eq!(bdevs_registered(), before + 1);
    assert_eq!(host.state("cnull").unwrap().0, "serving");
}

#[test]
fn the_highest_version_wins() {
    let host = TestHost::new();
    for (file, version) in [("a.so", "1.9.0"), ("b.so", "1.10.0"), ("c.so", "1.10.0-rc.1")] {
        host.probe(file, &[("VERSION", &text(version)), ("METHOD", &text("ping"))]);
    }
    host.manager.load("probe").unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.10.0");
}

#[test]
fn a_method_loads_its_plugin_when_it_is_called() {
    let host = TestHost::new();
    assert_eq!(host.call("ping", "{}").unwrap_err().0, -32601);
    let macros = [("METHOD", &*text("ping")), ("PROVIDES", &*text(r#""rpc:ping""#))];
    host.probe("p.so", &macros);
    assert!(lists_ping(&host), "the search must find the file by itself");
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.0.0");
    assert_eq!(host.state("probe").unwrap().0, "serving");
}

fn lists_ping(host: &TestHost) -> bool {
    let list = host.call("rpc_get_methods", r#"{"current":true}"#).unwrap();
    list.as_array().unwrap().contains(&"ping".into())
}

#[test]
fn the_folder_may_be_emptied_and_filled_at_run_time() {
    let host = TestHost::new();
    let macros = [("METHOD", &*text("ping")), ("PROVIDES", &*text(r#""rpc:ping""#))];
    let path = host.probe("p.so", &macros);
    assert!(lists_ping(&host));
    fs::remove_file(&path).unwrap();
    assert!(host.state("probe").is_none());
    assert!(!lists_ping(&host));
    assert_eq!(host.call("ping", "{}").unwrap_err().0, -32601);
    host.probe("p.so", &macros);
    // No earlier call has found the file. This call of its method finds it.
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.0.0");
    fs::remove_file(&path).unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.0.0", "it runs from its own copy");
}

#[test]
fn what_a_plugin_requires_is_loaded_before_it() {
    let host = TestHost::new();
    let id = "bay.test/1";
    host.probe(
        "target.so",
        &[("NAME", &text("target")), ("PROVIDES", &text(&text(id))), ("OFFERS", &text(id))],
    );
    host.probe(
        "fabric.so",
        &[("NAME", &text("fabric")), ("REQUIRES", &text(&text(id))), ("WANTS", &text(id))],
    );
    host.manager.load("fabric").unwrap();
    assert_eq!(host.seen(), ["target start", "fabric start"]);
    let (code, message) = host.call("plugin_unload", r#"{"name":"target"}"#).unwrap_err();
    assert_eq!(code, i64::from(-libc::EBUSY));
    assert_eq!(message, "plugin target: is required by fabric");
    host.call("plugin_unload", r#"{"name":"fabric"}"#).unwrap();
    host.call("plugin_unload", r#"{"name":"target"}"#).unwrap();
    assert_eq!(host.seen(), ["fabric fini", "target fini"]);
}

#[test]
fn an_interface_is_loaded_when_it_is_acquired_and_held_while_it_is_used() {
    let host = TestHost::new();
    let id = "bay.test/1";
    let (offers, provides) = (text(id), text(&text(id)));
    host.probe("t.so", &[("NAME", &text("target")), ("PROVIDES", &provides), ("OFFERS", &offers)]);
    host.probe("f.so", &[("NAME", &text("fabric")), ("WANTS", &text(id))]);
    host.manager.load("fabric").unwrap();
    assert_eq!(host.seen(), ["fabric start", "target start"]);
    let (_, message) = host.call("plugin_unload", r#"{"name":"target"}"#).unwrap_err();
    assert!(message.contains("has 1 references of other plugins"), "{message}");
}

#[test]
fn a_cycle_is_named() {
    let host = TestHost::new();
    for (name, other) in [("a", "b"), ("b", "c"), ("c", "a")] {
        let file = format!("{name}.so");
        host.probe(&file, &[("NAME", &text(name)), ("REQUIRES", &text(&text(other)))]);
    }
    let error = host.manager.load("a").unwrap_err();
    assert_eq!(error.errno(), libc::ELOOP);
    assert!(error.message().ends_with("plugins require each other: a -> b -> c -> a"), "{error}");
    assert!(host.seen().is_empty());
}

#[test]
fn a_missing_requirement_is_named() {
    let host = TestHost::new();
    host.probe("p.so", &[("REQUIRES", &text(r#""bay.gone/1""#))]);
    let error = host.manager.load("probe").unwrap_err();
    assert_eq!(
        error.message(),
        "plugin probe: it requires bay.gone/1; no plugin on the path provides it"
    );
    host.probe("q.so", &[("NAME", &text("old"))]);
    host.probe("p.so", &[("REQUIRES", &text(r#""old ^2""#))]);
    let error = host.manager.load("probe").unwrap_err();
    assert!(error.message().contains("plugin old: found 1.0.0; required ^2"), "{error}");
}

#[test]
fn a_failing_init_keeps_its_reason_and_is_not_tried_again_on_demand() {
    let host = TestHost::new();
    host.probe("p.so", &[("INIT_STATUS", "-12"), ("PROVIDES", &text(r#""rpc:ping""#))]);
    let (code, message) = host.call("ping", "{}").unwrap_err();
    assert_eq!(code, i64::from(-libc::ENOMEM));
    assert!(message.starts_with("plugin probe: init failed: Cannot allocate memory"), "{message}");
    let (state, reason) = host.state("probe").unwrap();
    assert_eq!((state.as_str(), reason), ("failed", message));
    assert_eq!(host.call("ping", "{}").unwrap_err().0, code);
}

#[test]
fn a_failing_start_takes_back_what_was_registered() {
    let host = TestHost::new();
    let id = "bay.test/1";
    host.probe(
        "bad.so",
        &[
            ("NAME", &text("bad")),
            ("METHOD", &text("ping")),
            ("OFFERS", &text(id)),
            ("START_STATUS", "-5"),
        ],
    );
    host.core.bdevs.store(3, std::sync::atomic::Ordering::Relaxed);
    assert!(host.manager.load("bad").is_err());
    assert_eq!(host.seen(), ["bad start", "bad fini"]);
    assert_eq!(host.call("ping", "{}").unwrap_err().0, -32601);
    host.probe(
        "good.so",
        &[("NAME", &text("good")), ("METHOD", &text("ping")), ("OFFERS", &text(id))],
    );
    host.manager.load("good").unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "good 1.0.0");
}

#[test]
fn two_plugins_with_one_method_must_be_chosen_by_name_and_only_one_serves() {
    let host = TestHost::new();
    for name in ["one", "two"] {
        let file = format!("{name}.so");
        host.probe(
            &file,
            &[
                ("NAME", &text(name)),
                ("METHOD", &text("ping")),
                ("PROVIDES", &text(r#""rpc:ping""#)),
            ],
        );
    }
    let (_, message) = host.call("ping", "{}").unwrap_err();
    assert_eq!(message, "rpc:ping is provided by one and two; load one of them by name");
    host.manager.load("two").unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "two 1.0.0");
    let error = host.manager.load("one").unwrap_err();
    assert!(error.message().contains("method ping is registered by two already"), "{error}");
    assert_eq!(host.call("ping", "{}").unwrap(), "two 1.0.0");
}

#[test]
fn a_second_plugin_of_one_name_is_refused_while_the_first_serves() {
    let host = TestHost::new();
    host.probe("a.so", &[("VERSION", &text("1.0.0"))]);
    let other = tempfile::tempdir().unwrap();
    let path = build("probe", other.path(), "b.so", &[("VERSION", &text("2.0.0"))]);
    host.manager.load("probe").unwrap();
    let error = host.manager.load(path.to_str().unwrap()).unwrap_err();
    assert!(error.message().contains("version 1.0.0 is loaded from"), "{error}");
}

#[test]
fn a_plugin_in_use_is_not_unloaded_and_one_that_is_not_ends_and_may_come_again() {
    let host = TestHost::new();
    host.probe("p.so", &[("HOLDS", "1"), ("METHOD", &text("ping"))]);
    host.manager.load("probe").unwrap();
    let held = host.start_call("hold", "{}");
    let unload = |host: &TestHost| host.call("plugin_unload", r#"{"name":"probe"}"#);
    let (code, message) = unload(&host).unwrap_err();
    assert_eq!(code, i64::from(-libc::EBUSY));
    assert!(message.contains("has 1 unanswered RPC calls"), "{message}");

    // The plugin answers the held call twice. The first answer counts. Then it answers this call.
    let error = host.call("let_go", "{}").unwrap_err();
    assert_eq!(error, (-5, "no luck".to_owned()));
    assert_eq!(held.try_recv().unwrap().unwrap().get(), "true");

    host.core.bdevs.store(2, std::sync::atomic::Ordering::Relaxed);
    assert!(unload(&host).unwrap_err().1.contains("has 2 bdevs"));
    host.core.bdevs.store(0, std::sync::atomic::Ordering::Relaxed);
    unload(&host).unwrap();
    let (state, reason) = host.state("probe").unwrap();
    assert_eq!(state, "retired");
    assert!(reason.contains("stays mapped"), "{reason}");
    assert_eq!(host.call("ping", "{}").unwrap_err().0, -32601);
    assert_eq!(unload(&host).unwrap_err().0, i64::from(-libc::ENOENT));

    host.manager.load("probe").unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 1.0.0");
    assert_eq!(host.seen(), ["probe start", "probe fini", "probe start"]);
}

#[test]
fn a_plugin_becomes_quiet_before_it_ends_and_stays_when_it_cannot() {
    let host = TestHost::new();
    host.probe("q.so", &[("NAME", &text("quiet")), ("QUIESCES", "0")]);
    host.probe("n.so", &[("NAME", &text("noisy")), ("QUIESCES", "-16")]);
    host.manager.load("quiet").unwrap();
    host.manager.load("noisy").unwrap();
    host.call("plugin_unload", r#"{"name":"quiet"}"#).unwrap();
    let (code, message) = host.call("plugin_unload", r#"{"name":"noisy"}"#).unwrap_err();
    assert_eq!(code, i64::from(-libc::EBUSY));
    assert!(message.contains("did not quiesce"), "{message}");
    assert_eq!(host.state("noisy").unwrap().0, "serving");
    assert_eq!(
        host.seen(),
        ["quiet start", "noisy start", "quiet quiesce", "quiet fini", "noisy quiesce"]
    );
}

#[test]
fn the_end_of_the_host_ends_the_last_loaded_first() {
    let host = TestHost::new();
    for name in ["a", "b"] {
        host.probe(&format!("{name}.so"), &[("NAME", &text(name)), ("QUIESCES", "-16")]);
    }
    host.manager.load("b").unwrap();
    host.manager.load("a").unwrap();
    let (sender, ended) = std::sync::mpsc::channel();
    host.manager.shutdown(Box::new(move || sender.send(()).unwrap()));
    ended.try_recv().unwrap();
    assert_eq!(host.seen()[2..], ["a quiesce", "a shutdown", "b quiesce", "b shutdown"]);
}

#[test]
fn at_the_end_hosts_are_parted_from_before_any_disk_goes() {
    let host = TestHost::new();
    let target = text(&text("bay.test/1"));
    for (name, kind, more) in [
        ("target", "target", ("PROVIDES", target.as_str())),
        ("tcp", "transport", ("REQUIRES", target.as_str())),
        ("disk", "bdev", ("PROVIDES", "\"\"")),
        ("filter", "filter", ("PROVIDES", "\"\"")),
    ] {
        let file = format!("{name}.so");
        let offers = text("bay.test/1");
        let mut macros = vec![("NAME", text(name)), ("KIND", text(kind))];
        if name == "target" {
            macros.push(("OFFERS", offers));
        }
        let mut macros: Vec<(&str, &str)> = macros.iter().map(|(n, v)| (*n, &**v)).collect();
        macros.push(more);
        host.probe(&file, &macros);
        host.manager.load(name).unwrap();
    }
    host.seen();
    let (sender, ended) = std::sync::mpsc::channel();
    host.manager.shutdown(Box::new(move || sender.send(()).unwrap()));
    ended.try_recv().unwrap();
    assert_eq!(
        host.seen(),
        ["tcp shutdown", "target shutdown", "filter shutdown", "disk shutdown"]
    );
}

#[test]
fn another_thread_loads_a_plugin_and_only_its_calls_are_the_app_threads() {
    let host = TestHost::new();
    host.probe("p.so", &[]);
    let manager = std::sync::Arc::clone(&host.manager);
    let (sender, loaded) = std::sync::mpsc::channel();
    let loader = std::thread::spawn(move || sender.send(manager.load("probe")).unwrap());
    host.wait(&loaded).unwrap();
    loader.join().unwrap();
    assert_eq!(host.seen(), ["probe start"]);
    let manager = std::sync::Arc::clone(&host.manager);
    let error = std::thread::spawn(move || manager.log_level_changed().unwrap_err());
    assert_eq!(error.join().unwrap().errno(), libc::EPERM);
}

#[test]
fn a_replaced_file_is_not_taken_for_the_plugin_that_serves_until_that_one_has_gone() {
    let host = TestHost::new();
    let file = host.probe("p.so", &[("VERSION", &text("1.0.0")), ("METHOD", &text("ping"))]);
    let load = || host.call("plugin_load", r#"{"name":"probe"}"#);
    load().unwrap();
    // A file with the same bytes is the same plugin.
    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &bytes).unwrap();
    load().unwrap();

    std::fs::remove_file(&file).unwrap();
    host.probe("p.so", &[("VERSION", &text("2.0.0")), ("METHOD", &text("ping"))]);
    host.core.bdevs.store(2, std::sync::atomic::Ordering::Relaxed);
    let (code, message) = load().unwrap_err();
    assert_eq!(code, i64::from(-libc::EEXIST));
    for part in ["1.0.0 is loaded", "was replaced", "(version 2.0.0)", "has 2 bdevs"] {
        assert!(message.contains(part), "{message}");
    }
    host.core.bdevs.store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(load().unwrap_err().1.ends_with("plugin_unload it first"));
    host.call("plugin_unload", r#"{"name":"probe"}"#).unwrap();
    load().unwrap();
    assert_eq!(host.call("ping", "{}").unwrap(), "probe 2.0.0");
}

#[test]
fn a_plugin_learns_that_the_log_level_changed() {
    let host = TestHost::new();
    host.probe("p.so", &[]);
    host.manager.load("probe").unwrap();
    host.manager.log_level_changed().unwrap();
    assert_eq!(host.seen(), ["probe start", "probe log changed"]);
    host.call("plugin_unload", r#"{"name":"probe"}"#).unwrap();
    host.manager.log_level_changed().unwrap();
    assert_eq!(host.seen(), ["probe fini"]);
}
