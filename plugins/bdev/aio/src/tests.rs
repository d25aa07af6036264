//! The plugin on a fake host, with real files.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use drivebay_ring::{Engine, lock_file, open_file};
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use tempfile::TempDir;

use super::*;
use crate::disk::{FileDisk, Wanted, Zeroing};

const KIB: u64 = 1024;

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

/// A file of `len` bytes in a temporary folder.
fn file(len: u64) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    File::create(&path).unwrap().set_len(len).unwrap();
    (dir, path)
}

fn has_io_uring() -> bool {
    let probe = Engine::IoUring.probe();
    if let Err(error) = &probe {
        eprintln!("skipped: no io_uring here: {error}");
    }
    probe.is_ok()
}

fn wanted(path: &Path, engine: Engine) -> Wanted {
    Wanted {
        name: "disk".to_owned(),
        filename: path.to_str().unwrap().to_owned(),
        block_size: Some(512),
        is_read_only: false,
        fallocate: true,
        uuid: None,
        engine,
    }
}

fn create(host: &FakeHost, name: &str, path: &Path, more: &Value) -> Value {
    let mut params = json!({"name": name, "filename": path, "block_size": 512});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.call("bdev_aio_create", &params).unwrap()
}

fn write(host: &FakeHost, name: &str, lba: u64, data: &[u8], flags: IoFlags) -> Status {
    let (channel, _desc) = host.open(name);
    let range = Range::new(lba, data.len() as u64 / 512);
    host.io(&channel, Op::Write(range), flags, &mut data.to_vec()).status
}

fn without_data(host: &FakeHost, name: &str, op: Op, flags: IoFlags) -> Status {
    let (channel, _desc) = host.open(name);
    host.io(&channel, op, flags, &mut vec![]).status
}

#[test]
fn what_is_written_is_in_the_file_and_read_back_by_both_families() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    for (family, name) in [("aio", "written_aio"), ("uring", "written_uring")] {
        if family == "uring" && !has_io_uring() {
            continue;
        }
        let params = json!({"name": name, "filename": path, "block_size": 512});
        assert_eq!(host.call(&format!("bdev_{family}_create"), &params).unwrap(), name);
        let data = vec![0x5a; 8192];
        assert_eq!(write(&host, name, 5, &data, IoFlags::FUA), Status::SUCCESS);
        assert_eq!(without_data(&host, name, Op::Flush, IoFlags::NONE), Status::SUCCESS);

        let (channel, desc) = host.open(name);
        let mut back = vec![0; 8192 + 512];
        let read = Op::Read(Range::new(4, 17));
        assert_eq!(host.io(&channel, read, IoFlags::NONE, &mut back).status, Status::SUCCESS);
        assert_eq!(&back[512..], data);
        drop((channel, desc));
        let delete = format!("bdev_{family}_delete");
        assert_eq!(host.call(&delete, &json!({"name": name})).unwrap(), true);
        assert_eq!(fs::read(&path).unwrap()[5 * 512..][..8192], data);
    }
}

#[test]
fn libaio_does_the_same_where_io_uring_is_missing() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    let disk = FileDisk::open(Wanted { name: "old".to_owned(), ..wanted(&path, Engine::Libaio) });
    let bdev = FileBdev::<Aio> { disk: Arc::new(disk.unwrap()), kind: PhantomData };
    drivebay_sdk::bdev::register(host.app(), bdev, "bdev_aio_create", json!({})).unwrap();
    assert_eq!(write(&host, "old", 1, &[3; 4096], IoFlags::FUA), Status::SUCCESS);
    assert_eq!(without_data(&host, "old", Op::Flush, IoFlags::NONE), Status::SUCCESS);
    let unmap = Op::Unmap(Range::new(2, 1));
    assert_eq!(without_data(&host, "old", unmap, IoFlags::FUA), Status::SUCCESS);
    let (channel, _desc) = host.open("old");
    let mut back = vec![9; 1024];
    let read = Op::Read(Range::new(1, 2));
    assert_eq!(host.io(&channel, read, IoFlags::NONE, &mut back).status, Status::SUCCESS);
    assert_eq!(back, [vec![3; 512], vec![0; 512]].concat());
}

#[test]
fn what_the_ring_has_no_room_for_goes_back_to_the_bus_and_the_rest_ends() {
    thread_local! {
        static ENDED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
    }
    let (_dir, path) = file(64 * KIB);
    let host = host();
    host.set_io_limit(1000);
    create(&host, "deep", &path, &json!({}));
    let (channel, _desc) = host.open("deep");
    for _ in 0..300 {
        channel.submit(Op::Flush, IoFlags::NONE, (), |(), result| {
            let (done, refused) = ENDED.get();
            match result.status {
                Status::SUCCESS => ENDED.set((done + 1, refused)),
                Status::NO_RESOURCE => ENDED.set((done, refused + 1)),
                other => panic!("{other:?}"),
            }
        });
    }
    assert_eq!(ENDED.get(), (0, 44), "256 are in flight");
    host.wait(|| (ENDED.get() == (256, 44)).then_some(()));
}

