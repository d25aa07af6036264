//! Adds, changes and removes namespaces.
//!
//! A new namespace is in every poll group before hosts get the event. A removed namespace has left every poll group, without I/O in flight
//! and without channels, before its bdev is closed.

use super::{lock, lock_subsystem, on_groups};
use crate::app::{AppState, app, reservation};
use crate::model::{Geometry, Namespace, Ops, hex, uuid_text};
use drivebay_sdk::bdev::{self, Desc, Event, Info, IoFlags, OpSet};
use drivebay_sdk::{Error, Result, errno};
use std::rc::Rc;
use std::sync::Arc;

/// The parameters of `nvmf_subsystem_add_ns`. The bdev supplies absent values.
#[derive(Clone, Debug, Default)]
pub struct NewNamespace {
    /// Number; 0 means the lowest free one.
    pub nsid: u32,
    /// Name of the bdev.
    pub bdev_name: String,
    /// Globally unique identifier.
    pub nguid: Option<[u8; 16]>,
    /// Extended unique identifier.
    pub eui64: Option<[u8; 8]>,
    /// UUID.
    pub uuid: Option<[u8; 16]>,
    /// ANA group.
    pub anagrpid: Option<u32>,
    /// File that keeps reservations across a loss of power.
    pub ptpl_file: Option<String>,
}

/// Adds a namespace and returns its number.
///
/// # Errors
/// `ENODEV` without the subsystem or bdev, `EPERM` when the bdev is claimed, `EEXIST`, `ENOSPC`, `EINVAL` with the name of the wrong field.
pub async fn add_namespace(app: &Rc<AppState>, nqn: &str, new: NewNamespace) -> Result<u32> {
    let _guard = lock_subsystem(app, nqn).await?;
    super::ensure_groups(app)?;
    let nsid = choose_nsid(app, nqn, new.nsid)?;
    let (desc, info) = drivebay_sdk::App::here(|here| open(here, nqn, nsid, &new.bdev_name))??;
    let geometry = geometry_of(&info);
    geometry.check().map_err(|why| Error::new(errno::EINVAL, why))?;
    check_block_fits(app, geometry.block_size)?;
    if info.raw().md_size != 0 {
        return Err(Error::invalid("md_size", info.raw().md_size, "0: no metadata yet"));
    }
    check_ptpl_file(app, new.ptpl_file.as_deref())?;
    let uuid = new.uuid.filter(|uuid| *uuid != [0; 16]).unwrap_or_else(|| info.uuid());
    let namespace = Namespace {
        nsid,
        bdev_name: info.name().to_owned(),
        uuid,
        nguid: new.nguid.filter(|nguid| *nguid != [0; 16]).unwrap_or(uuid),
        eui64: new.eui64.unwrap_or_default(),
        anagrpid: check_ana_group(app, nqn, new.anagrpid.filter(|g| *g != 0).unwrap_or(nsid))?,
        geometry,
        reservations: reservation::restore(new.ptpl_file.as_deref(), &desc, &info)?,
        ptpl_file: new.ptpl_file,
    };
    check_identity(app, nqn, &namespace)?;
    let limits = {
        let model = app.model.borrow();
        let subsystem = model.subsystems.get(nqn).ok_or_else(|| super::no_subsystem(nqn))?;
        subsystem.options.command_limits()
    };
    let desc = Arc::new(desc);
    let table = reservation::shared(&namespace.reservations);
    let (shared, name, new) = (Arc::downgrade(&desc), nqn.to_owned(), namespace.clone());
    let added = on_groups(app, move |group, reply| {
        let result = match shared.upgrade() {
            Some(desc) => {
                let added = group.add_namespace(&name, &new, &desc, limits);
                group.set_reservation(&name, nsid, table.clone());
                added
            }
            None => Err(Error::no_such_device()),
        };
        reply.send(result);
    });
    if let Err(error) = added.await {
        end_in_groups(app, nqn, nsid).await?;
        return Err(error);
    }
    if let Some(subsystem) = app.model.borrow_mut().subsystems.get_mut(nqn) {
        subsystem.ana_group_changed(namespace.anagrpid);
        subsystem.namespaces.insert(nsid, namespace);
    }
    let num_blocks = desc.info().map_or(geometry.num_blocks, |info| info.num_blocks());
    app.bdevs.borrow_mut().insert((nqn.to_owned(), nsid), desc);
    if num_blocks == geometry.num_blocks {
        app.namespace_changed(nqn, nsid);
    } else {
        // Compare the size again: if the bdev was resized while the poll groups opened their channels, the event found no namespace.
        resized(app, nqn, nsid, num_blocks);
    }
    Ok(nsid)
}

