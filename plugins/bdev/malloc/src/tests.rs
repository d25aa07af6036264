use super::*;
use drivebay_sdk::bdev::Channel;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

fn create(host: &FakeHost, name: &str) {
    let params = json!({"name": name, "num_blocks": 16, "block_size": 512});
    assert_eq!(host.call("bdev_malloc_create", &params).unwrap(), name);
}

#[test]
fn what_was_written_is_read_and_the_rest_is_zero() {
    let host = host();
    create(&host, "written");
    let (channel, _desc) = host.open("written");
    let write = Op::Write(Range::new(3, 2));
    assert!(host.io(&channel, write, IoFlags::FUA, &mut vec![7; 1024]).status.is_success());
    let mut data = vec![9; 4 * 512];
    let read = Op::Read(Range::new(2, 4));
    assert!(host.io(&channel, read, IoFlags::NONE, &mut data).status.is_success());
    assert_eq!(data, [vec![0; 512], vec![7; 1024], vec![0; 512]].concat());
}

#[test]
fn unmap_and_write_zeroes_leave_zeroes_and_only_there() {
    let host = host();
    create(&host, "zeroes");
    let (channel, _desc) = host.open("zeroes");
    let all = Range::new(0, 16);
    host.io(&channel, Op::Write(all), IoFlags::NONE, &mut vec![1; 16 * 512]);
    for op in [Op::Unmap(Range::new(1, 2)), Op::WriteZeroes(Range::new(15, 1))] {
        assert!(host.io(&channel, op, IoFlags::NONE, &mut vec![]).status.is_success());
    }
    let mut data = vec![2; 16 * 512];
    host.io(&channel, Op::Read(all), IoFlags::NONE, &mut data);
    let blocks: Vec<bool> = data.chunks(512).map(|block| block == [0; 512]).collect();
    let zeroed: Vec<usize> = (0..16).filter(|block| blocks[*block]).collect();
    assert_eq!(zeroed, [1, 2, 15]);
}

