//! raid0 and concat on the bus. The bus splits reads and writes at strips, so each part goes unchanged to one member.

use crate::arrays;
use crate::profile::Profile;
use drivebay_sdk::App;
use drivebay_sdk::bdev::{Channel, Desc};
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::{Map, Value};
use drivebay_spec_raid::Layout;
use std::sync::Arc;

/// An array that cannot lose a member.
#[derive(Debug)]
pub struct Striped {
    pub(crate) profile: Profile,
    pub(crate) layout: Layout,
    /// The open members by slot, and the first data block of each.
    pub(crate) members: Vec<(Arc<Desc>, u64)>,
}

/// One thread's channels of the members, by slot, and the first data block of each.
#[derive(Debug)]
pub struct StripedChannel {
    layout: Layout,
    bases: Vec<(Channel, u64)>,
}

impl Bdev for Striped {
    type Params = NoParams;
    type Channel = StripedChannel;
    const OPS: OpSet = OpSet::READ_WRITE;
    const PRODUCT: &'static str = "Raid Volume";
    const BURSTS: bool = true;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::new(errno::EOPNOTSUPP, "create arrays with bdev_raid_create"))
    }

    fn name(&self) -> &str {
        &self.profile.name
    }

    fn geometry(&self) -> Geometry {
        self.profile.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        self.profile.describe(registration);
    }

    fn open_channel(&self) -> Result<StripedChannel> {
        let bases = self.members.iter().map(|(desc, offset)| Ok((desc.channel()?, *offset)));
        Ok(StripedChannel { layout: self.layout.clone(), bases: bases.collect::<Result<_>>()? })
    }

    fn submit(&self, channel: &mut StripedChannel, io: BdevIo) {
        match io.op() {
            Op::Read(range) | Op::Write(range) => {
                let place = channel.layout.place(range.lba);
                match channel.bases.get(usize::from(place.member)) {
                    Some((base, offset)) => base.pass_to(io, offset + place.lba),
                    None => io.complete(Status::IO_ERROR),
                }
            }
            Op::Unmap(range) => channel.send_runs(io, range, Op::Unmap),
            Op::WriteZeroes(range) => channel.send_runs(io, range, Op::WriteZeroes),
            Op::Flush | Op::Reset => {
                let op = io.op();
                let mut fan = io.fan_out();
                channel.bases.iter().for_each(|(base, _)| fan.send(base, op, 0));
            }
            _ => io.complete(Status::NOT_SUPPORTED),
        }
    }

    fn flush(&self, channel: &mut StripedChannel) {
        channel.bases.iter().for_each(|(base, _)| base.flush());
    }

    fn driver_specific(&self) -> Map<String, Value> {
        arrays::driver_specific(&self.profile.name)
    }
}

impl StripedChannel {
    /// Sends one child to each member that holds blocks of the range. On each member, the blocks are one run.
    fn send_runs(&self, io: BdevIo, range: Range, op: fn(Range) -> Op) {
        let mut fan = io.fan_out();
        for ((base, offset), member) in self.bases.iter().zip(0_u8..) {
            let begin = self.layout.blocks_before(member, range.lba);
            let end = self.layout.blocks_before(member, range.lba + range.nblocks);
            if begin < end {
                fan.send(base, op(Range::new(offset + begin, end - begin)), 0);
            }
        }
    }
}