/// Checks that the number of an ANA group is at most `max_namespaces`.
pub(super) fn check_ana_group(app: &AppState, nqn: &str, group: u32) -> Result<u32> {
    let model = app.model.borrow();
    let subsystem = model.subsystems.get(nqn).ok_or_else(|| super::no_subsystem(nqn))?;
    let max = subsystem.max_namespaces();
    if (1..=max).contains(&group) {
        return Ok(group);
    }
    Err(Error::invalid("anagrpid", group, format!("1 to {max}, the max_namespaces of {nqn}")))
}

/// Checks that every transport can transfer a block.
fn check_block_fits(app: &AppState, block_size: u32) -> Result<()> {
    let transports = app.transports.borrow();
    let least = transports.values().map(|entry| entry.limits.max_io_size).min();
    match least.filter(|least| *least < block_size) {
        Some(least) => {
            let allowed = format!("at most max_io_size of the transports, {least}");
            Err(Error::invalid("block size of the bdev", block_size, allowed))
        }
        None => Ok(()),
    }
}

/// Two namespaces must not share a file: each would overwrite the reservations of the other.
fn check_ptpl_file(app: &AppState, path: Option<&str>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let model = app.model.borrow();
    let mut all =
        model.subsystems.values().flat_map(|s| s.namespaces.values().map(move |n| (s, n)));
    match all.find(|(_, namespace)| namespace.ptpl_file.as_deref() == Some(path)) {
        Some((subsystem, namespace)) => {
            let (nqn, nsid) = (&subsystem.nqn, namespace.nsid);
            let allowed =
                format!("a file that no other namespace uses: nsid {nsid} of {nqn} uses it");
            Err(Error::invalid("namespace.ptpl_file", path, allowed))
        }
        None => Ok(()),
    }
}

/// Checks that no other namespace of the subsystem has the same identity: hosts would drop one of them, or write to the wrong disk.
fn check_identity(app: &AppState, nqn: &str, new: &Namespace) -> Result<()> {
    let model = app.model.borrow();
    let Some(subsystem) = model.subsystems.get(nqn) else { return Ok(()) };
    let taken = |field: &str, given: String, same: &dyn Fn(&Namespace) -> bool| match subsystem
        .namespaces
        .values()
        .find(|namespace| same(namespace))
    {
        Some(Namespace { nsid, bdev_name, .. }) => {
            let allowed =
                format!("one that no other namespace has: nsid {nsid} ({bdev_name}) has it");
            Err(Error::invalid(field, given, allowed))
        }
        None => Ok(()),
    };
    if new.uuid != [0; 16] {
        taken("namespace.uuid", uuid_text(&new.uuid), &|other| other.uuid == new.uuid)?;
    }
    if new.nguid != [0; 16] {
        taken("namespace.nguid", hex(&new.nguid), &|other| other.nguid == new.nguid)?;
    }
    if new.eui64 != [0; 8] {
        taken("namespace.eui64", hex(&new.eui64), &|other| other.eui64 == new.eui64)?;
    }
    Ok(())
}

fn choose_nsid(app: &AppState, nqn: &str, wanted: u32) -> Result<u32> {
    let model = app.model.borrow();
    let subsystem = model.subsystems.get(nqn).ok_or_else(|| super::no_subsystem(nqn))?;
    if subsystem.kind == crate::model::ControllerKind::Discovery {
        return Err(Error::invalid("nqn", nqn, "a subsystem that is not the discovery subsystem"));
    }
    let max = subsystem.max_namespaces();
    if wanted == 0 {
        let free = Namespace::free_nsid(subsystem.namespaces.keys().copied(), max);
        return free
            .ok_or_else(|| Error::new(errno::ENOSPC, format!("max_namespaces {max} is reached")));
    }
    if wanted > max {
        return Err(Error::invalid(
            "nsid",
            wanted,
            format!("1 to {max}, or 0 for the next free one"),
        ));
    }
    if subsystem.namespaces.contains_key(&wanted) {
        return Err(Error::new(errno::EEXIST, format!("nsid {wanted} is in use")));
    }
    Ok(wanted)
}

