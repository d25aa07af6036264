//! A SCSI host: its queues, and the requests of its units. virtio 1.3, section 5.6.
//!
//! ```text
//!  ring 0: task management, unused │ 1: events │ 2: questions about units │ 3 …: one for each channel of a unit
//! ```

pub(crate) mod admin;
pub(crate) mod units;

use std::sync::Arc;

use drivebay_scsi::initiator::{
    Transfer, Unit, Verdict, command, judge, may_be_another_unit, unmap_list,
};
use drivebay_sdk::prelude::*;
use drivebay_spec_scsi::sense::Sense;
use drivebay_spec_vhost::message::F_PROTOCOL_FEATURES;
use drivebay_spec_vhost::ring;
use drivebay_spec_vhost::scsi::{
    CDB_LEN, Config, RESPONSE_LEN, Request, Response, SENSE_LEN, feature, response,
};
use drivebay_virtio::driver::{Data, DriverQueue, DriverRequest};

use crate::agreement::{Agreement, DATA_MAX, Wanted, changed};
use crate::connection::Offer;
use crate::disk::{Ended, Properties};
use units::Standing;

/// Rings that channels do not use: task management, events, questions.
pub(crate) const FIXED: u16 = 3;
/// Most targets that the plugin looks for, as the reference does.
const TARGETS_MAX: u16 = 64;
/// Units for which there are queues when `vq_count` is absent.
const UNITS: u16 = 8;
/// Features that this driver knows.
const KNOWN: u64 = ring::feature::VERSION_1
    | ring::feature::EVENT_IDX
    | ring::feature::RING_PACKED
    | F_PROTOCOL_FEATURES
    | feature::HOTPLUG
    | feature::CHANGE;

/// The features and limits that the first session agreed on. Later sessions must support them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) agreement: Agreement,
    /// Number of targets that can exist.
    pub(crate) num_targets: u16,
}

impl Shape {
    /// Chooses features and queues from an offer.
    ///
    /// # Errors
    /// `EINVAL` when the device has fewer queues, `EIO` when the plugin cannot use the device.
    pub(crate) fn new(offer: &Offer, wanted: Wanted) -> Result<Self> {
        let config = config(offer)?;
        let all = u16::try_from(config.num_queues).unwrap_or(u16::MAX);
        // One of the request queues carries the questions.
        let queues = (FIXED, all.saturating_sub(1));
        let default = wanted.default.saturating_mul(UNITS);
        let wanted = Wanted { default, ..wanted };
        let agreement = Agreement::new(offer, KNOWN, wanted, queues, DATA_MAX)?;
        let num_targets = config.target_max.saturating_add(1).min(TARGETS_MAX);
        Ok(Self { agreement, num_targets })
    }

    /// Checks that a later session supports this shape.
    ///
    /// # Errors
    /// `EIO`; the text says what is missing.
    pub(crate) fn check(&self, offer: &Offer) -> Result<()> {
        self.agreement.check(offer)?;
        let config = config(offer)?;
        let used = u32::from(self.agreement.num_queues) + 1;
        if config.num_queues < used {
            let why = format!("it has {} request queues, and {used} are used", config.num_queues);
            return Err(changed(&why));
        }
        Ok(())
    }
}

/// The configuration space. The vhost target of SPDK does not have the protocol feature CONFIG, and such a back end has as many request
/// queues as its number of queues allows, and the lengths of virtio 1.3, section 5.6.4.
fn config(offer: &Offer) -> Result<Config> {
    let wrong = |why: &str| Error::new(errno::EIO, format!("the device {why}"));
    let [cdb_len, sense_len] =
        [CDB_LEN, SENSE_LEN].map(|len| u32::try_from(len).unwrap_or(u32::MAX));
    let Some(bytes) = &offer.config else {
        let most = u32::try_from(offer.queues_max).unwrap_or(u32::MAX);
        let num_queues = most.saturating_sub(u32::from(FIXED) - 1);
        return Ok(Config {
            num_queues,
            segments_max: 0,
            sense_len,
            cdb_len,
            target_max: TARGETS_MAX - 1,
        });
    };
    let config = Config::parse(bytes).ok_or_else(|| wrong("has a cut off configuration space"))?;
    if (config.cdb_len, config.sense_len) != (cdb_len, sense_len) {
        return Err(wrong("has unusual lengths of commands and sense data"));
    }
    Ok(config)
}