#[test]
fn a_long_range_is_zeroed_round_by_round_and_other_io_goes_on_meanwhile() {
    thread_local! {
        static ENDED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    let host = host();
    let params = json!({"name": "long", "num_blocks": 20_480, "block_size": 512});
    host.call("bdev_malloc_create", &params).unwrap();
    let (channel, _desc) = host.open("long");
    for lba in [0, 10_239, 20_479] {
        let write = Op::Write(Range::new(lba, 1));
        host.io(&channel, write, IoFlags::NONE, &mut vec![1; 512]);
    }
    for op in [Op::Unmap(Range::new(0, 20_479)), Op::WriteZeroes(Range::new(5, 20_000))] {
        channel.submit(op, IoFlags::NONE, (), |(), result| {
            assert!(result.status.is_success());
            ENDED.set(ENDED.get() + 1);
        });
    }
    assert_eq!(ENDED.get(), 0, "10 MiB are more than one piece");
    host.wait(|| (ENDED.get() == 2).then_some(()));
    let mut data = vec![9; 20_480 * 512];
    host.io(&channel, Op::Read(Range::new(0, 20_480)), IoFlags::NONE, &mut data);
    let (last, rest) = data.split_last_chunk::<512>().map(|(rest, last)| (last, rest)).unwrap();
    assert!(rest.iter().all(|byte| *byte == 0));
    assert_eq!(*last, [1; 512]);
}

#[test]
fn a_long_range_that_a_completion_submits_is_zeroed_too() {
    thread_local! {
        static CHANNEL: std::cell::RefCell<Option<Channel>> = const { std::cell::RefCell::new(None) };
        static ENDED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }
    fn unmap() {
        CHANNEL.with_borrow(|channel| {
            let all = Op::Unmap(Range::new(0, 8192));
            channel.as_ref().unwrap().submit(all, IoFlags::NONE, (), |(), result| {
                assert!(result.status.is_success());
                ENDED.set(ENDED.get() + 1);
                if ENDED.get() == 1 {
                    unmap();
                }
            });
        });
    }
    let host = host();
    let params = json!({"name": "again", "num_blocks": 8192, "block_size": 512});
    host.call("bdev_malloc_create", &params).unwrap();
    let (channel, _desc) = host.open("again");
    CHANNEL.set(Some(channel));
    unmap();
    host.wait(|| (ENDED.get() == 2).then_some(()));
    CHANNEL.take();
}

#[test]
fn compare_tells_equal_from_different() {
    let host = host();
    create(&host, "compared");
    let (channel, _desc) = host.open("compared");
    let compare = Op::Compare(Range::new(0, 3));
    let mut data = vec![0; 3 * 512];
    assert_eq!(
        host.io(&channel, compare, IoFlags::NONE, &mut data.clone()).status,
        Status::SUCCESS
    );
    data[3 * 512 - 1] = 1;
    assert_eq!(host.io(&channel, compare, IoFlags::NONE, &mut data).status, Status::MISCOMPARE);
}

#[test]
fn what_is_not_supported_is_refused_by_name_unless_it_is_off() {
    let host = host();
    for (field, off, on) in [
        ("md_size", json!(0), json!(8)),
        ("md_interleave", json!(false), json!(true)),
        ("dif_type", json!(0), json!(1)),
        ("dif_is_head_of_md", json!(false), json!(true)),
        ("dif_pi_format", json!(0), json!(1)),
    ] {
        let mut params = json!({"name": field, "num_blocks": 1, "block_size": 512});
        params[field] = on;
        let error = host.call("bdev_malloc_create", &params).unwrap_err();
        assert_eq!(error.code, -22);
        assert!(error.message.starts_with(field), "{}", error.message);
        params[field] = off;
        assert_eq!(host.call("bdev_malloc_create", &params).unwrap(), field);
    }
}

#[test]
fn bad_and_unknown_parameters_are_refused_by_name() {
    let host = host();
    let refused = |params: Value| host.call("bdev_malloc_create", &params).unwrap_err();
    let error = refused(json!({"num_blocks": 1, "block_size": 513}));
    assert_eq!((error.code, error.message.contains("block_size 513")), (-22, true));
    assert_eq!(refused(json!({"num_blocks": 0, "block_size": 512})).code, -22);
    let error = refused(json!({"num_blocks": 1, "block_size": 512, "sise": 1}));
    assert_eq!((error.code, error.message.contains("sise")), (-32602, true));
    let error = refused(json!({"num_blocks": u64::MAX, "block_size": 512}));
    assert_eq!((error.code, error.message.contains("num_blocks")), (-22, true));
    assert_eq!(refused(json!({"num_blocks": 1_u64 << 40, "block_size": 512})).code, -12);
}

#[test]
fn names_are_unique_and_numbered_when_absent() {
    let host = host();
    create(&host, "twice");
    let params = json!({"name": "twice", "num_blocks": 1, "block_size": 512});
    assert_eq!(host.call("bdev_malloc_create", &params).unwrap_err().code, -17);
    let params = json!({"num_blocks": 1, "block_size": 512});
    let name = host.call("bdev_malloc_create", &params).unwrap();
    assert!(name.as_str().unwrap().starts_with("Malloc"), "{name}");
}

#[test]
fn the_configuration_makes_the_disk_again() {
    let host = host();
    let uuid = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
    let params = json!({"name": "saved", "num_blocks": 8, "block_size": 4096, "uuid": uuid});
    host.call("bdev_malloc_create", &params).unwrap();
    assert_eq!(host.registered("saved").unwrap().uuid[..4], [0x0b, 0x1c, 0x2d, 0x3e]);
    let saved = host.config().into_iter().find(|call| call["params"]["name"] == "saved").unwrap();
    assert_eq!(saved["method"], "bdev_malloc_create");
    assert_eq!(saved["params"]["uuid"], uuid);
    host.call("bdev_malloc_delete", &json!({"name": "saved"})).unwrap();
    assert_eq!(host.call("bdev_malloc_create", &saved["params"]).unwrap(), "saved");
}

#[test]
fn deleting_what_is_not_there_says_no_such_device() {
    let error = host().call("bdev_malloc_delete", &json!({"name": "none"})).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (-19, "No such device"));
}

#[test]
fn a_numa_node_that_the_machine_does_not_have_is_refused() {
    let host = host();
    let params = json!({"name": "far", "num_blocks": 8, "block_size": 512, "numa_id": 77});
    let error = host.call("bdev_malloc_create", &params).unwrap_err();
    assert!(error.message.contains("numa_id 77 is not allowed"), "{}", error.message);
}