#[test]
fn unmap_and_write_zeroes_are_offered_only_with_fallocate_and_then_zero_the_range() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "no_holes", &path, &json!({}));
    let ops = OpSet::from_bits(host.registered("no_holes").unwrap().ops_mask);
    assert_eq!(ops, OpSet::READ_WRITE.with(OpSet::FLUSH));
    host.call("bdev_aio_delete", &json!({"name": "no_holes"})).unwrap();

    create(&host, "holes", &path, &json!({"fallocate": true}));
    let ops = OpSet::from_bits(host.registered("holes").unwrap().ops_mask);
    assert!(ops.contains(OpSet::UNMAP.with(OpSet::WRITE_ZEROES)));
    assert_eq!(write(&host, "holes", 0, &[1; 65536], IoFlags::NONE), Status::SUCCESS);
    let before = fs::metadata(&path).unwrap().blocks();
    for (op, flags) in [
        (Op::Unmap(Range::new(8, 64)), IoFlags::NONE),
        (Op::WriteZeroes(Range::new(100, 3)), IoFlags::NONE),
        (Op::WriteZeroes(Range::new(110, 1)), IoFlags::FUA),
    ] {
        assert_eq!(without_data(&host, "holes", op, flags), Status::SUCCESS);
    }
    host.call("bdev_aio_delete", &json!({"name": "holes"})).unwrap();
    let content = fs::read(&path).unwrap();
    let is_zero = |block: usize| content[block * 512..][..512] == [0; 512];
    for block in 0..128 {
        let expected = (8..72).contains(&block) || (100..103).contains(&block) || block == 110;
        assert_eq!(is_zero(block), expected, "block {block}");
    }
    assert!(fs::metadata(&path).unwrap().blocks() < before, "the unmapped range is given back");
    assert_eq!(content.len(), 65536, "the size stays");
}

#[test]
fn a_file_system_without_zero_range_punches_holes_instead() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: /dev/shm cannot be written");
        return;
    };
    let path = dir.path().join("disk");
    File::create(&path).unwrap().set_len(64 * KIB).unwrap();
    let disk = FileDisk::open(wanted(&path, Engine::Libaio)).unwrap();
    assert_eq!(disk.zeroing(), Some(Zeroing::PunchHole));
    assert_eq!(fs::metadata(&path).unwrap().len(), 64 * KIB, "looking changes nothing");
}

#[test]
fn a_read_behind_the_end_of_a_file_that_became_shorter_fails() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "shorter", &path, &json!({}));
    OpenOptions::new().write(true).open(&path).unwrap().set_len(16 * KIB).unwrap();
    let (channel, _desc) = host.open("shorter");
    for (lba, status) in [(0, Status::SUCCESS), (31, Status::IO_ERROR), (64, Status::IO_ERROR)] {
        let read = Op::Read(Range::new(lba, 2));
        let mut data = vec![0; 1024];
        assert_eq!(host.io(&channel, read, IoFlags::NONE, &mut data).status, status, "{lba}");
    }
}

#[test]
fn a_write_behind_the_end_fails_once_the_shortening_was_seen_and_the_file_stays_short() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    let shorten = |len| OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    let write = |lba| write(&host, "cut", lba, &[1; 512], IoFlags::NONE);
    let rescan = || host.call("bdev_aio_rescan", &json!({"name": "cut"}));
    create(&host, "cut", &path, &json!({}));
    let (channel, _desc) = host.open("cut");
    let read = |lba| {
        let op = Op::Read(Range::new(lba, 1));
        host.io(&channel, op, IoFlags::NONE, &mut vec![0; 512]).status
    };

    // A read notices the new size.
    shorten(32 * KIB);
    assert_eq!(read(64), Status::IO_ERROR);
    assert_eq!((write(64), write(127)), (Status::IO_ERROR, Status::IO_ERROR));
    assert_eq!(write(63), Status::SUCCESS);
    // A rescan notices the new size.
    shorten(16 * KIB);
    rescan().unwrap();
    assert!(!write(32).is_success());
    assert_eq!(read(31), Status::SUCCESS);
    shorten(0);
    assert_eq!(rescan().unwrap_err().code, -22);
    assert!(!write(0).is_success());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // Blocks that exist again can be used again.
    shorten(64 * KIB);
    assert_eq!(rescan().unwrap(), true);
    assert_eq!((write(127), read(127)), (Status::SUCCESS, Status::SUCCESS));
}

#[test]
fn a_rescan_takes_over_the_size_that_the_file_has_now() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "grows", &path, &json!({}));
    assert_eq!(host.registered("grows").unwrap().num_blocks, 128);
    OpenOptions::new().write(true).open(&path).unwrap().set_len(96 * KIB + 100).unwrap();
    assert_eq!(host.call("bdev_aio_rescan", &json!({"name": "grows"})).unwrap(), true);
    assert_eq!(host.registered("grows").unwrap().num_blocks, 192);
    assert_eq!(write(&host, "grows", 191, &[1; 512], IoFlags::NONE), Status::SUCCESS);
    let other = host.call("bdev_uring_rescan", &json!({"name": "grows"})).unwrap_err();
    assert_eq!((other.code, other.message.as_str()), (-19, "No such device"));
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "first", &path, &json!({}));
    let params = json!({"name": "second", "filename": path, "block_size": 512});
    let error = host.call("bdev_aio_create", &params).unwrap_err();
    assert_eq!(error.code, -16);
    assert!(error.message.contains("disk: in use: process "), "{error:?}");
    lock_file(&path, true).unwrap_err();
    host.call("bdev_aio_delete", &json!({"name": "first"})).unwrap();
    host.call("bdev_aio_create", &params).unwrap();
}

