//! The broker between plugins: one plugin offers a table under an id, others acquire references to
//! it.
//!
//! The broker lives on the app thread. It calls a plugin only while none of its tables is borrowed, because the plugin may call the broker
//! again.

use super::error::{Error, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fmt;
use std::rc::Rc;

/// The maximum number of offers, and the maximum number of references, of one instance.
const PER_OWNER_MAX: usize = 256;

/// Tells the holder of a reference that the provider goes away.
pub(super) type Revoked = Rc<dyn Fn()>;
/// Tells a provider that its last reference is gone.
pub(super) type Withdrawn = Box<dyn FnOnce()>;

/// Loads the plugin that provides an interface, if there is one.
pub(super) type LoadProvider = Box<dyn Fn(&str) -> Result<()>>;

/// All offers and references.
pub(super) struct Broker {
    load_provider: LoadProvider,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    offers: BTreeMap<u64, Offer>,
    references: BTreeMap<u64, Reference>,
}

struct Offer {
    owner: u64,
    id: String,
    table: *const c_void,
    /// Called when a withdrawn offer has no references any more.
    withdrawn: Option<Withdrawn>,
    is_withdrawn: bool,
}

struct Reference {
    owner: u64,
    offer: u64,
    revoked: Option<Revoked>,
}

impl Broker {
    pub(super) fn new(load_provider: LoadProvider) -> Self {
        Self { load_provider, inner: RefCell::default() }
    }

    /// Offers `table` and returns the handle of the offer.
    pub(super) fn provide(&self, owner: u64, id: &str, table: *const c_void) -> Result<u64> {
        let mut inner = self.inner.borrow_mut();
        if inner.find(id).is_some() {
            return Err(Error::new(libc::EEXIST, format!("{id} is already provided")));
        }
        if inner.offers.values().filter(|o| o.owner == owner).count() >= PER_OWNER_MAX {
            return Err(Error::new(
                libc::ENOSPC,
                format!("a plugin may provide at most {PER_OWNER_MAX} interfaces"),
            ));
        }
        let offer = Offer { owner, id: id.to_owned(), table, withdrawn: None, is_withdrawn: false };
        let handle = inner.next();
        inner.offers.insert(handle, offer);
        Ok(handle)
    }

    /// Whether any plugin offers `id` now.
    pub(super) fn is_provided(&self, id: &str) -> bool {
        self.inner.borrow().find(id).is_some()
    }

    /// Whether this owner offers `id` now.
    pub(super) fn is_provided_by(&self, owner: u64, id: &str) -> bool {
        let inner = self.inner.borrow();
        inner.offers.values().any(|offer| offer.owner == owner && offer.id == id)
    }

    /// Returns a table and the handle of the new reference to it. If no plugin offers it yet, the
    /// broker first loads its provider, and the caller waits for its file. `None` when no plugin
    /// provides it.
    pub(super) fn acquire(
        &self,
        owner: u64,
        id: &str,
        revoked: Option<Revoked>,
    ) -> Result<Option<(*const c_void, u64)>> {
        if !self.is_provided(id) {
            (self.load_provider)(id)?;
        }
        let mut inner = self.inner.borrow_mut();
        let Some((offer, table)) = inner.find(id) else { return Ok(None) };
        if inner.references.values().filter(|r| r.owner == owner).count() >= PER_OWNER_MAX {
            return Err(Error::new(
                libc::ENOSPC,
                format!("a plugin may have at most {PER_OWNER_MAX} references"),
            ));
        }
        let handle = inner.next();
        inner.references.insert(handle, Reference { owner, offer, revoked });
        Ok(Some((table, handle)))
    }

    /// Releases a reference of `owner`.
    pub(super) fn release(&self, owner: u64, handle: u64) -> Result<()> {
        let offer = {
            let mut inner = self.inner.borrow_mut();
            match inner.references.get(&handle) {
                Some(reference) if reference.owner == owner => {}
                _ => return Err(Error::new(libc::ENOENT, format!("no reference {handle}"))),
            }
            inner.references.remove(&handle).map(|reference| reference.offer)
        };
        offer.into_iter().for_each(|offer| self.end_if_unused(offer));
        Ok(())
    }

    /// Withdraws an offer. Tells the holders of references, and calls `done` when the last one is
    /// released.
    pub(super) fn withdraw(&self, owner: u64, handle: u64, done: Withdrawn) -> Result<()> {
        let holders = {
            let mut inner = self.inner.borrow_mut();
            match inner.offers.get_mut(&handle) {
                Some(offer) if offer.owner == owner && !offer.is_withdrawn => {
                    offer.is_withdrawn = true;
                    offer.withdrawn = Some(done);
                }
                _ => return Err(Error::new(libc::ENOENT, format!("no offer {handle}"))),
            }
            inner.holders_of(handle)
        };
        holders.iter().for_each(|revoked| revoked());
        self.end_if_unused(handle);
        Ok(())
    }

    /// The number of references that others hold to the offers of `owner`.
    pub(super) fn references_to(&self, owner: u64) -> usize {
        let inner = self.inner.borrow();
        let is_of_owner = |reference: &&Reference| {
            reference.owner != owner
                && inner.offers.get(&reference.offer).is_some_and(|o| o.owner == owner)
        };
        inner.references.values().filter(is_of_owner).count()
    }

    /// Removes everything of `owner`, and tells the holders of references to its offers.
    pub(super) fn withdraw_all(&self, owner: u64) {
        let (released, revoked) = {
            let mut inner = self.inner.borrow_mut();
            let released: Vec<u64> =
                inner.references.values().filter(|r| r.owner == owner).map(|r| r.offer).collect();
            inner.references.retain(|_, reference| reference.owner != owner);
            let offers: Vec<u64> =
                inner.offers.iter().filter(|(_, o)| o.owner == owner).map(|(h, _)| *h).collect();
            let revoked: Vec<Revoked> =
                offers.iter().flat_map(|offer| inner.holders_of(*offer)).collect();
            inner.offers.retain(|_, offer| offer.owner != owner);
            (released, revoked)
        };
        revoked.iter().for_each(|revoked| revoked());
        released.into_iter().for_each(|offer| self.end_if_unused(offer));
    }

    fn end_if_unused(&self, offer: u64) {
        let done = {
            let mut inner = self.inner.borrow_mut();
            let is_used = inner.references.values().any(|r| r.offer == offer);
            match inner.offers.get(&offer) {
                Some(found) if found.is_withdrawn && !is_used => {}
                _ => return,
            }
            inner.offers.remove(&offer).and_then(|offer| offer.withdrawn)
        };
        done.into_iter().for_each(|done| done());
    }
}

impl Inner {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn find(&self, id: &str) -> Option<(u64, *const c_void)> {
        let found = self.offers.iter().find(|(_, offer)| offer.id == id && !offer.is_withdrawn);
        found.map(|(handle, offer)| (*handle, offer.table))
    }

    fn holders_of(&self, offer: u64) -> Vec<Revoked> {
        let holders = self.references.values().filter(|reference| reference.offer == offer);
        holders.filter_map(|reference| reference.revoked.clone()).collect()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Broker")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const TARGET: &str = "bay.nvmf_target/1";

    fn table() -> *const c_void {
        std::ptr::dangling()
    }

    fn broker() -> Broker {
        Broker::new(Box::new(|_| Ok(())))
    }

    #[test]
    fn an_id_is_offered_once_until_it_is_withdrawn() {
        let broker = broker();
        let offer = broker.provide(1, TARGET, table()).unwrap();
        assert_eq!(broker.provide(2, TARGET, table()).unwrap_err().errno(), libc::EEXIST);
        assert!(broker.withdraw(2, offer, Box::new(|| {})).is_err(), "it belongs to another owner");
        broker.withdraw(1, offer, Box::new(|| {})).unwrap();
        assert!(!broker.is_provided(TARGET));
        broker.provide(2, TARGET, table()).unwrap();
    }

    #[test]
    fn a_withdrawal_tells_the_holders_and_ends_with_the_last_release() {
        let broker = Rc::new(broker());
        let (revocations, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let offer = broker.provide(1, TARGET, table()).unwrap();
        let count = Rc::clone(&revocations);
        let on_revoked: Revoked = Rc::new(move || count.set(count.get() + 1));
        let (_, reference) = broker.acquire(2, TARGET, Some(on_revoked)).unwrap().unwrap();
        assert_eq!((broker.references_to(1), broker.references_to(2)), (1, 0));

        let end = Rc::clone(&ended);
        broker.withdraw(1, offer, Box::new(move || end.set(true))).unwrap();
        assert_eq!((revocations.get(), ended.get()), (1, false));
        assert!(broker.acquire(3, TARGET, None).unwrap().is_none());
        assert!(broker.release(3, reference).is_err(), "it belongs to another owner");
        broker.release(2, reference).unwrap();
        assert!(ended.get());
    }

    #[test]
    fn a_holder_may_release_from_inside_the_revocation() {
        let broker = Rc::new(broker());
        let offer = broker.provide(1, TARGET, table()).unwrap();
        let handle = Rc::new(Cell::new(0));
        let (inside, own) = (Rc::clone(&broker), Rc::clone(&handle));
        let on_revoked: Revoked = Rc::new(move || inside.release(2, own.get()).unwrap());
        handle.set(broker.acquire(2, TARGET, Some(on_revoked)).unwrap().unwrap().1);
        let ended = Rc::new(Cell::new(0));
        let end = Rc::clone(&ended);
        broker.withdraw(1, offer, Box::new(move || end.set(end.get() + 1))).unwrap();
        assert_eq!(ended.get(), 1);
    }

    #[test]
    fn everything_of_an_owner_is_taken_back() {
        let broker = broker();
        broker.provide(1, TARGET, table()).unwrap();
        broker.provide(2, "bay.other/1", table()).unwrap();
        broker.acquire(1, "bay.other/1", None).unwrap().unwrap();
        broker.withdraw_all(1);
        assert!(!broker.is_provided(TARGET));
        assert_eq!(broker.references_to(2), 0);
    }
}
