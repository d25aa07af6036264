use super::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::testing::FakeHost;

/// A base whose blocks each hold their own number.
struct Numbered(String, u64);

impl Bdev for Numbered {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "numbered";
    const OPS: OpSet = OpSet::READ;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, self.1).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        if let Op::Read(range) = io.op() {
            io.buffers().fill_from(&[u8::try_from(range.lba % 251).unwrap(); 512]);
        }
        io.complete(Status::SUCCESS);
    }
}

fn add_base(host: &FakeHost, name: &str, nblocks: u64) {
    bdev::register(host.app(), Numbered(name.into(), nblocks), "none", Value::Null).unwrap();
}

fn first_byte(host: &FakeHost, name: &str, lba: u64) -> u8 {
    let (channel, _desc) = host.open(name);
    let mut data = vec![0; 512];
    host.io(&channel, Op::Read(Range::new(lba, 1)), IoFlags::NONE, &mut data);
    data[0]
}

#[test]
fn the_parts_lie_one_after_the_other_and_the_rest_is_nobodys() {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    add_base(&host, "whole", 100);
    let params = json!({"base_bdev": "whole", "split_count": 3});
    let names = host.call("bdev_split_create", &params).unwrap();
    assert_eq!(names, json!(["wholep0", "wholep1", "wholep2"]));
    assert_eq!(host.registered("wholep2").unwrap().num_blocks, 33);
    assert_eq!(first_byte(&host, "wholep0", 5), 5);
    assert_eq!(first_byte(&host, "wholep2", 32), 98);
    let error = host.call("bdev_split_create", &params).unwrap_err();
    assert_eq!(error.message, "Failed to create 3 split bdevs from 'whole': File exists");
    assert_eq!(host.call("bdev_split_delete", &json!({"base_bdev": "whole"})).unwrap(), true);
    assert!(host.registered("wholep0").is_none());
    let error = host.call("bdev_split_delete", &json!({"base_bdev": "whole"})).unwrap_err();
    assert_eq!(error.code, INVALID_PARAMS);
}

#[test]
fn a_size_decides_how_many_parts_there_are_and_must_fit() {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    add_base(&host, "sized", 5000);
    let params = json!({"base_bdev": "sized", "split_count": 9, "split_size_mb": 1});
    let names = host.call("bdev_split_create", &params).unwrap();
    assert_eq!(names, json!(["sizedp0", "sizedp1"]));
    assert_eq!(first_byte(&host, "sizedp1", 0), u8::try_from(2048 % 251).unwrap());
    assert_eq!(host.call("bdev_split_delete", &json!({"base_bdev": "sized"})).unwrap(), true);
    let params = json!({"base_bdev": "sized", "split_count": 1, "split_size_mb": 3});
    let error = host.call("bdev_split_create", &params).unwrap_err();
    assert_eq!(error.code, INVALID_PARAMS);
}

#[test]
fn a_base_that_comes_later_is_split_then() {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    let params = json!({"base_bdev": "late", "split_count": 2});
    assert_eq!(host.call("bdev_split_create", &params).unwrap(), json!([]));
    add_base(&host, "late", 10);
    assert_eq!(first_byte(&host, "latep1", 1), 6);
    assert_eq!(host.call("bdev_split_delete", &json!({"base_bdev": "late"})).unwrap(), true);
}
