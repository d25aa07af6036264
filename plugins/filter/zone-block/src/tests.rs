use super::*;
use drivebay_sdk::testing::FakeHost;

fn params(name: &str, capacity: u64) -> Value {
    json!({
        "name": name, "base_bdev": format!("{name}_base"),
        "zone_capacity": capacity, "optimal_open_zones": 1,
    })
}

/// A host with a base of 64 blocks, which notes the ops that it gets in its log.
fn host(name: &str) -> FakeHost {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    let ops = OpSet::READ_WRITE.with(OpSet::UNMAP).with(OpSet::FLUSH);
    host.add_disk(&format!("{name}_base"), ops, |_, io| info!("base: {:?}", io.op()));
    host
}

fn last_at_base(host: &FakeHost) -> String {
    let log = host.log();
    let line = log.iter().rev().find_map(|line| line.split("base: ").nth(1));
    line.unwrap_or_default().to_owned()
}

#[test]
fn a_bdev_is_written_by_append_and_at_the_write_pointer_only() {
    let host = host("zoned");
    assert_eq!(host.call("bdev_zone_block_create", &params("zoned", 6)).unwrap(), "zoned");
    let registered = host.registered("zoned").unwrap();
    assert_eq!((registered.zone_size, registered.num_blocks), (8, 64));
    assert_eq!(registered.optimal_open_zones, 1);

    let (channel, _desc) = host.open("zoned");
    let run = |op, data: &mut Vec<u8>| host.io(&channel, op, IoFlags::NONE, data);
    let mut block = vec![7; 512];
    assert_eq!(run(Op::Write(Range::new(8, 1)), &mut block).status, Status::INVALID);
    let reset = Op::ZoneManage { zone: Some(8), action: ZoneAction::Reset };
    assert_eq!(run(reset, &mut Vec::new()).status, Status::SUCCESS);
    assert_eq!(last_at_base(&host), format!("{:?}", Op::Unmap(Range::new(8, 6))));
    assert_eq!(run(Op::Write(Range::new(8, 1)), &mut block).status, Status::SUCCESS);
    assert_eq!(run(Op::Write(Range::new(8, 1)), &mut block).status, Status::INVALID);
    let appended = run(Op::ZoneAppend(Range::new(8, 1)), &mut block);
    assert_eq!(appended, IoResult::with_block(9));
    assert_eq!(last_at_base(&host), format!("{:?}", Op::Write(Range::new(9, 1))));
    assert_eq!(run(Op::Read(Range::new(13, 1)), &mut block).status, Status::SUCCESS);
    assert_eq!(run(Op::Read(Range::new(14, 1)), &mut block).status, Status::INVALID);

    let mut report = vec![0; 3 * 32];
    let reported = run(Op::ZoneReport { first: 48, most: 3 }, &mut report);
    assert_eq!(reported, IoResult::with_block(2), "the bdev ends after two zones");
    assert_eq!(report[..8], 48_u64.to_le_bytes());
    assert_eq!(report[32..40], 56_u64.to_le_bytes());
}

#[test]
fn a_base_that_cannot_be_divided_is_refused_with_the_code_of_spdk() {
    let host = host("refused");
    let error = host.call("bdev_zone_block_create", &params("refused", 65)).unwrap_err();
    assert_eq!(error.code, INTERNAL_ERROR);
    assert!(error.message.contains("zone_capacity"), "{}", error.message);
    assert_eq!(host.call("bdev_zone_block_create", &params("refused", 64)).unwrap(), "refused");
    let over = json!({
        "name": "over", "base_bdev": "refused", "zone_capacity": 8, "optimal_open_zones": 1,
    });
    let error = host.call("bdev_zone_block_create", &over).unwrap_err();
    assert!(error.message.contains("already zoned"), "{}", error.message);
}
