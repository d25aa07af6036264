//! Reservation commands on the app thread: the namespace's table is changed, the change is made to stick, the poll groups get it, and
//! other hosts hear of it. Then the command is answered.

use super::{App, ConnectedQueue, app};
use crate::controller::Ticket;
use crate::controller::admin::{self, Answer};
use crate::model::reservation::{Change, HostId, Reservations};
use crate::model::{Namespace, reservation_file};
use crate::ops::{lock, on_groups};
use crate::tasks::until;
use drivebay_reservation::{Notice, Table, Told, file};
use drivebay_sdk::bdev::{self, Desc};
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{Error, Result as SdkResult, errno, thread};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::reservation::{Notification, Registered, Report, extended_report};
use drivebay_spec_nvme::{Command, Status};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// How long Preempt and Abort waits for the I/O of preempted hosts, in nanoseconds.
const DRAIN_NS: u64 = 5_000_000_000;
/// The host has no controller now. NVMe Base 2.0, figure 444.
const NO_CONTROLLER: u16 = 0xffff;

impl App {
    /// A reservation command came on an I/O queue. `len`: length of its data, in bytes.
    pub(crate) fn reservation(&self, ticket: Ticket, command: &Command, len: u32, data: Vec<u8>) {
        let queue = self.queues.borrow().get(&ticket.queue).and_then(|c| c.queue.clone());
        let (Some(queue), Some(app)) = (queue, app()) else {
            return self.answer(ticket, admin::GONE.into());
        };
        if command.opcode() == nvm::RESERVATION_REPORT {
            let answer = self.report(&queue, command, len).unwrap_or_else(Answer::from);
            return self.answer(ticket, answer);
        }
        if self.tasks.is_full() {
            return self.answer(ticket, Status::NAMESPACE_NOT_READY.into());
        }
        let command = *command;
        self.tasks.spawn(async move {
            let changed = change(&app, &queue, &command, &data).await;
            app.answer(ticket, changed.err().unwrap_or(Status::SUCCESS).into());
        });
    }

    fn report(
        &self,
        queue: &ConnectedQueue,
        command: &Command,
        len: u32,
    ) -> Result<Answer, Status> {
        let report = Report::from_command(command);
        if !report.is_extended {
            return Err(Status::HOST_ID_INCONSISTENT_FORMAT.with_dnr());
        }
        if u64::from(len) < report.len {
            return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
        }
        let model = self.model.borrow();
        let missing = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
        let subsystem = model.subsystems.get(&queue.nqn).ok_or(missing)?;
        let namespace = subsystem.namespaces.get(&command.nsid()).ok_or(missing)?;
        let Reservations { table, is_persistent } = &namespace.reservations;
        let registered: Vec<Registered> = table
            .registrants()
            .iter()
            .map(|one| {
                let its = subsystem.controllers.values().find(|other| other.hostid == one.who);
                Registered {
                    cntlid: its.map_or(NO_CONTROLLER, |controller| controller.cntlid),
                    holds: table.holds(&one.who),
                    key: one.key,
                    hostid: one.who,
                }
            })
            .collect();
        let kind = namespace.reservations.kind();
        let mut data = extended_report(table.generation(), kind, *is_persistent, &registered);
        data.resize(usize::try_from(report.len).unwrap_or(data.len()).min(len as usize), 0);
        Ok(Answer::data(data))
    }

    /// Tells hosts what a change means for them.
    fn notify(&self, nqn: &str, nsid: u32, told: &Told<HostId>) {
        let mut model = self.model.borrow_mut();
        let Some(subsystem) = model.subsystems.get_mut(nqn) else { return };
        let mut events = Vec::new();
        for (host, notice) in &told.notices {
            let notification = match notice {
                Notice::RegistrationPreempted => Notification::RegistrationPreempted,
                Notice::ReservationReleased => Notification::ReservationReleased,
                Notice::ReservationPreempted => Notification::ReservationPreempted,
            };
            let its = subsystem.controllers.values_mut().filter(|other| other.hostid == *host);
            events.extend(its.filter_map(|one| one.reservation_changed(notification, nsid)));
        }
        drop(model);
        self.tell(events);
    }
}

