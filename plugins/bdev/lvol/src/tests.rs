//! Stores and volumes through the methods, on a fake host.

mod content;

use super::*;
use drivebay_sdk::bdev::{Channel, Desc, IoFlags, Range, register};
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use std::sync::{Arc, Mutex};

const MIB: u64 = 1 << 20;

/// A RAM disk full of garbage.
#[derive(Clone)]
struct Ram {
    name: String,
    data: Arc<Mutex<Vec<u8>>>,
}

impl Bdev for Ram {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "ram";
    const OPS: OpSet =
        OpSet::READ_WRITE.with(OpSet::FLUSH).with(OpSet::UNMAP).with(OpSet::WRITE_ZEROES);

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, self.data.lock().unwrap().len() as u64 / 512).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        let mut data = self.data.lock().unwrap();
        let bytes = |range: Range| {
            let start = usize::try_from(range.lba).unwrap() * 512;
            start..start + usize::try_from(range.nblocks).unwrap() * 512
        };
        match io.op() {
            Op::Read(range) => _ = io.buffers().fill_from(&data[bytes(range)]),
            Op::Write(range) => _ = io.buffers().copy_to(&mut data[bytes(range)]),
            Op::Unmap(range) => data[bytes(range)].fill(0x5a),
            Op::WriteZeroes(range) => data[bytes(range)].fill(0),
            _ => {}
        }
        drop(data);
        io.complete(Status::SUCCESS);
    }
}

struct Setup {
    host: FakeHost,
    ram: Ram,
}

/// A host with a RAM disk `name` of 32 MiB.
fn setup(name: &str) -> Setup {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    let data = Arc::new(Mutex::new(vec![0xa5; 32 << 20]));
    let ram = Ram { name: name.into(), data };
    register(host.app(), ram.clone(), "none", Value::Null).unwrap();
    Setup { host, ram }
}

impl Setup {
    fn call(&self, method: &str, params: Value) -> Value {
        self.host.call(method, &params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    fn create_store(&self, name: &str) -> String {
        let params = json!({"bdev_name": self.ram.name, "lvs_name": name, "cluster_sz": MIB});
        self.call("bdev_lvol_create_lvstore", params).as_str().unwrap().to_owned()
    }

    fn create(&self, store: &str, name: &str, size_in_mib: u64, thin: bool) -> String {
        let params = json!({"lvs_name": store, "lvol_name": name, "size_in_mib": size_in_mib,
            "thin_provision": thin});
        self.call("bdev_lvol_create", params).as_str().unwrap().to_owned()
    }

    fn volume(&self, name: &str) -> Value {
        let all = self.call("bdev_lvol_get_lvols", json!({}));
        let found = all.as_array().unwrap().iter().find(|volume| volume["name"] == name);
        found.unwrap_or_else(|| panic!("no volume {name} in {all}")).clone()
    }

    fn open(&self, uuid: &str) -> Opened<'_> {
        let (channel, desc) = self.host.open(uuid);
        Opened { host: &self.host, channel, desc }
    }
}

struct Opened<'a> {
    host: &'a FakeHost,
    channel: Channel,
    desc: Desc,
}

impl Opened<'_> {
    fn read(&self, lba: u64) -> u8 {
        let mut data = vec![1; 512];
        let read = Op::Read(Range::new(lba, 1));
        let result = self.host.io(&self.channel, read, IoFlags::NONE, &mut data);
        assert_eq!(result.status, Status::SUCCESS);
        assert!(data.iter().all(|byte| *byte == data[0]), "block {lba} is mixed");
        data[0]
    }

    fn write(&self, lba: u64, byte: u8) -> Status {
        let write = Op::Write(Range::new(lba, 1));
        self.host.io(&self.channel, write, IoFlags::NONE, &mut vec![byte; 512]).status
    }
}

const CLUSTER: u64 = MIB / 512;

impl Opened<'_> {
    fn without_data(&self, op: Op) -> Status {
        self.host.io(&self.channel, op, IoFlags::NONE, &mut Vec::new()).status
    }
}

#[test]
fn an_unmap_gives_back_the_clusters_that_it_covers_and_no_other() {
    let setup = setup("lv7");
    setup.create_store("s7");
    let uuid = setup.create("s7", "v", 8, true);
    let volume = setup.open(&uuid);
    for index in 0..5 {
        assert_eq!(volume.write(index * CLUSTER, 7), Status::SUCCESS);
    }
    let middle = Range::new(CLUSTER / 2, 3 * CLUSTER);
    assert_eq!(volume.without_data(Op::Unmap(middle)), Status::SUCCESS);
    assert_eq!(setup.volume("v")["num_allocated_clusters"], 3);
    let firsts = [0, 1, 2, 3, 4].map(|index| volume.read(index * CLUSTER));
    assert_eq!(firsts, [7, 0, 0, 0x5a, 7]);
    assert_eq!(volume.write(CLUSTER + 1, 8), Status::SUCCESS);
    assert_eq!((volume.read(CLUSTER), volume.read(CLUSTER + 1)), (0, 8));
}

