use super::*;
use drivebay_sdk::bdev::register;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;

/// A base that reads as sevens, and fails I/O to its last block.
struct Sevens(String);

impl Bdev for Sevens {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "sevens";
    const OPS: OpSet = OpSet::READ;

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

fn add_base(host: &FakeHost, name: &str) {
    register(host.app(), Sevens(name.into()), "none", Value::Null).unwrap();
}

fn create(host: &FakeHost, name: &str, base: &str) {
    let params = json!({"name": name, "base_bdev_name": base});
    assert_eq!(host.call("bdev_passthru_create", &params).unwrap(), name);
}

#[test]
fn io_goes_to_the_base_and_its_end_comes_back_with_detail() {
    let host = host();
    add_base(&host, "base1");
    create(&host, "pt1", "base1");
    let registered = host.registered("pt1").unwrap();
    assert_eq!((registered.num_blocks, registered.ops_mask), (8, OpSet::READ.bits()));
    let (channel, _desc) = host.open("pt1");
    let mut data = vec![0; 512];
    let result = host.io(&channel, Op::Read(Range::new(6, 1)), IoFlags::NONE, &mut data);
    assert_eq!((result.status, data.as_slice()), (Status::SUCCESS, [7; 512].as_slice()));
    let result = host.io(&channel, Op::Read(Range::new(7, 1)), IoFlags::NONE, &mut data);
    assert_eq!((result.status, result.nvme()), (Status::MEDIA, Some(0x81 << 40 | 2 << 32)));
}

#[test]
fn it_waits_for_its_base_and_follows_it() {
    let host = host();
    create(&host, "pt2", "base2");
    assert!(host.registered("pt2").is_none());
    add_base(&host, "base2");
    assert!(host.registered("pt2").is_some());
    drivebay_sdk::bdev::find::<Sevens>("base2").unwrap().unregister(host.app(), |_, _| {});
    host.run();
    assert!(host.registered("pt2").is_none() && host.registered("base2").is_none());
    add_base(&host, "base2");
    assert!(host.registered("pt2").is_some());
}

#[test]
fn a_base_has_one_passthru() {
    let host = host();
    add_base(&host, "base3");
    create(&host, "pt3", "base3");
    let params = json!({"name": "other", "base_bdev_name": "base3"});
    assert_eq!(host.call("bdev_passthru_create", &params).unwrap_err().code, -1);
}

#[test]
fn deleting_ends_it_and_also_the_wait() {
    let host = host();
    add_base(&host, "base4");
    create(&host, "pt4", "base4");
    create(&host, "pt5", "base5");
    for name in ["pt4", "pt5"] {
        assert_eq!(host.call("bdev_passthru_delete", &json!({"name": name})).unwrap(), true);
        assert!(host.registered(name).is_none());
        let error = host.call("bdev_passthru_delete", &json!({"name": name})).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (-19, "No such device"));
    }
    add_base(&host, "base5");
    assert!(host.registered("pt5").is_none());
}
