//! Tests the plugin in a fake host, with a base from this file.

use super::*;
use drivebay_sdk::bdev::register;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;

/// A base whose blocks all read as the byte 7.
struct Sevens(String);

impl Bdev for Sevens {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "sevens";
    const OPS: OpSet = OpSet::READ_WRITE;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
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
        if let Op::Read(_) = io.op() {
            io.buffers().fill_from(&[7; 512]);
        }
        io.complete(Status::SUCCESS);
    }
}

fn host() -> FakeHost {
    FakeHost::load(&bay_door::bay_plugin_v1)
}

// The tests of a library share the names of bdevs, so each test has its own names.
fn create(host: &FakeHost, name: &str, base: &str) {
    let params = json!({"name": name, "base_bdev_name": base});
    assert_eq!(host.call("bdev_{{name}}_create", &params).unwrap(), name);
}

#[test]
fn io_goes_to_the_base_and_comes_back() {
    let host = host();
    register(host.app(), Sevens("base1".into()), "none", Value::Null).unwrap();
    create(&host, "over1", "base1");
    let (channel, _desc) = host.open("over1");
    let mut data = vec![0; 512];
    let result = host.io(&channel, Op::Read(Range::new(6, 1)), IoFlags::NONE, &mut data);
    assert_eq!((result.status, data.as_slice()), (Status::SUCCESS, [7; 512].as_slice()));
}

#[test]
fn it_waits_for_its_base_and_is_deleted_by_name() {
    let host = host();
    create(&host, "over2", "base2");
    assert!(host.registered("over2").is_none());
    register(host.app(), Sevens("base2".into()), "none", Value::Null).unwrap();
    assert!(host.registered("over2").is_some());
    host.call("bdev_{{name}}_delete", &json!({"name": "over2"})).unwrap();
    assert!(host.registered("over2").is_none());
}