#[test]
fn an_unmap_in_a_clone_does_not_show_what_the_snapshot_has() {
    let setup = setup("lv8");
    setup.create_store("s8");
    let uuid = setup.create("s8", "v", 4, true);
    let volume = setup.open(&uuid);
    assert_eq!(volume.write(0, 7), Status::SUCCESS);
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": uuid, "snapshot_name": "snap"}));
    assert_eq!((volume.write(0, 8), volume.write(CLUSTER, 9)), (Status::SUCCESS, Status::SUCCESS));
    assert_eq!(volume.without_data(Op::Unmap(Range::new(0, 4 * CLUSTER))), Status::SUCCESS);
    assert_eq!((volume.read(0), volume.read(CLUSTER)), (0x5a, 0));
    assert_eq!(setup.volume("v")["num_allocated_clusters"], 1);
}

#[test]
fn zeroes_over_several_clusters_stay_in_their_volume() {
    let setup = setup("lv9");
    setup.create_store("s9");
    let volumes = ["a", "b"].map(|name| setup.create("s9", name, 4, true));
    let [a, b] = volumes.each_ref().map(|uuid| setup.open(uuid));
    for index in 0..3 {
        assert_eq!(a.write(index * CLUSTER, 1), Status::SUCCESS);
        assert_eq!(b.write(index * CLUSTER, 2), Status::SUCCESS);
    }
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": "s9/a", "snapshot_name": "snap"}));
    assert_eq!(a.write(CLUSTER, 3), Status::SUCCESS);
    assert_eq!(a.without_data(Op::WriteZeroes(Range::new(0, 3 * CLUSTER))), Status::SUCCESS);
    assert_eq!([0, 1, 2].map(|index| a.read(index * CLUSTER)), [0, 0, 0]);
    assert_eq!([0, 1, 2].map(|index| b.read(index * CLUSTER)), [2, 2, 2]);
    assert_eq!(setup.volume("a")["num_allocated_clusters"], 3);
    assert_eq!(setup.volume("b")["num_allocated_clusters"], 3);
}

#[test]
fn what_is_given_back_can_be_used_by_another_volume() {
    let setup = setup("lv10");
    setup.create_store("s10");
    let free =
        || setup.call("bdev_lvol_get_lvstores", json!({}))[0]["free_clusters"].as_u64().unwrap();
    let all = free();
    let uuid = setup.create("s10", "v", all, true);
    let volume = setup.open(&uuid);
    for index in 0..all {
        assert_eq!(volume.write(index * CLUSTER, 7), Status::SUCCESS);
    }
    let other = setup.create("s10", "w", 2, true);
    let other = setup.open(&other);
    assert_eq!(other.write(0, 8), Status::errno(28));
    assert_eq!(volume.without_data(Op::Unmap(Range::new(CLUSTER, CLUSTER))), Status::SUCCESS);
    assert_eq!(other.write(0, 8), Status::SUCCESS);
    assert_eq!((other.read(0), volume.read(CLUSTER), free()), (8, 0, 0));
}

#[test]
fn a_thin_volume_reads_zeros_until_it_is_written_and_beside_what_was_written() {
    let setup = setup("lv1");
    setup.create_store("s1");
    let uuid = setup.create("s1", "v", 8, true);
    assert_eq!(setup.volume("v")["num_allocated_clusters"], 0);
    let volume = setup.open(&uuid);
    assert_eq!((volume.read(0), volume.read(16_383)), (0, 0));
    assert_eq!(volume.write(100, 7), Status::SUCCESS);
    assert_eq!((volume.read(99), volume.read(100), volume.read(101)), (0, 7, 0));
    assert_eq!(setup.volume("v")["num_allocated_clusters"], 1);
}

