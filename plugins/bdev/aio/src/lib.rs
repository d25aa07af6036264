//! `aio`: a file or a block device as a bdev, by io_uring or libaio.
//!
//! [`methods`] registers the methods. A [`Kind`] has the differences between their two families.
//! [`disk`] opens the file, and [`channel`] is one thread's ring.
#![forbid(unsafe_code)]

pub mod channel;
pub mod disk;
pub mod kind;
pub mod methods;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::sync::Arc;

use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Map, Value};

use crate::channel::Channel;
use crate::disk::FileDisk;
use crate::kind::{Aio, Kind, Uring};

plugin! {
    name: "aio",
    kind: "bdev",
    provides: [],
    requires: [],
    methods: [
        "bdev_aio_create", "bdev_aio_rescan", "bdev_aio_delete",
        "bdev_uring_create", "bdev_uring_rescan", "bdev_uring_delete",
    ],
    unsafe(threads_move),
    start: |app| {
        methods::register::<Aio>(app)?;
        methods::register::<Uring>(app)
    },
}

/// A file or block device on the bus, created by the methods of kind `K`.
#[derive(Debug)]
pub struct FileBdev<K> {
    disk: Arc<FileDisk>,
    kind: PhantomData<K>,
}

impl<K: Kind> Bdev for FileBdev<K> {
    type Params = K::Params;
    type Channel = Channel;
    const PRODUCT: &'static str = K::PRODUCT;
    /// `describe` adds what the file supports. The bus performs resets: it waits for the I/O in
    /// flight, and the kernel offers nothing better.
    const OPS: OpSet = OpSet::READ.with(OpSet::FLUSH);

    channel_does_io!(woke);

    fn create(_: &App, params: K::Params) -> Result<Self> {
        let disk = FileDisk::open(K::wanted(params)?)?;
        Ok(Self { disk: Arc::new(disk), kind: PhantomData })
    }

    fn name(&self) -> &str {
        self.disk.name()
    }

    fn geometry(&self) -> Geometry {
        self.disk.geometry()
    }

    fn describe(&self, registration: &mut Registration) {
        self.disk.describe(registration);
    }

    fn open_channel(&self) -> Result<Channel> {
        Channel::open(Arc::clone(&self.disk))
    }

    fn driver_specific(&self) -> Map<String, Value> {
        K::driver_specific(&self.disk)
    }
}
