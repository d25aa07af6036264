//! A unit's bdev on the app thread, and how changes of its reservations come into force.

use super::reservations;
use crate::group::Stored;
use crate::model::Lun;
use drivebay_scsi::{Change, Settled};
use drivebay_sdk::bdev::{self, Desc, Event};
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{App, Error, Result, errno};
use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// A unit's bdev. The unit in its poll group shares the descriptor.
#[derive(Debug)]
pub(super) struct Unit {
    desc: Arc<Desc>,
    uuid: [u8; 16],
    /// The file that keeps reservations through a loss of power. A worker that writes it shares it.
    file: Option<Arc<PathBuf>>,
    /// The file may hold reservations.
    may_be_stored: bool,
    /// The unit's claim keeps out other exports: an initiator is registered.
    is_owned: bool,
    /// A unit over a read-only bdev has no claim.
    is_read_only: bool,
}

/// The reservation files in use: the files of the units, and files that a worker still writes for a removed unit.
#[derive(Debug, Default)]
pub(super) struct Files(RefCell<Vec<Weak<PathBuf>>>);

impl Files {
    /// Reserves a file for one unit. Two writers of one file could mix their texts.
    fn take(&self, path: &str) -> Result<Arc<PathBuf>> {
        let mut files = self.0.borrow_mut();
        files.retain(|file| file.strong_count() > 0);
        if files.iter().filter_map(Weak::upgrade).any(|file| file.as_os_str() == path) {
            let why = "another LUN uses it; give each LUN its own file";
            return Err(Error::new(errno::EBUSY, format!("ptpl_file {path}: {why}")));
        }
        let file = Arc::new(PathBuf::from(path));
        files.push(Arc::downgrade(&file));
        Ok(file)
    }
}

impl Unit {
    /// Opens a bdev, and reads the reservations that its file holds.
    ///
    /// # Errors
    /// The bus's refusals; `EBUSY` for a file of another unit; `EINVAL` for a file that is unreadable or belongs to another bdev; `EPERM`
    /// when the file holds registrations, but the bdev has other exports.
    pub(super) fn open(
        app: &App,
        lun: &Lun,
        files: &Files,
        on_event: impl FnMut(&App, Event) + 'static,
    ) -> Result<(Self, Stored)> {
        let file = match &lun.ptpl_file {
            Some(path) => Some(files.take(path)?),
            None => None,
        };
        let (desc, info) = bdev::open_export(app, &lun.bdev_name, true, on_event)?;
        let (uuid, is_read_only) = (info.uuid(), info.is_read_only());
        let stored = match &file {
            Some(path) => reservations::read(path, &uuid)?,
            None => None,
        };
        let is_stored = stored.is_some();
        let is_owned = is_stored && !is_read_only;
        if is_owned {
            bdev::own_export(app, &desc).map_err(|_| {
                let why = "its ptpl_file holds registrations, but it has other exports";
                Error::new(errno::EPERM, format!("bdev {} is in use: {why}", lun.bdev_name))
            })?;
        }
        let desc = Arc::new(desc);
        let unit = Self { desc, uuid, file, may_be_stored: is_stored, is_owned, is_read_only };
        Ok((unit, stored))
    }

    /// The descriptor.
    pub(super) fn desc(&self) -> &Arc<Desc> {
        &self.desc
    }

    /// Whether this unit opened the descriptor. This is false when a later unit with the same number has replaced that unit.
    pub(super) fn is(&self, desc: &Arc<Desc>) -> bool {
        Arc::ptr_eq(&self.desc, desc)
    }

    /// Whether its reservations can survive a loss of power.
    pub(super) fn keeps_reservations(&self) -> bool {
        self.file.is_some()
    }

    /// Claims the bdev if an initiator is registered now, and stores the reservations. Calls `answer` once, now or later. The caller then
    /// sets the final claim with [`own`](Self::own). Until then the bdev stays claimed, so undoing a change never has to claim it again.
    pub(super) fn settle(
        &mut self,
        change: &Change,
        answer: impl FnOnce(Settled) + Send + 'static,
    ) {
        if change.is_registered && !self.own(true) {
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

    /// Whether the claim keeps out other exports.
    pub(super) fn is_owned(&self) -> bool {
        self.is_owned
    }

    /// Claims the bdev for this unit alone, or lets other exports share it. Returns whether the claim is as wanted now.
    pub(super) fn own(&mut self, is_owned: bool) -> bool {
        if self.is_read_only {
            return true;
        }
        let claim = if is_owned { bdev::own_export } else { bdev::share_export };
        if self.is_owned != is_owned
            && App::here(|app| claim(app, &self.desc)).is_ok_and(|done| done.is_ok())
        {
            self.is_owned = is_owned;
        }
        self.is_owned == is_owned
    }
}

/// The answer to a change. If it is dropped unsent, it says that the reservations could not be stored.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_use_until_its_unit_and_its_writer_are_gone() {
        let files = Files::default();
        let unit = files.take("kept").unwrap();
        let writer = Arc::clone(&unit);
        drop(unit);
        assert_eq!(files.take("kept").unwrap_err().errno(), errno::EBUSY);
        files.take("other").unwrap();
        drop(writer);
        files.take("kept").unwrap();
    }
}
