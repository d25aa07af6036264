//! The names of bdevs: unique names, UUIDs and aliases, and names that are reserved for bdevs that
//! are registered later. Also the handles of bdevs.

use crate::bdev::state::{Bdev, uuid_text};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Returns all bdevs, sorted by name.
#[must_use]
pub fn all() -> Vec<Arc<Bdev>> {
    bus(|bus| {
        let unique = bus.by_name.iter().filter(|(name, bdev)| **name == bdev.name);
        unique.map(|(_, bdev)| Arc::clone(bdev)).collect()
    })
}

/// Finds a bdev by name, alias or UUID (as text).
#[must_use]
pub fn find(name: &str) -> Option<Arc<Bdev>> {
    bus(|bus| bus.by_name.get(name).or_else(|| bus.by_name.get(&name.to_lowercase())).cloned())
}

/// Finds a bdev by handle.
#[must_use]
pub fn by_id(id: u64) -> Option<Arc<Bdev>> {
    bus(|bus| bus.by_id.get(&id).cloned())
}

/// The number of bdevs that an owner has.
#[must_use]
pub fn owned(owner: usize) -> usize {
    bus(|bus| bus.by_id.values().filter(|bdev| bdev.owner == owner).count())
}

/// Returns the bdevs of an owner, including those that are being removed.
pub(super) fn of_owner(owner: usize) -> Vec<Arc<Bdev>> {
    bus(|bus| bus.by_id.values().filter(|bdev| bdev.owner == owner).cloned().collect())
}

#[derive(Default)]
pub(super) struct Bus {
    pub(super) by_name: BTreeMap<String, Arc<Bdev>>,
    pub(super) by_id: BTreeMap<u64, Arc<Bdev>>,
    pub(super) next_id: u64,
    /// Names and UUIDs that are reserved for a bdev that is registered later.
    reserved: BTreeMap<String, Reservation>,
}

struct Reservation {
    owner: usize,
    /// The name of the bdev.
    name: String,
}

impl Bus {
    /// Checks that no other reservation stands in the way when `owner` gives the bdev `name` the
    /// additional name `wanted`.
    pub(super) fn check_free(&self, owner: usize, name: &str, wanted: &str) -> Result<()> {
        let is_own = |reserved: &Reservation| reserved.owner == owner && reserved.name == name;
        if self.reserved.get(wanted).is_some_and(|reserved| !is_own(reserved)) {
            let message = format!(
                "the name {wanted} is reserved for a bdev that is created when its base appears"
            );
            return Err(Error::new(libc::EEXIST, message));
        }
        Ok(())
    }
}

static BUS: Mutex<Option<Bus>> = Mutex::new(None);

pub(super) fn bus<T>(f: impl FnOnce(&mut Bus) -> T) -> T {
    let mut bus = BUS.lock().unwrap_or_else(PoisonError::into_inner);
    f(bus.get_or_insert_with(Bus::default))
}

/// Reserves a name and a UUID for a bdev that `owner` registers later. If all bytes of `uuid` are
/// 0, the UUID is derived from the name. The owner may still have a bdev of that name, and may
/// remove it while the reservation lasts.
///
/// # Errors
/// `EEXIST` when the name or the UUID is taken.
pub fn reserve(owner: usize, name: &str, uuid: [u8; 16]) -> Result<()> {
    let uuid = if uuid == [0; 16] { uuid_of(name) } else { uuid };
    bus(|bus| {
        let names = names(name, &uuid, &[]);
        let is_own = |bdev: &Bdev| bdev.owner == owner && bdev.name == name;
        for wanted in &names {
            bus.check_free(owner, name, wanted)?;
            if bus.by_name.get(wanted).is_some_and(|bdev| !is_own(bdev)) {
                return Err(Error::new(libc::EEXIST, format!("bdev {wanted} already exists")));
            }
        }
        let reservation = |wanted| (wanted, Reservation { owner, name: name.to_owned() });
        bus.reserved.extend(names.into_iter().map(reservation));
        Ok(())
    })
}

/// Releases a reservation.
///
/// # Errors
/// `ENOENT` when `owner` has no reservation of that name.
pub fn release(owner: usize, name: &str) -> Result<()> {
    let count = release_if(|reserved| reserved.owner == owner && reserved.name == name);
    let none = || Error::new(libc::ENOENT, format!("name {name} is not reserved"));
    if count > 0 { Ok(()) } else { Err(none()) }
}

/// Releases all reservations of a plugin that stops.
pub(crate) fn release_all(owner: usize) {
    release_if(|reserved| reserved.owner == owner);
}

fn release_if(is_meant: impl Fn(&Reservation) -> bool) -> usize {
    bus(|bus| {
        let before = bus.reserved.len();
        bus.reserved.retain(|_, reserved| !is_meant(reserved));
        before - bus.reserved.len()
    })
}

/// Gives a bdev an alias. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `EINVAL` when the alias is empty or too long; `EEXIST` when
/// a bdev already has this name.
pub fn add_alias(id: u64, alias: &str) -> Result<()> {
    let bdev = by_id(id).filter(|bdev| !bdev.is_removed()).ok_or_else(Error::no_such_device)?;
    if alias.is_empty() || alias.len() > NAME_MAX_LEN || alias.contains('\0') {
        let message =
            format!("an alias of bdev {} must be 1 to {NAME_MAX_LEN} bytes long", bdev.name);
        return Err(Error::new(libc::EINVAL, message));
    }
    bus(|bus| {
        if bus.by_name.contains_key(alias) {
            return Err(Error::new(libc::EEXIST, format!("bdev {alias} already exists")));
        }
        bus.by_name.insert(alias.to_owned(), Arc::clone(&bdev));
        Ok(())
    })?;
    bdev.control().aliases.push(alias.to_owned());
    Ok(())
}

/// Removes an alias that came from `add_alias` or from the registration. App thread.
///
/// # Errors
/// `ENODEV` when there is no such bdev; `ENOENT` when the bdev has no such alias.
pub fn remove_alias(id: u64, alias: &str) -> Result<()> {
    let bdev = by_id(id).filter(|bdev| !bdev.is_removed()).ok_or_else(Error::no_such_device)?;
    {
        let mut control = bdev.control();
        let Some(place) = control.aliases.iter().position(|other| other == alias) else {
            let message = format!("bdev {} has no alias {alias}", bdev.name);
            return Err(Error::new(libc::ENOENT, message));
        };
        control.aliases.remove(place);
    }
    bus(|bus| bus.by_name.remove(alias));
    Ok(())
}

/// All names by which a bdev can be found.
pub(super) fn names(name: &str, uuid: &[u8; 16], aliases: &[String]) -> Vec<String> {
    let mut names = vec![name.to_owned(), uuid_text(uuid)];
    names.extend(aliases.iter().cloned());
    names
}

/// The longest name of a bdev, in bytes.
pub(super) const NAME_MAX_LEN: usize = 255;

/// A UUID in the format of version 5 that depends only on the name.
pub(super) fn uuid_of(name: &str) -> [u8; 16] {
    // FNV-1a twice with different seeds. The UUID identifies; it is not for security.
    let hash = |seed: u64| {
        name.bytes()
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    let wide =
        (u128::from(hash(0xcbf2_9ce4_8422_2325)) << 64) | u128::from(hash(0x9e37_79b9_7f4a_7c15));
    let mut bytes = wide.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x50;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}