/// A unit as a disk.
///
/// # Errors
/// `EINVAL` for a size that no bdev can have.
pub(crate) fn properties(unit: &Unit) -> Result<Properties> {
    let ours = (DATA_MAX / unit.block_size).max(1);
    let mut ops = OpSet::READ.with(OpSet::FLUSH);
    if !unit.is_read_only {
        ops = ops.with(OpSet::WRITE);
    }
    if unit.unmap_max > 0 && !unit.is_read_only {
        ops = ops.with(OpSet::UNMAP);
    }
    Ok(Properties {
        product: "Virtio SCSI Disk",
        geometry: Geometry::new(unit.block_size, unit.num_blocks)?,
        phys_block_size: 0,
        has_write_cache: unit.has_write_cache,
        is_read_only: unit.is_read_only,
        ops,
        max_io_blocks: if unit.transfer_max == 0 { ours } else { unit.transfer_max.min(ours) },
        max_unmap: unit.unmap_max,
        max_write_zeroes: 0,
    })
}

/// Turns I/O into commands of a unit.
#[derive(Clone, Debug)]
pub(crate) struct Dialect {
    pub(crate) target: u8,
    pub(crate) block_size: u32,
    /// Whether the target still has the unit, so that no other unit gets its I/O.
    pub(crate) standing: Arc<Standing>,
}

impl Dialect {
    /// Puts an I/O into a queue that has room. Returns its slot.
    ///
    /// # Errors
    /// `ENODEV` when the unit is gone, `EOPNOTSUPP` for an op that the unit does not have.
    #[inline]
    pub(crate) fn submit(&self, queue: &mut DriverQueue, io: &BdevIo) -> Result<u16, Status> {
        if self.standing.is_gone() {
            return Err(Status::errno(errno::ENODEV));
        }
        let op = io.op();
        let (cdb, transfer) = command(op, self.block_size).ok_or(Status::NOT_SUPPORTED)?;
        let list;
        let data = match (transfer, op) {
            (Transfer::None, _) => Data::None,
            (Transfer::In(len), _) => Data::In(len),
            (Transfer::Out(_), Op::Unmap(range)) => {
                list = unmap_list(range).ok_or(Status::NOT_SUPPORTED)?;
                Data::Bytes(&list)
            }
            (Transfer::Out(_), _) => Data::Out(io.buffers()),
        };
        let header = Request::to_bytes(self.target, 0, &cdb);
        queue.submit(&ask(&header, data)).ok_or(Status::NO_RESOURCE)
    }

    /// Reads the result of a request that the device gave back. Copies its data into the I/O.
    #[inline]
    pub(crate) fn finish(&self, queue: &DriverQueue, slot: u16, io: &BdevIo) -> Ended {
        let mut bytes = [0; RESPONSE_LEN];
        queue.answer(slot, &mut bytes);
        let fail = |status| Ended::Done(IoResult::new(status));
        let Some(answer) = Response::parse(&bytes) else { return fail(Status::IO_ERROR) };
        match answer.response {
            response::OK => {}
            response::BAD_TARGET | response::INCORRECT_LUN => {
                return fail(Status::errno(errno::ENODEV));
            }
            _ => return fail(Status::IO_ERROR),
        }
        let sense = Sense::parse(answer.sense);
        match judge(answer.status, sense, answer.residual == 0) {
            Verdict::End(result) => {
                if result.status.is_success() && matches!(io.op(), Op::Read(_)) {
                    queue.fill(slot, io.buffers());
                }
                Ended::Done(result)
            }
            // Events report another size.
            Verdict::Again { .. } => {
                let is_doubtful = may_be_another_unit(sense);
                if is_doubtful {
                    self.standing.doubt();
                }
                Ended::Again { is_doubtful }
            }
            Verdict::Later => fail(Status::NO_RESOURCE),
        }
    }
}

/// A request: its header, and its data behind the response.
fn ask<'a>(header: &'a [u8], data: Data<'a>) -> DriverRequest<'a> {
    let answer_len = u32::try_from(RESPONSE_LEN).unwrap_or(0);
    DriverRequest { header, data, answer_len, answer_first: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_end_without_a_configuration_space_has_its_queues_and_the_standards_lengths() {
        let features = ring::feature::VERSION_1 | F_PROTOCOL_FEATURES;
        let wanted = Wanted { count: Some(4), default: 1, size: 128 };
        let offer = Offer { features, queues_max: 8, config: None };
        let shape = Shape::new(&offer, wanted).unwrap();
        assert_eq!((shape.agreement.num_queues, shape.num_targets), (4, TARGETS_MAX));
        let few = Offer { queues_max: 3, ..offer };
        assert!(shape.check(&few).is_err());
        assert!(Shape::new(&few, wanted).is_err());
    }
}