async fn change(
    app: &Rc<App>,
    queue: &ConnectedQueue,
    command: &Command,
    data: &[u8],
) -> Result<(), Status> {
    let (nqn, nsid) = (&queue.nqn, command.nsid());
    let _guard = lock(app, nqn).await;
    let missing = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    let namespace = {
        let model = app.model.borrow();
        let subsystem = model.subsystems.get(nqn).ok_or(missing)?;
        subsystem.namespaces.get(&nsid).cloned().ok_or(missing)?
    };
    let can_persist = namespace.ptpl_file.is_some();
    let Change { after, told, aborts } =
        namespace.reservations.change(queue.hostid, command, data, can_persist)?;
    let desc = app.bdevs.borrow().get(&(nqn.clone(), nsid)).cloned().ok_or(missing)?;
    make_stick(app, &namespace, &desc, &after).await?;
    let shared = shared(&after);
    if let Some(subsystem) = app.model.borrow_mut().subsystems.get_mut(nqn)
        && let Some(namespace) = subsystem.namespaces.get_mut(&nsid)
    {
        namespace.reservations = after;
    }
    let of = nqn.clone();
    let set = on_groups(app, move |group, reply| {
        group.set_reservation(&of, nsid, shared.clone());
        reply.send(Ok(()));
    });
    set.await.map_err(|_| Status::INTERNAL_ERROR)?;
    app.notify(nqn, nsid, &told);
    if aborts && !told.preempted.is_empty() {
        drain(app, nqn, nsid).await;
    }
    Ok(())
}

/// What poll groups look at: the table, if something is reserved.
pub fn shared(reservations: &Reservations) -> Option<Arc<Table<HostId>>> {
    let table = &reservations.table;
    table.held().map(|_| Arc::new(table.clone()))
}

/// Makes the bdev the namespace's alone while a host is registered, and stores what outlasts a loss of power.
async fn make_stick(
    app: &Rc<App>,
    namespace: &Namespace,
    desc: &Desc,
    after: &Reservations,
) -> Result<(), Status> {
    let before = &namespace.reservations;
    let conflict = Status::RESERVATION_CONFLICT.with_dnr();
    let (was_owned, is_owned) = (before.is_registered(), after.is_registered());
    if was_owned != is_owned && !namespace.geometry.is_read_only {
        own(desc, is_owned).map_err(|_| conflict)?;
    }
    let Some(path) = namespace.ptpl_file.clone() else { return Ok(()) };
    if !before.is_persistent && !after.is_persistent {
        return Ok(());
    }
    let uuid = desc.info().map_err(|_| Status::INTERNAL_ERROR)?.uuid();
    let text = reservation_file::to_text(&uuid, after);
    let stored = store(app, path, text).await;
    stored.map_err(|error| {
        tracing::error!(%error, "reservations cannot be stored");
        if was_owned != is_owned && own(desc, was_owned).is_err() {
            tracing::error!("the bdev of a namespace keeps its claim");
        }
        Status::INTERNAL_ERROR.with_dnr()
    })
}

/// Makes a bdev this export's alone, or shares it again.
fn own(desc: &Desc, is_owned: bool) -> SdkResult<()> {
    drivebay_sdk::App::here(|here| {
        if is_owned { bdev::own_export(here, desc) } else { bdev::share_export(here, desc) }
    })?
}

/// Writes a file on a worker: a disk may take its time, and the app thread has none.
async fn store(app: &Rc<App>, path: String, text: String) -> SdkResult<()> {
    let (number, replies) = app.expect(1)?;
    let write = async move {
        let write = move || {
            let failed = |error| Error::new(errno::EIO, format!("ptpl_file {path}: {error}"));
            file::replace(Path::new(&path), &text).map_err(failed)
        };
        let written = worker::run("nvmf reservations", write).await.and_then(|written| written);
        replies.into_iter().for_each(|reply| reply.send(written.clone()));
    };
    match task::spawn("nvmf reservations", write) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!(%error, "no task can be made"),
    }
    app.replies(number).await
}

/// Waits until no I/O that began before is in flight, but not for ever: the bus cannot call it back.
async fn drain(app: &Rc<App>, nqn: &str, nsid: u32) {
    let groups = app.groups();
    let Ok((number, replies)) = app.expect(groups.len()) else { return };
    for (group, reply) in groups.iter().zip(replies) {
        let of = nqn.to_owned();
        group.send(move |group| group.state().drain_namespace(&of, nsid, reply));
    }
    let deadline_ns = thread::now_ns().saturating_add(DRAIN_NS);
    let is_drained = || app.waits.borrow().get(&number).is_none_or(|wait| wait.is_over());
    until(|| is_drained() || thread::now_ns() > deadline_ns).await;
    app.waits.borrow_mut().remove(&number);
}

/// The reservations that a namespace's file keeps. The bdev is its alone from now on, if there are some.
///
/// # Errors
/// What the file says; `EPERM` when hosts are registered, and the bdev has other exports.
pub fn restore(path: Option<&str>, desc: &Desc, uuid: &[u8; 16]) -> SdkResult<Reservations> {
    let Some(path) = path else { return Ok(Reservations::default()) };
    let reservations = reservation_file::read(Path::new(path), uuid)?;
    if reservations.is_registered() {
        own(desc, true).map_err(|_| {
            let why = "hosts are registered with it, and it has other exports";
            Error::new(errno::EPERM, format!("the bdev is in use: {why}"))
        })?;
    }
    Ok(reservations)
}
