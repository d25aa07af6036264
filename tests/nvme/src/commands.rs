//! The NVM command set over the wire. NVM Command Set 1.0, section 3.2.

use crate::target::{BLOCK, BLOCK_LEN, BLOCKS, NQN, Target, pattern};
use drivebay_nvme_driver::spec::{Status, nvm, opcode};
use drivebay_nvme_driver::{Data, Error, Namespace, Queue, Request};
use serde_json::json;

fn run(queue: &mut Queue, request: Request) -> Result<Vec<u8>, Error> {
    queue.run(request).unwrap().ok()
}

fn status(result: Result<Vec<u8>, Error>) -> Status {
    match result {
        Ok(_) => Status::SUCCESS,
        Err(Error::Status { status, .. }) => status,
        Err(error) => panic!("{error}"),
    }
}

fn read(queue: &mut Queue, namespace: &Namespace, slba: u64, blocks: u32) -> Vec<u8> {
    run(queue, namespace.read(slba, blocks).unwrap()).unwrap()
}

#[test]
fn forced_writes_and_flushes_succeed_in_and_out_of_the_capsule() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    for blocks in [1, 8, 9, 256] {
        let data = pattern(10, 1, blocks);
        run(&mut queue, namespace.write_fua(10, data.clone()).unwrap()).unwrap();
        run(&mut queue, namespace.flush()).unwrap();
        let blocks = u32::try_from(blocks).unwrap();
        assert!(read(&mut queue, &namespace, 10, blocks) == data);
    }
}

#[test]
fn compare_tells_equal_from_unequal_to_the_last_byte() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    for blocks in [1, 8, 64, 256] {
        let data = pattern(10, 1, blocks);
        run(&mut queue, namespace.write(10, data.clone()).unwrap()).unwrap();
        let equal = run(&mut queue, namespace.compare(10, data.clone()).unwrap());
        assert_eq!(status(equal), Status::SUCCESS);
        for at in [0, data.len() / 2, data.len() - 1] {
            let mut other = data.clone();
            other[at] ^= 1;
            let unequal = run(&mut queue, namespace.compare(10, other).unwrap());
            assert_eq!(status(unequal), Status::COMPARE_FAILURE.with_dnr(), "byte {at}");
        }
    }
}

#[test]
fn zeroes_are_written_where_they_are_to_be_and_nowhere_else() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    for deallocate in [false, true] {
        run(&mut queue, namespace.write(0, pattern(0, 1, 64)).unwrap()).unwrap();
        run(&mut queue, namespace.write_zeroes(5, 20, deallocate).unwrap()).unwrap();
        let mut expected = pattern(0, 1, 64);
        expected[5 * BLOCK..25 * BLOCK].fill(0);
        assert!(read(&mut queue, &namespace, 0, 64) == expected);
    }
    // The command transfers no data, so MDTS does not limit it.
    run(&mut queue, namespace.write_zeroes(0, u32::try_from(BLOCKS).unwrap(), false).unwrap())
        .unwrap();
    let beyond = namespace.write_zeroes(BLOCKS - 1, 2, false).unwrap();
    assert_eq!(status(run(&mut queue, beyond)), Status::LBA_OUT_OF_RANGE.with_dnr());
}

#[test]
fn every_range_of_a_deallocation_is_done_or_none() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    let data = pattern(0, 1, 256);
    run(&mut queue, namespace.write(0, data.clone()).unwrap()).unwrap();
    let past_the_end = [(0, 8), (BLOCKS - 1, 2)];
    let refused = run(&mut queue, namespace.deallocate(&past_the_end).unwrap());
    assert_eq!(status(refused), Status::LBA_OUT_OF_RANGE.with_dnr());
    assert!(read(&mut queue, &namespace, 0, 256) == data, "a refused range was deallocated");

    let ranges: Vec<(u64, u32)> = (0..256).map(|i| (i, u32::from(i % 2 == 0))).collect();
    run(&mut queue, namespace.deallocate(&ranges).unwrap()).unwrap();
    let mut expected = data;
    for block in (0..256).step_by(2) {
        expected[block * BLOCK..(block + 1) * BLOCK].fill(0);
    }
    assert!(read(&mut queue, &namespace, 0, 256) == expected);
}