#[test]
fn a_snapshot_keeps_what_its_volume_overwrites_and_a_clone_goes_its_own_way() {
    let setup = setup("lv2");
    setup.create_store("s2");
    let uuid = setup.create("s2", "v", 4, true);
    let volume = setup.open(&uuid);
    assert_eq!(volume.write(1, 7), Status::SUCCESS);
    let params = json!({"lvol_name": "s2/v", "snapshot_name": "snap"});
    let snapshot = setup.call("bdev_lvol_snapshot", params);
    assert_eq!(volume.write(1, 8), Status::SUCCESS);
    let params = json!({"snapshot_name": snapshot, "clone_name": "clone"});
    let clone = setup.call("bdev_lvol_clone", params);
    let clone = setup.open(clone.as_str().unwrap());
    assert_eq!((volume.read(1), clone.read(1)), (8, 7));
    assert_eq!(clone.write(2, 9), Status::SUCCESS);
    assert_eq!((clone.read(1), clone.read(2), volume.read(2)), (7, 9, 0));
    assert_eq!(setup.volume("snap")["is_snapshot"], true);
    assert_eq!(setup.volume("clone")["is_clone"], true);
    let error = setup.host.call("bdev_lvol_delete", &json!({"name": "s2/snap"})).unwrap_err();
    assert_eq!(error.code, -32603);
    assert!(error.message.starts_with("Operation not permitted"), "{}", error.message);
}

#[test]
fn a_full_store_answers_enospc_and_serves_what_is_there() {
    let setup = setup("lv3");
    setup.create_store("s3");
    let free = setup.call("bdev_lvol_get_lvstores", json!({"lvs_name": "s3"}))[0]["free_clusters"]
        .as_u64()
        .unwrap();
    let thin = setup.create("s3", "thin", 8, true);
    setup.create("s3", "thick", free - 1, false);
    let volume = setup.open(&thin);
    assert_eq!(volume.write(0, 7), Status::SUCCESS);
    assert_eq!(volume.write(4096, 8), Status::errno(28));
    assert_eq!((volume.read(0), volume.read(4096)), (7, 0));
    assert_eq!(volume.write(1, 9), Status::SUCCESS);
}

#[test]
fn a_thin_volume_reports_the_free_clusters_of_its_store_and_a_thick_one_does_not() {
    let setup = setup("lv11");
    setup.create_store("s11");
    let free = || setup.call("bdev_lvol_get_lvstores", json!({}))[0]["free_clusters"].as_u64();
    let (thin, thick) = (setup.create("s11", "v", 8, true), setup.create("s11", "w", 2, false));
    let volume = setup.open(&thin);
    let reported = || volume.desc.info().unwrap().space().map(|space| space.free / CLUSTER);
    assert_eq!(reported(), free());
    assert_eq!(volume.write(0, 7), Status::SUCCESS);
    assert_eq!(reported(), free());
    setup.call("bdev_lvol_delete", json!({"name": thick}));
    assert_eq!(reported(), free());
    let thick = setup.create("s11", "w", 2, false);
    assert_eq!(setup.open(&thick).desc.info().unwrap().space(), None);
    assert_eq!(reported(), free());
}

#[test]
fn volumes_come_back_when_the_disk_does() {
    let setup = setup("lv4");
    let store = setup.create_store("s4");
    let uuid = setup.create("s4", "v", 4, true);
    {
        let volume = setup.open(&uuid);
        assert_eq!(volume.write(5, 7), Status::SUCCESS);
    }
    drivebay_sdk::bdev::find::<Ram>("lv4").unwrap().unregister(setup.host.app(), |_, _| {});
    for _ in 0..20 {
        setup.host.run();
    }
    assert!(setup.host.registered(&uuid).is_none() && setup.host.registered("lv4").is_none());
    assert_eq!(setup.call("bdev_lvol_get_lvstores", json!({})), json!([]));
    register(setup.host.app(), setup.ram.clone(), "none", Value::Null).unwrap();
    for _ in 0..20 {
        setup.host.run();
    }
    let stores = setup.call("bdev_lvol_get_lvstores", json!({}));
    assert_eq!((&stores[0]["uuid"], &stores[0]["name"]), (&json!(store), &json!("s4")));
    assert_eq!(setup.open(&uuid).read(5), 7);
}

#[test]
fn methods_refuse_as_the_reference_does() {
    let setup = setup("lv5");
    setup.create_store("s5");
    setup.create("s5", "v", 4, true);
    for (method, params, code) in [
        ("bdev_lvol_create", json!({"lvs_name": "no", "lvol_name": "x", "size_in_mib": 1}), -19),
        ("bdev_lvol_create", json!({"lvol_name": "x", "size_in_mib": 1}), -22),
        ("bdev_lvol_create", json!({"lvs_name": "s5", "lvol_name": "v", "size_in_mib": 1}), -17),
        (
            "bdev_lvol_create",
            json!({"lvs_name": "s5", "lvol_name": "x", "size_in_mib": 99}),
            -32602,
        ),
        ("bdev_lvol_delete", json!({"name": "s5/no"}), -19),
        ("bdev_lvol_resize", json!({"name": "no", "size_in_mib": 1}), -19),
        ("bdev_lvol_decouple_parent", json!({"name": "s5/v"}), -32602),
        ("bdev_lvol_clone", json!({"snapshot_name": "s5/v", "clone_name": "c"}), -32602),
        ("bdev_lvol_create_lvstore", json!({"bdev_name": "no", "lvs_name": "x"}), -19),
        ("bdev_lvol_check_shallow_copy", json!({"operation_id": 9}), -19),
    ] {
        let error = setup.host.call(method, &params).unwrap_err();
        assert_eq!(error.code, code, "{method} {params}: {error:?}");
    }
}

