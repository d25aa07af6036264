//! A unit's bdev on the app thread, and what makes its reservations stick.

use super::reservations;
use crate::model::Lun;
use drivebay_reservation::Table;
use drivebay_scsi::{Change, Identity, Settled};
use drivebay_sdk::bdev::{self, Desc, Event};
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{App, Error, Result, errno};
use std::path::PathBuf;
use std::sync::Arc;

/// A unit's bdev. The unit in its poll group shares the descriptor.
#[derive(Debug)]
pub(super) struct Unit {
    desc: Arc<Desc>,
    uuid: [u8; 16],
    /// Where reservations are stored that outlast a loss of power.
    file: Option<PathBuf>,
    /// The file may hold some.
    may_be_stored: bool,
    /// An initiator is registered, and the bdev has no other exports.
    is_owned: bool,
}

impl Unit {
    /// Opens a bdev, and reads the reservations that were stored.
    ///
    /// # Errors
    /// What the bus refuses; a file that cannot be read; `EPERM` when there are reservations, and the bdev has other exports.
    pub(super) fn open(
        app: &App,
        lun: &Lun,
        on_event: impl FnMut(&App, Event) + 'static,
    ) -> Result<(Self, Option<Table<Identity>>)> {
        let (desc, info) = bdev::open_export(app, &lun.bdev_name, true, on_event)?;
        let uuid = info.uuid();
        let file = lun.ptpl_file.as_ref().map(PathBuf::from);
        let stored = match &file {
            Some(path) => reservations::read(path, &uuid)?,
            None => None,
        };
        let is_stored = stored.is_some();
        if is_stored {
            bdev::own_export(app, &desc).map_err(|_| {
                let why = "initiators are registered with it, and it has other exports";
                Error::new(errno::EPERM, format!("bdev {} is in use: {why}", lun.bdev_name))
            })?;
        }
        let desc = Arc::new(desc);
        Ok((Self { desc, uuid, file, may_be_stored: is_stored, is_owned: is_stored }, stored))
    }

    /// The descriptor.
    pub(super) fn desc(&self) -> &Arc<Desc> {
        &self.desc
    }

    /// Makes a change of reservations stick. `answer` is called once, now or later.
    pub(super) fn settle(&mut self, change: Change, answer: impl FnOnce(Settled) + Send + 'static) {
        if !self.own(change.is_registered) {
            return answer(Settled::InUse);
        }
        let Some(path) = self.file.clone() else { return answer(Settled::Kept) };
        if change.stored.is_none() && !self.may_be_stored {
            return answer(Settled::Kept);
        }
        self.may_be_stored = true;
        let text = reservations::to_text(&self.uuid, change.stored.as_ref());
        let answer = Answer(Some(Box::new(answer)));
        let write = async move {
            let write = move || reservations::write(&path, &text);
            let written = worker::run("iscsi reservations", write).await;
            answer.send(written.unwrap_or(Settled::NotStored));
        };
        match task::spawn("iscsi reservations", write) {
            Ok(task) => task.detach(),
            Err(error) => tracing::error!(%error, "reservations cannot be stored"),
        }
    }

    /// Whether the bdev has no other exports.
    pub(super) fn is_owned(&self) -> bool {
        self.is_owned
    }

    /// Makes the bdev this unit's alone, or shares it again; whether that is so now.
    pub(super) fn own(&mut self, is_owned: bool) -> bool {
        let claim = if is_owned { bdev::own_export } else { bdev::share_export };
        if self.is_owned != is_owned
            && App::here(|app| claim(app, &self.desc)).is_ok_and(|done| done.is_ok())
        {
            self.is_owned = is_owned;
        }
        self.is_owned == is_owned
    }
}

/// The answer to a change. Dropped unsent, it says that nothing was stored.
struct Answer(Option<Box<dyn FnOnce(Settled) + Send>>);

impl Answer {
    fn send(mut self, settled: Settled) {
        if let Some(send) = self.0.take() {
            send(settled);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Settled::NotStored);
        }
    }
}