#[test]
fn deallocation_gives_memory_back_and_takes_none_for_what_was_never_written() {
    const DISK_BLOCKS: u32 = (256 << 20) / BLOCK_LEN;
    const WRITTEN_KIB: u64 = 64 << 10;
    let target = Target::start();
    let disk = json!({"name": "large", "num_blocks": DISK_BLOCKS, "block_size": BLOCK});
    target.call("bdev_malloc_create", disk);
    let nsid = target.add_namespace(NQN, "large");
    let (mut controller, mut queue, _) = target.connect_io();
    let large = controller.namespace(nsid).unwrap();
    let whole = [(0, DISK_BLOCKS)];
    // Write once before the measurement, because the first write allocates buffers.
    run(&mut queue, large.write(0, pattern(0, 1, 256)).unwrap()).unwrap();

    let begin_kib = target.footprint().resident_kib;
    run(&mut queue, large.deallocate(&whole).unwrap()).unwrap();
    let grown_kib = target.footprint().resident_kib.saturating_sub(begin_kib);
    assert!(grown_kib < WRITTEN_KIB / 4, "{grown_kib} KiB for a disk that was never written");

    for piece in 0..WRITTEN_KIB / 128 {
        run(&mut queue, large.write(piece * 256, pattern(piece, 1, 256)).unwrap()).unwrap();
    }
    let full_kib = target.footprint().resident_kib;
    assert!(full_kib > begin_kib + WRITTEN_KIB / 2, "{full_kib} KiB after {begin_kib} KiB");
    run(&mut queue, large.deallocate(&whole).unwrap()).unwrap();
    let left_kib = target.footprint().resident_kib;
    assert!(left_kib + WRITTEN_KIB / 2 < full_kib, "{left_kib} KiB are left of {full_kib} KiB");
    let pollers = target.call("thread_get_pollers", json!({})).to_string();
    assert!(!pollers.contains("malloc_zeroing"), "the idle poller runs");
    assert!(read(&mut queue, &large, 0, 64).iter().all(|byte| *byte == 0));
}

#[test]
fn data_behind_the_ranges_of_a_deallocation_is_not_looked_at() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    let data = pattern(0, 1, 4);
    run(&mut queue, namespace.write(0, data.clone()).unwrap()).unwrap();
    // Linux always sends a whole page. The bytes behind the ranges could be read as a range, too.
    let mut request = namespace.deallocate(&[(0, 1), (2, 1)]).unwrap();
    request.command.dw[10] = 0;
    let Data::Out(page) = &mut request.data else { panic!("a deallocation must have data") };
    page.resize(4096, 0xff);
    run(&mut queue, request).unwrap();
    let rest = read(&mut queue, &namespace, 0, 4);
    assert!(rest[..BLOCK].iter().all(|byte| *byte == 0) && rest[BLOCK..] == data[BLOCK..]);
}