#[test]
fn a_volume_is_resized_inflated_renamed_and_deleted() {
    let setup = setup("lv6");
    setup.create_store("s6");
    let uuid = setup.create("s6", "v", 4, true);
    let volume = setup.open(&uuid);
    assert_eq!(volume.write(0, 7), Status::SUCCESS);
    assert_eq!(setup.call("bdev_lvol_resize", json!({"name": uuid, "size_in_mib": 6})), true);
    let num_blocks = drivebay_sdk::bdev::open(setup.host.app(), &uuid, false, |_, _| {})
        .unwrap()
        .info()
        .unwrap()
        .num_blocks();
    assert_eq!(num_blocks, 6 * MIB / 512);
    setup.call("bdev_lvol_snapshot", json!({"lvol_name": uuid, "snapshot_name": "snap"}));
    assert_eq!(setup.call("bdev_lvol_inflate", json!({"name": uuid})), true);
    assert_eq!(setup.volume("v")["num_allocated_clusters"], 6);
    assert_eq!(setup.volume("v")["is_thin_provisioned"], false);
    assert_eq!((volume.read(0), volume.read(12_000)), (7, 0));
    drop(volume);
    assert_eq!(setup.call("bdev_lvol_rename", json!({"old_name": uuid, "new_name": "w"})), true);
    for name in ["s6/w", "s6/snap"] {
        assert_eq!(setup.call("bdev_lvol_delete", json!({"name": name})), true);
    }
    assert_eq!(setup.call("bdev_lvol_get_lvols", json!({})), json!([]));
    assert_eq!(setup.call("bdev_lvol_delete_lvstore", json!({"lvs_name": "s6"})), true);
    assert_eq!(setup.call("bdev_lvol_get_lvstores", json!({})), json!([]));
}

#[test]
fn a_copy_of_a_disk_with_a_store_is_refused_and_the_store_serves_on() {
    let setup = setup("lv11");
    setup.create_store("s11");
    let uuid = setup.create("s11", "v", 4, true);
    let volume = setup.open(&uuid);
    assert_eq!(volume.write(0, 7), Status::SUCCESS);
    let before = setup.ram.data.lock().unwrap().clone();
    let other = Ram { name: "lv11b".into(), data: Arc::new(Mutex::new(before.clone())) };
    register(setup.host.app(), other.clone(), "none", Value::Null).unwrap();
    for _ in 0..20 {
        setup.host.run();
    }
    let stores = setup.call("bdev_lvol_get_lvstores", json!({}));
    assert_eq!((stores.as_array().unwrap().len(), &stores[0]["base_bdev"]), (1, &json!("lv11")));
    assert_eq!(volume.read(0), 7);
    assert!(*other.data.lock().unwrap() == before, "the copy was written");
}

#[test]
fn a_volume_that_cannot_get_on_the_bus_is_logged_once() {
    let setup = setup("lv26");
    let store = setup.create_store("s26");
    let uuid = setup.create("s26", "v", 4, true);
    let add = |ram: Ram| {
        register(setup.host.app(), ram, "none", Value::Null).unwrap();
        // The answer comes only after the examination.
        setup.call("bdev_lvol_get_lvstores", json!({}))
    };
    let other =
        |name: &str| Ram { name: name.into(), data: Arc::new(Mutex::new(vec![0; 1 << 20])) };
    bdev::find::<Ram>("lv26").unwrap().unregister(setup.host.app(), |_, _| {});
    setup.host.wait(|| setup.host.registered("lv26").is_none().then_some(()));
    // While the volume is absent, another bdev takes its name.
    add(other(&uuid));
    assert_eq!(add(setup.ram.clone()).as_array().unwrap().len(), 1);
    add(other("lv26b"));
    add(other("lv26c"));
    let about = format!("of store {store}: ");
    let lines: Vec<String> = setup.host.log().into_iter().filter(|l| l.contains(&about)).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
}
