use super::*;
use drivebay_sdk::bdev::find;
use drivebay_sdk::testing::{FakeDisk, FakeHost};
use std::sync::{Mutex, PoisonError};

/// The data that was last written to each base, with the base's name.
static WRITTEN: Mutex<Vec<(String, Vec<u8>)>> = Mutex::new(Vec::new());

/// Serves a base that reads as sevens.
fn serve(name: &str, io: &BdevIo) {
    match io.op() {
        Op::Read(_) => drop(io.buffers().fill_from(&[7; 512])),
        Op::Write(_) => {
            let mut data = vec![0; io.buffers().len()];
            io.buffers().copy_to(&mut data);
            let mut all = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
            all.push((name.to_owned(), data));
        }
        _ => {}
    }
}

/// A host with an error bdev over `base`.
fn host(base: &str) -> FakeHost {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    let ops = OpSet::READ_WRITE.with(OpSet::UNMAP).with(OpSet::FLUSH).with(OpSet::RESET);
    host.add_disk(base, ops, serve);
    assert_eq!(host.call("bdev_error_create", &json!({"base_name": base})).unwrap(), true);
    host
}

fn inject(host: &FakeHost, base: &str, more: &Value) {
    let mut params = json!({"name": format!("EE_{base}")});
    let members = more.as_object().unwrap().clone();
    params.as_object_mut().unwrap().extend(members);
    assert_eq!(host.call("bdev_error_inject_error", &params).unwrap(), true);
}

fn read(host: &FakeHost, channel: &Channel, lba: u64) -> IoResult {
    host.io(channel, Op::Read(Range::new(lba, 1)), IoFlags::NONE, &mut vec![0; 512])
}

#[test]
fn so_many_io_of_a_kind_fail_and_the_others_pass() {
    let host = host("few");
    let (channel, _desc) = host.open("EE_few");
    inject(&host, "few", &json!({"io_type": "read", "error_type": "failure", "num": 2}));
    let flush = host.io(&channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert_eq!(flush.status, Status::SUCCESS);
    let ends: Vec<Status> = (0..3).map(|lba| read(&host, &channel, lba).status).collect();
    assert_eq!(ends, [Status::IO_ERROR, Status::IO_ERROR, Status::SUCCESS]);
    inject(&host, "few", &json!({"io_type": "all", "error_type": "failure", "num": 9}));
    inject(&host, "few", &json!({"io_type": "clear", "error_type": "failure"}));
    assert_eq!(read(&host, &channel, 0).status, Status::SUCCESS);
}

#[test]
fn the_nth_io_of_a_range_fails() {
    let host = host("nth");
    let (channel, _desc) = host.open("EE_nth");
    let range =
        json!({"io_type": "read", "error_type": "failure", "lba": 8, "num_blocks": 4, "skip": 1});
    inject(&host, "nth", &range);
    let ends: Vec<bool> = [7, 8, 12, 11, 10]
        .iter()
        .map(|lba| read(&host, &channel, *lba).status.is_success())
        .collect();
    assert_eq!(ends, [true, true, true, false, true]);
}

#[test]
fn an_nvme_status_is_the_one_that_was_asked_for() {
    let host = host("nvme");
    let (channel, _desc) = host.open("EE_nvme");
    let status =
        json!({"io_type": "read", "error_type": "nvme_failure", "nvme_sct": 2, "nvme_sc": 0x81});
    inject(&host, "nvme", &status);
    assert_eq!(read(&host, &channel, 0).nvme(), Some(0x81 << 40 | 2 << 32));
    let params = json!({"name": "EE_nvme", "io_type": "read", "error_type": "nvme_failure"});
    assert_eq!(host.call("bdev_error_inject_error", &params).unwrap_err().code, -22);
}

#[test]
fn corrupt_data_changes_one_byte_of_what_is_read_or_written() {
    let host = host("spoilt");
    let (channel, _desc) = host.open("EE_spoilt");
    let corrupt = json!({"io_type": "all", "error_type": "corrupt_data", "corrupt_offset": 3, "corrupt_value": 5});
    inject(&host, "spoilt", &corrupt);
    let mut data = vec![0; 512];
    host.io(&channel, Op::Read(Range::new(0, 1)), IoFlags::NONE, &mut data);
    assert_eq!(data[..5], [7, 7, 7, 2, 7]);
    let mut data = vec![9; 512];
    host.io(&channel, Op::Write(Range::new(0, 1)), IoFlags::NONE, &mut data);
    assert_eq!(data[..5], [9; 5], "the client's own data was changed");
    let all = WRITTEN.lock().unwrap();
    let written = all.iter().find(|(name, _)| name == "spoilt").unwrap();
    assert_eq!(written.1[..5], [9, 9, 9, 12, 9]);
}

thread_local! {
    static ENDED: Cell<Option<Status>> = const { Cell::new(None) };
}

#[test]
fn a_base_that_goes_ends_the_io_that_is_kept_and_no_more_is_kept() {
    let host = host("leaving");
    let (channel, desc) = host.open("EE_leaving");
    inject(&host, "leaving", &json!({"io_type": "read", "error_type": "pending", "num": 9}));
    let buf = Box::new(buf::get(512).unwrap());
    channel.submit(Op::Read(Range::new(0, 1)), IoFlags::NONE, buf, |_, result| {
        ENDED.set(Some(result.status));
    });
    host.run();
    assert_eq!(ENDED.get(), None, "it was not kept");
    find::<FakeDisk>("leaving").unwrap().unregister(host.app(), |_, _| {});
    assert_eq!(host.wait(|| ENDED.get()), Status::ABORTED);
    assert_eq!(read(&host, &channel, 0).status, Status::SUCCESS);
    let params = json!({"name": "EE_leaving", "io_type": "read", "error_type": "pending"});
    assert_eq!(host.call("bdev_error_inject_error", &params).unwrap_err().code, -19);
    drop(channel);
    drop(desc);
    host.wait(|| host.registered("leaving").is_none().then_some(()));
}

#[test]
fn the_filter_is_saved_as_it_was_made_and_named_after_its_base() {
    let host = host("saved");
    let params = json!({"base_name": "saved"});
    let call = json!({"method": "bdev_error_create", "params": params});
    assert!(host.config().contains(&call), "{:?}", host.config());
    assert_eq!(host.call("bdev_error_create", &params).unwrap_err().code, -17);
    assert_eq!(host.call("bdev_error_delete", &json!({"name": "EE_saved"})).unwrap(), true);
    assert_eq!(host.call("bdev_error_delete", &json!({"name": "EE_saved"})).unwrap_err().code, -19);
}