/// Opens the bdev as an export.
fn open(here: &drivebay_sdk::App, nqn: &str, nsid: u32, bdev_name: &str) -> Result<(Desc, Info)> {
    let name = nqn.to_owned();
    let on_event = move |_: &drivebay_sdk::App, event| happened(&name, nsid, event);
    bdev::open_export(here, bdev_name, true, on_event).map_err(|error| match error.errno() {
        errno::ENODEV => Error::new(errno::ENODEV, format!("bdev {bdev_name}: No such device")),
        _ => error,
    })
}

fn geometry_of(info: &Info) -> Geometry {
    let (raw, ops) = (info.raw(), info.ops());
    let has_fua = raw.must_flags & IoFlags::FUA.bits() != 0;
    Geometry {
        num_blocks: info.num_blocks(),
        block_size: info.block_size(),
        phys_block_size: raw.phys_block_size.max(info.block_size()),
        optimal_boundary: raw.optimal_boundary,
        atomic_write_unit: raw.atomic_write_unit.max(1),
        has_write_cache: info.has_write_cache(),
        is_read_only: info.is_read_only(),
        keeps_no_data: info.keeps_no_data(),
        deallocated_reads_zeroes: info.unmapped_reads_zeroes(),
        ops: Ops {
            flush: ops.contains(OpSet::FLUSH),
            unmap: ops.contains(OpSet::UNMAP),
            write_zeroes: ops.contains(OpSet::WRITE_ZEROES),
            compare: ops.contains(OpSet::COMPARE),
            fua: has_fua,
        },
    }
}

/// Handles an event of a namespace's bdev. `[app thread]`
fn happened(nqn: &str, nsid: u32, event: Event) {
    let Some(app) = app() else { return };
    match event {
        Event::Remove => {
            let (nqn, task) = (nqn.to_owned(), Rc::clone(&app));
            app.tasks.spawn(async move {
                let _guard = lock(&task, &nqn).await;
                // An earlier operation may have removed the namespace, or failed to add it.
                if let Err(error) = remove_locked(&task, &nqn, nsid).await {
                    tracing::debug!("{nqn}: {error}");
                }
            });
        }
        Event::Resize { num_blocks } => resized(&app, nqn, nsid, num_blocks),
        _ => {}
    }
}

fn resized(app: &AppState, nqn: &str, nsid: u32, num_blocks: u64) {
    let mut model = app.model.borrow_mut();
    let subsystem = model.subsystems.get_mut(nqn);
    let Some(namespace) = subsystem.and_then(|s| s.namespaces.get_mut(&nsid)) else { return };
    namespace.geometry.num_blocks = num_blocks;
    let geometry = namespace.geometry;
    drop(model);
    for group in app.groups() {
        let nqn = nqn.to_owned();
        group.send(move |group| group.state().resize_namespace(&nqn, nsid, geometry));
    }
    app.namespace_changed(nqn, nsid);
}

/// Removes a namespace.
///
/// # Errors
/// `ENODEV` without the subsystem, `ENOENT` without the namespace.
pub async fn remove_namespace(app: &Rc<AppState>, nqn: &str, nsid: u32) -> Result<()> {
    let _guard = lock_subsystem(app, nqn).await?;
    remove_locked(app, nqn, nsid).await
}

/// Like [`remove_namespace`]. The caller has locked the subsystem.
pub(super) async fn remove_locked(app: &Rc<AppState>, nqn: &str, nsid: u32) -> Result<()> {
    let removed = {
        let mut model = app.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(nqn);
        subsystem.and_then(|subsystem| {
            let removed = subsystem.namespaces.remove(&nsid)?;
            subsystem.ana_group_changed(removed.anagrpid);
            Some(removed)
        })
    };
    if removed.is_none() {
        return Err(Error::new(errno::ENOENT, format!("nsid {nsid}: no such namespace in {nqn}")));
    }
    end_in_groups(app, nqn, nsid).await?;
    let desc = app.bdevs.borrow_mut().remove(&(nqn.to_owned(), nsid));
    drop(desc);
    app.namespace_changed(nqn, nsid);
    Ok(())
}

async fn end_in_groups(app: &Rc<AppState>, nqn: &str, nsid: u32) -> Result<()> {
    let nqn = nqn.to_owned();
    on_groups(app, move |group, reply| group.remove_namespace(&nqn, nsid, reply)).await
}
