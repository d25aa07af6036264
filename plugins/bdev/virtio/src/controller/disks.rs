//! The bdevs of a controller: one for a block device, one for each unit of a SCSI host.

use std::sync::Arc;

use drivebay_scsi::initiator::Unit;
use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::{self, Either};
use drivebay_sdk::serde_json::Value;
use drivebay_spec_vhost::scsi::{Event, event};

use super::session::Session;
use super::{Controller, WAIT_LIMIT};
use crate::connection::{ANSWER_LIMIT, Offer};
use crate::device::Device;
use crate::disk::{Dialect, Properties, VirtioDisk};
use crate::scsi::admin::Admin;
use crate::scsi::{self, units};

/// What a target has: unit 0, if there is one.
type Found = Vec<(u8, Option<Unit>)>;

impl Controller {
    /// Registers the bdevs of the first session.
    pub(super) async fn register(&self, session: &Session, offer: &Offer) -> Result<()> {
        match &self.device {
            Device::Blk(shape) => {
                let properties = shape
                    .properties(shape.num_blocks(offer.config.as_deref().unwrap_or_default())?)?;
                self.add(&self.params.name, properties, Dialect::Blk(shape.dialect()))
            }
            Device::Scsi(_) => {
                for (target, unit) in self.find_units(session).await? {
                    if let Some(unit) = unit {
                        self.add_unit(target, unit)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Names of the bdevs.
    pub(crate) fn bdevs(&self) -> Vec<String> {
        match self.device {
            Device::Blk(_) => vec![self.params.name.clone()],
            Device::Scsi(_) => {
                self.units.targets().into_iter().map(|target| self.name_of(target)).collect()
            }
        }
    }

    /// The name of a unit, as the reference forms it.
    fn name_of(&self, target: u8) -> String {
        format!("{}t{target}", self.params.name)
    }

    pub(super) fn has_no_bdevs(&self) -> bool {
        self.bdevs().iter().all(|name| bdev::find::<VirtioDisk>(name).is_err())
    }

    fn add(&self, name: &str, properties: Properties, dialect: Dialect) -> Result<()> {
        let (path, agreement) = (&self.params.traddr, *self.device.agreement());
        let disk =
            VirtioDisk::new(name, path, agreement, (properties, dialect), Arc::clone(&self.link));
        // No method: the saved configuration contains the controller, not the bdev.
        App::here(|app| bdev::register(app, disk, "", Value::Null))?.map(drop)
    }

    fn add_unit(&self, target: u8, unit: Unit) -> Result<()> {
        let properties = scsi::properties(&unit)?;
        let dialect = self.units.set(target, unit);
        let added = self.add(&self.name_of(target), properties, Dialect::Scsi(dialect));
        if added.is_err() {
            self.units.remove(target);
        }
        added
    }

    /// Asks each target of a SCSI host for its unit. Lets the I/O of units fail that are gone.
    ///
    /// # Errors
    /// When the device does not answer.
    pub(super) async fn find_units(&self, session: &Session) -> Result<Found> {
        let (Device::Scsi(shape), Some(admin)) = (&self.device, &session.admin) else {
            return Ok(Found::new());
        };
        self.find_all(admin, shape.num_targets).await
    }

    async fn find_all(&self, admin: &Admin, num_targets: u16) -> Result<Found> {
        let mut all = Found::new();
        for target in (0..=u8::MAX).take(num_targets.into()) {
            let unit = units::find(admin, target).await?;
            self.check(target, unit.as_ref());
            all.push((target, unit));
        }
        Ok(all)
    }

    /// Waits until a unit is doubtful, then asks its target which unit it has. Meanwhile the I/O of the unit waits. Without a SCSI host
    /// this never ends.
    ///
    /// # Errors
    /// When the device does not answer.
    pub(super) async fn settled(&self, admin: Option<&Admin>) -> Result<Found> {
        let Some(admin) = admin else { return std::future::pending().await };
        self.link.doubted.until(|| self.units.has_doubts()).await;
        let mut all = Found::new();
        while let Some(target) = self.units.next_doubtful() {
            let unit = units::find(admin, target).await?;
            self.check(target, unit.as_ref());
            all.push((target, unit));
        }
        Ok(all)
    }

    /// Lets the I/O of a unit fail that is gone, and the I/O go on that waited for this check.
    fn check(&self, target: u8, found: Option<&Unit>) {
        if self.units.check(target, found) {
            self.link.wake();
        }
    }

    /// Brings the bdevs up to date in a later session.
    pub(super) async fn follow_disks(&self, offer: &Offer, found: Found) {
        if let Device::Blk(shape) = &self.device {
            match shape.num_blocks(offer.config.as_deref().unwrap_or_default()) {
                Ok(num_blocks) => self.resize(&self.params.name, num_blocks),
                Err(error) => warn!("{}: {error}", self.params.name),
            }
        }
        self.follow_units(found).await;
    }

    /// Handles an event of a SCSI host.
    pub(super) async fn handle(&self, admin: &Admin, event: Event) {
        let name = &self.params.name;
        let Device::Scsi(shape) = &self.device else { return };
        let is_news = matches!(event.event, event::TRANSPORT_RESET | event::PARAMETER_CHANGE);
        let found = if event.missed {
            warn!("{name}: the device lost events; the plugin looks at all targets");
            self.find_all(admin, shape.num_targets).await
        } else if let Some(target) = event.target.filter(|_| is_news) {
            let unit = units::find(admin, target).await;
            unit.map(|unit| {
                self.check(target, unit.as_ref());
                vec![(target, unit)]
            })
        } else {
            return;
        };
        match found {
            Ok(found) => self.follow_units(found).await,
            Err(error) => warn!("{name}: an event is not followed: {}", error.message()),
        }
    }

    pub(super) async fn follow_units(&self, found: Found) {
        for (target, unit) in found {
            self.follow_unit(target, unit).await;
        }
    }

    /// Adds, resizes or removes the bdev of a unit.
    async fn follow_unit(&self, target: u8, found: Option<Unit>) {
        if self.wants_to_end.get() {
            return;
        }
        let (name, known) = (self.name_of(target), self.units.get(target));
        match (known, found) {
            (None, None) => {}
            (Some(known), Some(unit)) if known.is_same(&unit) => {
                if known.num_blocks != unit.num_blocks {
                    self.resize(&name, unit.num_blocks);
                    self.units.set(target, unit);
                }
            }
            (known, found) => {
                if known.is_some() {
                    warn!("{name}: the unit is gone");
                    if task::timeout(ANSWER_LIMIT, self.unregister(&name)).await.is_err() {
                        warn!("{name}: its I/O has not ended yet");
                    }
                    self.units.remove(target);
                }
                if let Some(unit) = found {
                    match self.add_unit(target, unit) {
                        Ok(()) => info!("{name}: a unit was added"),
                        Err(error) => error!("{name}: {error}"),
                    }
                }
            }
        }
    }

    pub(super) fn resize(&self, name: &str, num_blocks: u64) {
        let resized = App::here(|app| bdev::find::<VirtioDisk>(name)?.resize(app, num_blocks));
        match resized.and_then(|result| result) {
            Ok(()) => info!("{name}: the disk has {num_blocks} blocks now"),
            Err(error) => warn!("{name}: cannot resize the bdev to {num_blocks} blocks: {error}"),
        }
    }

    /// Unregisters all bdevs. If the back end does not complete their I/O within `WAIT_LIMIT`, the I/O fails.
    pub(super) async fn unregister_all(&self) {
        let names = self.bdevs();
        let mut all = Box::pin(task::join_all(names.iter().map(|name| self.unregister(name))));
        if let Either::Right(()) = task::select(&mut all, task::sleep(WAIT_LIMIT)).await {
            let (name, sec) = (&self.params.name, WAIT_LIMIT.as_secs());
            warn!("{name}: the back end did not complete its I/O within {sec} s, so the I/O fails");
            self.link.fail();
            all.await;
        }
    }

    /// Unregisters a bdev. Returns when its I/O has ended and it is gone.
    async fn unregister(&self, name: &str) {
        let Ok(bdev) = bdev::find::<VirtioDisk>(name) else { return };
        let (done, gone) = task::oneshot::channel();
        let unregister =
            App::here(|app| bdev.unregister(app, move |_, result| drop(done.send(result))));
        if unregister.is_ok()
            && let Ok(Err(error)) = gone.await
        {
            error!("{name}: {}", error.message());
        }
    }
}
