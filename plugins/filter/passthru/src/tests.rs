//! Tests the plugin in a fake host, with a base from this file.

use super::*;
use drivebay_sdk::bdev::register;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;

/// A base whose blocks read as sevens, except the last, which cannot be read.
struct Sevens(String);

impl Bdev for Sevens {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "sevens";
    const OPS: OpSet = OpSet::READ;

    fn name(&self) -> &str {
        &self.0
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        match io.op() {
            Op::Read(Range { lba: 7, .. }) => {
                io.complete_with(IoResult::with_nvme(Status::MEDIA, 0x81 << 40 | 2 << 32));
            }
            _ => {
                io.buffers().fill_from(&[7; 512]);
                io.complete(Status::SUCCESS);
            }
        }
    }
}

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

// The tests of a library share the names of bdevs, so each test has its own names.
fn add_base(host: &FakeHost, name: &str) {
    register(host.app(), Sevens(name.into()), "none", Value::Null).unwrap();
}

fn params(name: &str, base: &str) -> Value {
    json!({"name": name, "base_bdev_name": base})
}

fn create(host: &FakeHost, name: &str, base: &str) {
    assert_eq!(host.call("bdev_passthru_create", &params(name, base)).unwrap(), name);
}

#[test]
fn io_goes_to_the_base_and_comes_back() {
    let host = host();
    add_base(&host, "base1");
    create(&host, "over1", "base1");
    let registered = host.registered("over1").unwrap();
    assert_eq!((registered.num_blocks, registered.ops_mask), (8, OpSet::READ.bits()));
    let (channel, _desc) = host.open("over1");
    let mut data = vec![0; 512];
    let result = host.io(&channel, Op::Read(Range::new(6, 1)), IoFlags::NONE, &mut data);
    assert_eq!((result.status, data.as_slice()), (Status::SUCCESS, [7; 512].as_slice()));
    let result = host.io(&channel, Op::Read(Range::new(7, 1)), IoFlags::NONE, &mut data);
    assert_eq!((result.status, result.nvme()), (Status::MEDIA, Some(0x81 << 40 | 2 << 32)));
}

#[test]
fn it_waits_for_its_base_and_follows_it() {
    let host = host();
    create(&host, "over2", "base2");
    assert!(host.registered("over2").is_none());
    add_base(&host, "base2");
    assert!(host.registered("over2").is_some());
    drivebay_sdk::bdev::find::<Sevens>("base2").unwrap().unregister(host.app(), |_, _| {});
    host.run();
    assert!(host.registered("over2").is_none() && host.registered("base2").is_none());
    add_base(&host, "base2");
    assert!(host.registered("over2").is_some());
}

#[test]
fn a_base_has_one_filter() {
    let host = host();
    add_base(&host, "base3");
    create(&host, "over3", "base3");
    let error = host.call("bdev_passthru_create", &params("other", "base3")).unwrap_err();
    assert_eq!(error.code, -1);
}

#[test]
fn deleting_ends_it_and_also_the_wait() {
    let host = host();
    add_base(&host, "base4");
    create(&host, "over4", "base4");
    create(&host, "over5", "base5");
    for name in ["over4", "over5"] {
        assert_eq!(host.call("bdev_passthru_delete", &json!({"name": name})).unwrap(), true);
        assert!(host.registered(name).is_none());
        let error = host.call("bdev_passthru_delete", &json!({"name": name})).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (-19, "No such device"));
    }
    add_base(&host, "base5");
    assert!(host.registered("over5").is_none());
}