#[test]
fn a_deallocation_whose_data_is_too_short_is_refused() {
    let target = Target::start();
    let (_controller, mut queue, namespace) = target.connect_io();
    let mut request = namespace.deallocate(&[(0, 1), (2, 1)]).unwrap();
    request.data = Data::Out(vec![0; 16]);
    let refused = run(&mut queue, request);
    assert_eq!(status(refused), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
}

#[test]
fn a_thin_volume_gives_back_the_clusters_that_a_deallocation_covers_whatever_their_size() {
    let target = Target::start();
    for mib in [1, 4, 6, 16] {
        let (base, store) = (format!("base{mib}"), format!("store{mib}"));
        let blocks = (mib << 20) / u64::from(BLOCK_LEN);
        let disk = json!({"name": base, "num_blocks": 7 * blocks, "block_size": BLOCK});
        target.call("bdev_malloc_create", disk);
        let new = json!({"bdev_name": base, "lvs_name": store, "cluster_sz": mib << 20});
        target.call("bdev_lvol_create_lvstore", new);
        let volume = json!({
            "lvs_name": store, "lvol_name": "v", "size_in_mib": 5 * mib, "thin_provision": true
        });
        target.call("bdev_lvol_create", volume);
        let allocated = || {
            let volumes = target.call("bdev_lvol_get_lvols", json!({"lvs_name": store}));
            volumes[0]["num_allocated_clusters"].as_u64().unwrap()
        };
        let nsid = target.add_namespace(NQN, &format!("{store}/v"));
        let (mut controller, mut queue, _) = target.connect_io();
        let namespace = controller.namespace(nsid).unwrap();
        let ends: Vec<u64> = (0..5).flat_map(|i| [i * blocks, (i + 1) * blocks - 1]).collect();
        for &lba in &ends {
            run(&mut queue, namespace.write(lba, pattern(lba, 1, 1)).unwrap()).unwrap();
        }
        assert_eq!(allocated(), 5, "{mib} MiB");
        let mut kept = || -> Vec<bool> {
            ends.iter()
                .map(|&lba| read(&mut queue, &namespace, lba, 1) == pattern(lba, 1, 1))
                .collect()
        };
        assert_eq!(kept(), [true; 10]);

        // From the middle of cluster 0 to the middle of cluster 3, then cluster 4 without its last
        // block.
        let length = u32::try_from(blocks).unwrap();
        let ranges = [(blocks / 2, 3 * length), (4 * blocks, length - 1)];
        let mut other = controller.io_queue(2, 8).unwrap();
        run(&mut other, namespace.deallocate(&ranges).unwrap()).unwrap();
        assert_eq!(allocated(), 3, "{mib} MiB");
        let mut expected = [true, false, false, false, false, false, false, true, false, true];
        assert_eq!(kept(), expected, "{mib} MiB");

        // Two halves of cluster 0 in one command.
        let halves = [(blocks / 2, length / 2), (0, length / 2)];
        run(&mut other, namespace.deallocate(&halves).unwrap()).unwrap();
        assert_eq!(allocated(), 2, "{mib} MiB");
        expected[0] = false;
        assert_eq!(kept(), expected, "{mib} MiB");
    }
}

#[test]
fn what_was_read_and_written_is_counted_by_the_health_log() {
    use drivebay_nvme_driver::spec::log::{Health, lid};
    let target = Target::start();
    let (mut controller, mut queue, namespace) = target.connect_io();
    for _ in 0..10 {
        run(&mut queue, namespace.write(0, vec![1; 200 * BLOCK]).unwrap()).unwrap();
    }
    for _ in 0..25 {
        read(&mut queue, &namespace, 0, 100);
    }
    let page = controller.log_page(lid::HEALTH, 0, 512).unwrap();
    let health = Health::parse(page.first_chunk().unwrap());
    assert_eq!((health.host_write_commands, health.host_read_commands), (10, 25));
    // The unit is thousands of 512 bytes, rounded up.
    assert_eq!((health.data_units_written, health.data_units_read), (2, 3));
}

#[test]
fn a_namespace_of_large_blocks_is_served_by_its_blocks() {
    let target = Target::start();
    let disk = json!({"name": "big", "num_blocks": 1024, "block_size": 4096});
    target.call("bdev_malloc_create", disk);
    let nsid = target.add_namespace(NQN, "big");
    let (mut controller, mut queue, _) = target.connect_io();
    let namespace = controller.namespace(nsid).unwrap();
    assert_eq!((namespace.block_size, namespace.num_blocks), (4096, 1024));
    let data = pattern(1, 1, 4 * 8);
    run(&mut queue, namespace.write(1020, data.clone()).unwrap()).unwrap();
    assert!(read(&mut queue, &namespace, 1020, 4) == data);
    let half = nvm::BlockCommand { nsid, slba: 0, nlb: 0, ..Default::default() };
    let request = Request::new("Read", half.to_command(opcode::nvm::READ));
    let refused = run(&mut queue, request.with_data(Data::In(512)));
    assert_eq!(status(refused), Status::DATA_SGL_LENGTH_INVALID.with_dnr());
}
