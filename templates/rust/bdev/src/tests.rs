//! Tests the plugin in a fake host, without root, network or other plugins.

use super::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

// The tests of a library share the names of bdevs, so each test has its own names.
fn create(host: &FakeHost, name: &str) {
    let params = json!({"name": name, "num_blocks": 16, "block_size": 512});
    assert_eq!(host.call("bdev_{{name}}_create", &params).unwrap(), name);
}

#[test]
fn what_was_written_is_read_and_the_rest_is_zero() {
    let host = host();
    create(&host, "written");
    let (channel, _desc) = host.open("written");
    let write = Op::Write(Range::new(3, 1));
    assert!(host.io(&channel, write, IoFlags::FUA, &mut vec![7; 512]).status.is_success());
    let mut data = vec![9; 3 * 512];
    let read = Op::Read(Range::new(2, 3));
    assert!(host.io(&channel, read, IoFlags::NONE, &mut data).status.is_success());
    assert_eq!(data, [vec![0; 512], vec![7; 512], vec![0; 512]].concat());
}

#[test]
fn what_is_not_allowed_is_refused_by_name() {
    let params = json!({"name": "wrong", "num_blocks": 16, "block_size": 500});
    let error = host().call("bdev_{{name}}_create", &params).unwrap_err();
    assert!(error.message.contains("block_size"), "{}", error.message);
}

#[test]
fn the_configuration_makes_the_disk_again() {
    let host = host();
    create(&host, "saved");
    let saved = host.config().into_iter().find(|call| call["params"]["name"] == "saved").unwrap();
    assert_eq!(saved["method"], "bdev_{{name}}_create");
    host.call("bdev_{{name}}_delete", &json!({"name": "saved"})).unwrap();
    assert_eq!(host.call("bdev_{{name}}_create", &saved["params"]).unwrap(), "saved");
}
