//! Tests the plugin in a fake host, with a disk from this file.

use super::*;
use drivebay_sdk::bdev::register;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Value, json};
use drivebay_sdk::testing::FakeHost;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A disk whose blocks all read as the byte 7.
struct Sevens;

impl Bdev for Sevens {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "sevens";
    const OPS: OpSet = OpSet::READ_WRITE;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        "sevens"
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        io.buffers().fill_from(&[7; 1024]);
        io.complete(Status::SUCCESS);
    }
}

fn request(op: u32, tag: u32, lba: u64, blocks: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(op.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(lba.to_le_bytes());
    bytes.extend(blocks.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn a_read_is_answered_and_the_socket_goes_with_the_export() {
    let path = std::env::temp_dir().join(format!("{{name}}-{}.sock", std::process::id()));
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    register(host.app(), Sevens, "none", Value::Null).unwrap();
    let params = json!({"bdev_name": "sevens", "path": path});
    assert_eq!(host.call("{{name}}_export", &params).unwrap(), true);

    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    client.write_all(&request(1, 42, 3, 2)).unwrap();
    let mut answer = Vec::new();
    host.wait(|| {
        let mut bytes = [0; 2048];
        let len = (&client).read(&mut bytes).unwrap_or(0);
        (len > 0).then(|| bytes[..len].to_vec())
    })
    .clone_into(&mut answer);
    let wanted = [&42_u32.to_le_bytes()[..], &[0; 4], &[7; 1024]].concat();
    assert_eq!(answer, wanted);

    host.call("{{name}}_unexport", &json!({"path": path})).unwrap();
    assert!(!path.exists());
}

#[test]
fn what_is_no_request_is_malformed_and_a_part_of_one_is_none_yet() {
    let whole = [request(2, 1, 0, 1), vec![5; 512], vec![9]].concat();
    for len in 0..24 + 512 {
        assert_eq!(wire::first(&whole[..len], 512), Ok(None), "{len}");
    }
    let (first, rest) = wire::first(&whole, 512).unwrap().unwrap();
    assert_eq!((first.data.len(), rest), (512, [9].as_slice()));
    for wrong in [request(9, 1, 0, 1), request(1, 1, 0, u32::MAX), request(2, 1, 0, 257)] {
        assert_eq!(wire::first(&wrong, 512), Err(wire::Malformed));
    }
}
