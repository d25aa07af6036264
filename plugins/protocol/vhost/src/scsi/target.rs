//! A target on a device's thread: its SCSI device with one unit, and the bdev's channel.

use drivebay_scsi::{Device, Disk, Identity, NexusId, Port};
use drivebay_sdk::Result;
use drivebay_sdk::bdev::{Channel, Desc};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// A bdev that becomes a target.
#[derive(Clone, Debug)]
pub struct TargetDisk {
    /// Number of the target.
    pub number: u8,
    /// The bdev as a SCSI disk.
    pub disk: Disk,
    /// The open bdev.
    pub desc: Arc<Desc>,
}

/// A target.
pub(super) struct Target {
    pub(super) number: u8,
    pub(super) device: RefCell<Device>,
    pub(super) nexus: NexusId,
    /// Whether the bdev keeps no data, so that a read leaves its memory unchanged.
    pub(super) keeps_no_data: bool,
    /// Commands in flight.
    pub(super) num_commands: Cell<u32>,
    /// Set while the target is being removed and takes no more commands. It is called when the last command has ended.
    pub(super) leaving: RefCell<Option<Box<dyn FnOnce() + Send>>>,
    // Fields drop in this order, so the channel closes before its descriptor.
    pub(super) channel: Channel,
    _desc: Arc<Desc>,
}

impl Target {
    /// Opens the bdev on this thread.
    pub(super) fn open(target: TargetDisk) -> Result<Self> {
        let TargetDisk { number, disk, desc } = target;
        let channel = desc.channel()?;
        let keeps_no_data = desc.info()?.keeps_no_data();
        let mut device = Device::new(format!("Target {number}"));
        device.set_ports(vec![Port { relative: 0, name: "vhost".into() }]);
        device.add_unit(0, disk);
        // Each session has its own device, so a reservation would not bind the other virtual machines.
        device.refuse_reservations();
        let nexus = device.attach(Identity { transport_id: Vec::new(), port: 0 });
        Ok(Self {
            number,
            device: RefCell::new(device),
            nexus,
            keeps_no_data,
            num_commands: Cell::new(0),
            leaving: RefCell::new(None),
            channel,
            _desc: desc,
        })
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.borrow().is_some()
    }
}
