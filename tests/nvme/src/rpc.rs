//! The RPC socket of a serving host: only the client that makes a mistake notices it.

use crate::host::Host;
use crate::target::{NQN, Target};
use crate::witness::Witness;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_secs(5);

fn socket(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// The error of a call, with its data.
fn error_of(host: &Host, method: &str, params: &Value) -> Value {
    let mut stream = socket(host);
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    stream.write_all(request.to_string().as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    answer["error"].clone()
}

#[test]
fn a_wrong_or_unknown_parameter_is_named_by_plugins_and_host_alike() {
    let target = Target::start();
    let long = "x".repeat(300);
    for (method, params, field) in [
        ("bdev_malloc_create", json!({"num_blocks": "8", "block_size": 512}), "num_blocks"),
        ("bdev_malloc_create", json!({"num_blocks": -1, "block_size": 512}), "num_blocks"),
        ("bdev_malloc_create", json!({"num_blocks": 1.5, "block_size": 512}), "num_blocks"),
        ("bdev_malloc_create", json!({"num_blocks": 8, "block_size": 512, "x": 1}), "x"),
        ("bdev_malloc_create", json!({"block_size": 512}), "num_blocks"),
        ("bdev_get_bdevs", json!({"name": 1}), "name"),
        ("bdev_get_bdevs", json!({"names": "m1"}), "names"),
        ("nvmf_create_subsystem", json!({"nqn": {}}), "nqn"),
        ("nvmf_create_subsystem", json!({"nqn": NQN, "max_namespaces": 1 << 20}), "max_namespaces"),
        ("nvmf_create_subsystem", json!({"nqn": NQN, "allow_any_host": "yes"}), "allow_any_host"),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": {"bdev": "m1"}}), "namespace"),
        ("nvmf_subsystem_add_ns", json!({"nqn": NQN, "namespace": 1}), "namespace"),
        (
            "nvmf_subsystem_add_listener",
            json!({"nqn": NQN, "listen_address": {"trtype": "TCP", "traddr": long}}),
            "listen_address",
        ),
        ("nvmf_create_transport", json!({"trtype": "TCP", "zcopyy": true}), "zcopyy"),
        ("thread_get_stats", json!({"id": 1}), "id"),
        ("log_set_level", json!({"level": 3}), "level"),
    ] {
        let error = error_of(&target, method, &params);
        assert_eq!(error["code"], -32602, "{method} {params}: {error}");
        let named = error["data"]["field"].as_str().unwrap_or_default();
        assert!(named.starts_with(field), "{method} {params}: {error}");
    }
    for params in [json!([1, 2]), json!("text"), json!(7)] {
        let error = error_of(&target, "bdev_get_bdevs", &params);
        assert!(matches!(error["code"].as_i64(), Some(-32600 | -32602)), "{params}: {error}");
    }
}

#[test]
fn clients_without_manners_are_noticed_by_nobody_else() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 1);
    // Clients that never read their answers.
    let greedy: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = socket(&target);
            stream.set_nonblocking(true).unwrap();
            let call = br#"{"method":"rpc_get_methods","id":1}"#;
            for _ in 0..60 {
                if stream.write_all(call).is_err() {
                    break;
                }
            }
            stream
        })
        .collect();
    // Clients that stop in the middle of a request.
    let halves: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = socket(&target);
            stream.write_all(br#"{"jsonrpc":"2.0","method":"bdev_get"#).unwrap();
            stream
        })
        .collect();
    // Clients that send invalid requests.
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"method":"{}"#, "x".repeat(1 << 20));
    let broken = [b"\xff\xfe\x00".as_slice(), b"{]", b"}", deep.as_bytes(), long.as_bytes()];
    for bytes in broken {
        let mut stream = socket(&target);
        // The host may close the connection before everything is sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(answer.is_empty() || answer.contains("\"error\""), "{answer}");
    }
    let begun = Instant::now();
    for _ in 0..50 {
        target.call("bdev_get_bdevs", json!({}));
    }
    assert!(begun.elapsed() < 3 * LONGEST, "{:?} for 50 calls", begun.elapsed());
    drop((greedy, halves));
    witness.finish(LONGEST);
}

#[test]
fn sixty_four_clients_change_the_configuration_at_once() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 1);
    let rounds = crate::times(3, 100);
    thread::scope(|scope| {
        for client in 0..64 {
            let host = &target.host;
            scope.spawn(move || {
                let nqn = format!("nqn.2026-01.io.drivebay:client-{client}");
                for _ in 0..rounds {
                    let disk = format!("d{client}");
                    host.add_disk(&disk);
                    host.add_subsystem(&nqn);
                    assert_eq!(host.add_namespace(&nqn, &disk), 1);
                    host.call("nvmf_subsystem_remove_ns", json!({"nqn": nqn, "nsid": 1}));
                    host.call("nvmf_delete_subsystem", json!({"nqn": nqn}));
                    host.call("bdev_malloc_delete", json!({"name": disk}));
                }
            });
        }
    });
    let left = target.call("bdev_get_bdevs", json!({}));
    assert_eq!(left.as_array().unwrap().len(), 2);
    let left = target.call("nvmf_get_subsystems", json!({}));
    assert_eq!(left.as_array().unwrap().len(), 2, "discovery and that of the test");
    witness.finish(LONGEST);
}

#[test]
fn calls_that_contradict_each_other_at_once_leave_a_whole_configuration() {
    let target = Target::start();
    let witness = Witness::start(target.options(), 2);
    thread::scope(|scope| {
        for client in 0..16 {
            let host = &target.host;
            scope.spawn(move || {
                // Each call may succeed or fail, depending on which client was faster.
                for round in 0..20 {
                    let nsid = json!({"nqn": NQN, "nsid": 1});
                    let namespace = json!({"bdev_name": "m1", "nsid": 1});
                    let add = json!({"nqn": NQN, "namespace": namespace});
                    let disk = json!({"name": "x", "num_blocks": 8, "block_size": 512});
                    let _ = match (client + round) % 4 {
                        0 => host.try_call("nvmf_subsystem_remove_ns", nsid),
                        1 => host.try_call("nvmf_subsystem_add_ns", add),
                        2 => host.try_call("bdev_malloc_create", disk),
                        _ => host.try_call("bdev_malloc_delete", json!({"name": "x"})),
                    };
                }
            });
        }
    });
    let _ = target.try_call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": 1}));
    assert_eq!(target.add_namespace(NQN, "m1"), 1);
    let (_controller, mut queue, namespace) = target.connect_io();
    queue.run(namespace.read(0, 8).unwrap()).unwrap().ok().unwrap();
    witness.finish(LONGEST);
}
