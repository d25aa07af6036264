//! Reservation commands on the app thread. The app thread changes the namespace's table, claims the bdev and writes `ptpl_file`, sends the
//! table to the poll groups, notifies other hosts, and then answers the command.

use super::{AppState, ConnectedQueue, app};
use crate::controller::Ticket;
use crate::controller::admin::{self, Answer};
use crate::model::reservation::{Change, HostId, Reservations};
use crate::model::{Namespace, reservation_file};
use crate::ops::{lock, on_groups};
use crate::tasks::until;
use drivebay_reservation::{Notice, Table, Told, file};
use drivebay_sdk::bdev::{self, Desc, Info};
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::{Error, Result as SdkResult, errno, thread};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::reservation::{Notification, Registered, Report, extended_report};
use drivebay_spec_nvme::{Command, Status};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// How long Preempt and Abort waits for I/O in flight, in nanoseconds.
const DRAIN_NS: u64 = 5_000_000_000;
/// Controller identifier of a host that has no controller now. NVMe Base 2.0, figure 444.
const NO_CONTROLLER: u16 = 0xffff;

impl AppState {
    /// Executes a reservation command of an I/O queue and answers it. `len`: length of its data, in bytes.
    pub(crate) fn reservation(&self, ticket: Ticket, command: &Command, len: u32, data: Vec<u8>) {
        let queue = self.queues.borrow().get(&ticket.queue).and_then(|c| c.queue.clone());
        let (Some(queue), Some(app)) = (queue, app()) else {
            return self.answer(ticket, admin::GONE.into());
        };
        if command.opcode() == nvm::RESERVATION_REPORT {
            let answer = self.report(&queue, command, len).unwrap_or_else(Answer::from);
            return self.answer(ticket, answer);
        }
        // Refuse hosts without an identifier, because all of them would count as one host.
        if queue.hostid == [0; 16] {
            return self.answer(ticket, Status::OPERATION_DENIED.with_dnr().into());
        }
        if self.tasks.is_half_full() {
            return self.answer(ticket, Status::NAMESPACE_NOT_READY.into());
        }
        let command = *command;
        self.tasks.spawn(async move {
            let changed = change(&app, ticket, &queue, &command, &data).await;
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

    /// Notifies other hosts of a change.
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
    app: &Rc<AppState>,
    ticket: Ticket,
    queue: &ConnectedQueue,
    command: &Command,
    data: &[u8],
) -> Result<(), Status> {
    let (nqn, nsid) = (&queue.nqn, command.nsid());
    let _guard = lock(app, nqn).await;
    // Check again after the wait: the subsystem may have been deleted, and created again under the same name.
    if !app.queues.borrow().contains_key(&ticket.queue) {
        return Err(admin::GONE);
    }
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
    claim_and_store(app, &namespace, &desc, &after).await?;
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

/// The copy for poll groups: the table while there is a reservation, else `None`.
pub fn shared(reservations: &Reservations) -> Option<Arc<Table<HostId>>> {
    let table = &reservations.table;
    table.held().map(|_| Arc::new(table.clone()))
}

/// Makes the namespace the only export of its bdev while a host is registered, and stores what must outlast a loss of power.
async fn claim_and_store(
    app: &Rc<AppState>,
    namespace: &Namespace,
    desc: &Desc,
    after: &Reservations,
) -> Result<(), Status> {
    let before = &namespace.reservations;
    let has_claim = !namespace.geometry.is_read_only;
    let is_first = has_claim && !before.is_registered() && after.is_registered();
    let was_last = has_claim && before.is_registered() && !after.is_registered();
    if is_first {
        own(desc, true).map_err(|_| Status::RESERVATION_CONFLICT.with_dnr())?;
    }
    let stored = match &namespace.ptpl_file {
        Some(path) if before.is_persistent || after.is_persistent => {
            store(app, path.clone(), desc, after).await
        }
        _ => Ok(()),
    };
    // Share the bdev only after the file has been written without registrants. Otherwise a restart would find registrants while other
    // exports write.
    let shares = if stored.is_ok() { was_last } else { is_first };
    if shares && let Err(error) = own(desc, false) {
        let bdev = &namespace.bdev_name;
        tracing::error!("bdev {bdev} cannot be shared with other exports again: {error}");
    }
    stored.map_err(|error| {
        tracing::error!(%error, "reservations cannot be stored");
        Status::INTERNAL_ERROR.with_dnr()
    })
}

/// Makes this export the only export of its bdev, or lets other exports share the bdev again.
fn own(desc: &Desc, is_owned: bool) -> SdkResult<()> {
    drivebay_sdk::App::here(|here| {
        if is_owned { bdev::own_export(here, desc) } else { bdev::share_export(here, desc) }
    })?
}

/// Writes a `ptpl_file` on a worker, because the disk may be slow and the app thread must not block.
async fn store(
    app: &Rc<AppState>,
    path: String,
    desc: &Desc,
    reservations: &Reservations,
) -> SdkResult<()> {
    let text = reservation_file::to_text(&desc.info()?.uuid(), reservations);
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
        Err(error) => tracing::error!(%error, "no task can be started"),
    }
    app.replies(number).await
}

/// Waits until the namespace has no I/O in flight for a moment, so that all I/O that began before has ended. Gives up after [`DRAIN_NS`],
/// because the bus cannot abort the I/O.
async fn drain(app: &Rc<AppState>, nqn: &str, nsid: u32) {
    let groups = app.groups();
    let Ok((number, replies)) = app.expect(groups.len()) else { return };
    for (group, reply) in groups.iter().zip(replies) {
        let of = nqn.to_owned();
        group.send(move |group| group.state().drain_namespace(&of, nsid, reply));
    }
    let deadline_ns = thread::now_ns().saturating_add(DRAIN_NS);
    let is_drained = || app.waits.borrow().get(&number).is_none_or(|wait| wait.is_over());
    until(|| is_drained() || thread::now_ns() > deadline_ns).await;
    if !is_drained() {
        tracing::warn!(
            "{nqn}: nsid {nsid} was busy for 5 s after Preempt and Abort; I/O of preempted hosts may still be in flight"
        );
    }
    app.waits.borrow_mut().remove(&number);
}

/// Reads the reservations of a new namespace from its `ptpl_file`. If a host is registered, the namespace becomes the only export of its
/// bdev.
///
/// # Errors
/// `EINVAL` when the file cannot be used; `EPERM` when a host is registered and the bdev has other exports.
pub fn restore(path: Option<&str>, desc: &Desc, info: &Info) -> SdkResult<Reservations> {
    let Some(path) = path else { return Ok(Reservations::default()) };
    let reservations = reservation_file::read(Path::new(path), &info.uuid())?;
    // A read-only export has no claim.
    if reservations.is_registered() && !info.is_read_only() {
        own(desc, true).map_err(|_| {
            let why = "ptpl_file has registered hosts, and the bdev has other exports; remove those first";
            Error::new(errno::EPERM, format!("bdev {} is in use: {why}", info.name()))
        })?;
    }
    Ok(reservations)
}
