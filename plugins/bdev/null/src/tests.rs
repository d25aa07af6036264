use super::*;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::FakeHost;

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

fn create(host: &FakeHost, name: &str) {
    let params = json!({"name": name, "num_blocks": 2048, "block_size": 512,
        "md_size": 0, "preferred_write_alignment": 8});
    assert_eq!(host.call("bdev_null_create", &params).unwrap(), name);
}

#[test]
fn every_io_succeeds_and_a_read_leaves_the_buffer() {
    let host = host();
    create(&host, "every");
    let (channel, _desc) = host.open("every");
    let range = Range::new(0, 1);
    let mut data = vec![5; 512];
    for op in [Op::Write(range), Op::Read(range)] {
        assert!(host.io(&channel, op, IoFlags::NONE, &mut data).status.is_success());
        assert_eq!(data, [5; 512]);
    }
    for op in [Op::Flush, Op::Unmap(range), Op::WriteZeroes(range), Op::Reset] {
        assert!(host.io(&channel, op, IoFlags::NONE, &mut vec![]).status.is_success());
    }
}

#[test]
fn resize_counts_in_mib_and_is_saved() {
    let host = host();
    create(&host, "resized");
    assert_eq!(
        host.call("bdev_null_resize", &json!({"name": "resized", "new_size": 3})).unwrap(),
        true
    );
    assert_eq!(host.registered("resized").unwrap().num_blocks, 3 * 2048);
    let saved = host.config().into_iter().find(|call| call["params"]["name"] == "resized").unwrap();
    assert_eq!(saved["params"]["num_blocks"], 3 * 2048);
}

#[test]
fn resizing_or_deleting_what_is_not_there_says_no_such_device() {
    let host = host();
    for (method, params) in [
        ("bdev_null_resize", json!({"name": "none", "new_size": 1})),
        ("bdev_null_delete", json!({"name": "none"})),
    ] {
        assert_eq!(host.call(method, &params).unwrap_err().code, -19);
    }
}