#[test]
fn the_uuid_follows_the_canonical_path_unless_it_is_given() {
    let (dir, path) = file(64 * KIB);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let uuid = |path: &Path, uuid| {
        FileDisk::open(Wanted { uuid, ..wanted(path, Engine::Libaio) }).unwrap().uuid()
    };
    let by_path = uuid(&path, None);
    assert_eq!(by_path, uuid(&link, None));
    assert_eq!((by_path.0[6] >> 4, by_path.0[8] >> 6), (8, 0b10), "version 8 of RFC 9562");
    let other = dir.path().join("other");
    fs::copy(&path, &other).unwrap();
    assert_ne!(by_path, uuid(&other, None));
    assert_eq!(uuid(&path, Some(Uuid([7; 16]))), Uuid([7; 16]));
}

#[test]
fn the_configuration_makes_the_same_disk_again() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "saved", &path, &json!({"fallocate": true}));
    let before = host.registered("saved").unwrap();
    let config = host.config();
    let call = config.iter().find(|call| call["params"]["name"] == "saved").unwrap();
    let uuid = Uuid(before.uuid).to_string();
    assert_eq!(
        *call,
        json!({"method": "bdev_aio_create", "params": {"name": "saved", "filename": path,
            "block_size": 512, "readonly": false, "fallocate": true, "uuid": uuid, "nowait": false}})
    );
    host.call("bdev_aio_delete", &json!({"name": "saved"})).unwrap();
    host.call("bdev_aio_create", &call["params"]).unwrap();
    let after = host.registered("saved").unwrap();
    assert_eq!((after.uuid, after.ops_mask), (before.uuid, before.ops_mask));
}

#[test]
fn a_read_only_disk_is_said_to_be_so_and_takes_no_writes() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "read_only", &path, &json!({"readonly": true, "fallocate": true}));
    let registered = host.registered("read_only").unwrap();
    assert_eq!(OpSet::from_bits(registered.ops_mask), OpSet::READ.with(OpSet::FLUSH));
    assert_eq!(registered.flags & 2, 2);
}

#[test]
fn the_block_size_is_that_of_the_file_unless_given() {
    let (_dir, path) = file(64 * KIB);
    let open = |block_size| FileDisk::open(Wanted { block_size, ..wanted(&path, Engine::Libaio) });
    let of_file = open_file(&path, true, false).unwrap().logical_block_size();
    for absent in [None, Some(0)] {
        let disk = open(absent).unwrap();
        assert_eq!((disk.block_size(), disk.is_block_size_given()), (of_file, false));
    }
    let given = open(Some(4096)).unwrap();
    assert_eq!((given.block_size(), given.is_block_size_given()), (4096, true));
    assert_eq!(given.num_blocks(), 16);
}

#[test]
fn parameters_that_are_not_allowed_are_refused_by_name() {
    let (dir, path) = file(64 * KIB);
    let (_small_dir, small) = file(511);
    let host = host();
    for (params, code, text) in [
        (json!({"filename": path, "block_size": 256}), -22, "block_size 256"),
        (json!({"filename": path, "block_size": 513}), -22, "block_size 513"),
        (json!({"filename": path, "block_size": 1_u32 << 31}), -22, "block_size 2147483648"),
        (json!({"filename": path, "nowait": true}), -22, "nowait true"),
        (json!({"filename": small, "block_size": 512}), -22, "is shorter than one block of 512"),
        (json!({"filename": dir.path().join("none")}), -2, "cannot be found"),
        (json!({"filename": "/dev/null"}), -22, "regular file or a block device"),
        (json!({"filename": dir.path()}), -21, "regular file or a block device"),
    ] {
        let mut params = params;
        params["name"] = "refused".into();
        let error = host.call("bdev_aio_create", &params).unwrap_err();
        assert_eq!(error.code, code, "{params}: {error:?}");
        assert!(error.message.contains(text), "{params}: {error:?}");
    }
    assert_eq!(host.call("bdev_aio_delete", &json!({"name": "none"})).unwrap_err().code, -19);
}

#[test]
fn memory_must_be_aligned_only_for_direct_io() {
    let (_dir, path) = file(64 * KIB);
    let host = host();
    create(&host, "aligned", &path, &json!({}));
    let align = host.registered("aligned").unwrap().align;
    match open_file(&path, true, true) {
        Ok(direct) => assert!(align.is_power_of_two() && align >= direct.memory_alignment()),
        Err(_) => {
            assert_eq!(align, 1);
            assert!(host.log().iter().any(|line| line.contains("through the page cache")));
        }
    }
}
