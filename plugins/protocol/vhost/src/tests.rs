//! A VMM in the same process: what it says on the socket, and what the device answers.

use crate::bay_door;
use drivebay_sdk::bdev::OpSet;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_vhost::blk::Config;
use drivebay_spec_vhost::message::{HEADER_LEN, Header};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn add_disk(host: &FakeHost, name: &str) {
    host.add_disk(name, OpSet::READ_WRITE, |_, _| {});
}

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

fn header(request: u32, needs_reply: bool, len: usize) -> [u8; HEADER_LEN] {
    Header { request, needs_reply, is_reply: false, len: len.try_into().unwrap() }.to_bytes()
}

/// Says something and takes the answer.
fn ask(host: &FakeHost, vmm: &mut UnixStream, request: u32, payload: &[u8]) -> Vec<u8> {
    vmm.write_all(&header(request, true, payload.len())).unwrap();
    vmm.write_all(payload).unwrap();
    for _ in 0..20 {
        host.run();
    }
    let mut head = [0; HEADER_LEN];
    vmm.read_exact(&mut head).unwrap();
    let head = Header::parse(head).unwrap();
    assert!(head.is_reply && head.request == request);
    let mut answer = vec![0; head.len as usize];
    vmm.read_exact(&mut answer).unwrap();
    answer
}

/// A disk with a controller, and a connection to its socket.
fn connected(host: &FakeHost, name: &str) -> UnixStream {
    add_disk(host, name);
    let params = json!({"ctrlr": format!("{name}.sock"), "dev_name": name});
    host.call("vhost_create_blk_controller", &params).unwrap();
    let vmm = UnixStream::connect(PathBuf::from(format!("{name}.sock"))).unwrap();
    vmm.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    for _ in 0..5 {
        host.run();
    }
    vmm
}

#[test]
fn a_vmm_learns_the_size_of_the_disk() {
    let host = host();
    let mut vmm = connected(&host, "vhost-size");
    let question = [0_u32.to_le_bytes(), 60_u32.to_le_bytes(), [0; 4]].concat();
    let answer = ask(&host, &mut vmm, 24, &[question, vec![0; 60]].concat());
    let config = Config::parse(&answer[12..]).unwrap();
    assert_eq!((config.capacity, config.blk_size), (64, 512));
    host.call("vhost_delete_controller", &json!({"ctrlr": "vhost-size.sock"})).unwrap();
    assert!(!PathBuf::from("vhost-size.sock").exists());
}

#[test]
fn features_that_were_not_offered_end_the_session() {
    let host = host();
    let mut vmm = connected(&host, "vhost-features");
    let offered = u64::from_le_bytes(ask(&host, &mut vmm, 1, &[]).try_into().unwrap());
    assert_eq!(offered & 1 << 34, 0, "packed rings were not asked for");
    vmm.write_all(&header(2, false, 8)).unwrap();
    vmm.write_all(&(offered | 1 << 34).to_le_bytes()).unwrap();
    for _ in 0..20 {
        host.run();
    }
    assert_eq!(vmm.read(&mut [0; 1]).unwrap(), 0, "closed");
    host.call("vhost_delete_controller", &json!({"ctrlr": "vhost-features.sock"})).unwrap();
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let host = host();
    add_disk(&host, "vhost-name");
    for name in ["", "a/b", "..", "new\nline"] {
        let params = json!({"ctrlr": name, "dev_name": "vhost-name"});
        let error = host.call("vhost_create_blk_controller", &params).unwrap_err();
        assert_eq!(error.code, -32602, "{name:?}: {}", error.message);
    }
}

#[test]
fn a_controller_over_nothing_and_one_that_is_not_there_are_refused_with_the_references_code() {
    let host = host();
    let params = json!({"ctrlr": "vhost-none.sock", "dev_name": "no such bdev"});
    assert_eq!(host.call("vhost_create_blk_controller", &params).unwrap_err().code, -32602);
    let params = json!({"ctrlr": "vhost-none.sock"});
    assert_eq!(host.call("vhost_delete_controller", &params).unwrap_err().code, -32602);
}
