//! The addresses of a controller. One of them is in use; when it fails, the next one replaces it (`multipath`: `failover`). `[app thread]`

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::reach::Reach;
use crate::rpc::Attach;

/// One address, with the parameters of the call that gave it.
#[derive(Debug)]
pub(crate) struct Trid {
    pub(crate) attach: Attach,
    pub(crate) target: Reach,
    /// Commands that were sent to this address may execute until this time, on the host's clock in nanoseconds.
    executes_until_ns: Cell<u64>,
}

/// The addresses, in the order of the calls.
#[derive(Debug)]
pub(crate) struct Trids {
    all: RefCell<Vec<Rc<Trid>>>,
    /// Index of the address in use.
    current: RefCell<Rc<Trid>>,
    /// The latest `executes_until_ns` of the addresses that were removed.
    removed_until_ns: Cell<u64>,
}

/// What [`Trids::remove`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    None,
    Others,
    /// The address in use was removed, and another one has replaced it.
    Current,
    /// The filter names every address. None was removed, because the caller must remove the whole controller instead.
    All,
}

impl Trid {
    pub(crate) fn new(attach: Attach, target: Reach) -> Self {
        Self { attach, target, executes_until_ns: Cell::new(0) }
    }
}

impl Trids {
    pub(crate) fn new(first: Trid) -> Self {
        let first = Rc::new(first);
        Self {
            all: RefCell::new(vec![Rc::clone(&first)]),
            current: RefCell::new(first),
            removed_until_ns: Cell::new(0),
        }
    }

    /// The address in use.
    pub(crate) fn current(&self) -> Rc<Trid> {
        Rc::clone(&self.current.borrow())
    }

    /// All addresses.
    pub(crate) fn all(&self) -> Vec<Rc<Trid>> {
        self.all.borrow().clone()
    }

    /// The addresses that are not in use.
    pub(crate) fn alternates(&self) -> Vec<Rc<Trid>> {
        let current = self.current();
        let mut all = self.all();
        all.retain(|trid| !Rc::ptr_eq(trid, &current));
        all
    }

    pub(crate) fn has(&self, trid: &Rc<Trid>) -> bool {
        self.all.borrow().iter().any(|other| Rc::ptr_eq(other, trid))
    }

    pub(crate) fn count(&self) -> usize {
        self.all.borrow().len()
    }

    pub(crate) fn add(&self, trid: Trid) {
        self.all.borrow_mut().push(Rc::new(trid));
    }

    /// Uses the next address.
    pub(crate) fn advance(&self) {
        let (all, current) = (self.all.borrow(), self.current());
        let after = all.iter().skip_while(|trid| !Rc::ptr_eq(trid, &current)).nth(1);
        if let Some(next) = after.or_else(|| all.first()) {
            self.current.replace(Rc::clone(next));
        }
    }

    /// Removes the addresses that `is_meant` accepts, unless it accepts all of them.
    pub(crate) fn remove(&self, is_meant: impl Fn(&Trid) -> bool) -> Removed {
        let is_current_meant = is_meant(&self.current());
        let mut all = self.all.borrow_mut();
        let count = all.iter().filter(|trid| is_meant(trid)).count();
        if count == 0 {
            return Removed::None;
        }
        if count == all.len() {
            return Removed::All;
        }
        for trid in all.extract_if(.., |trid| is_meant(trid)) {
            let until_ns = self.removed_until_ns.get().max(trid.executes_until_ns.get());
            self.removed_until_ns.set(until_ns);
        }
        match all.first() {
            Some(first) if is_current_meant => {
                self.current.replace(Rc::clone(first));
                Removed::Current
            }
            _ => Removed::Others,
        }
    }

    /// Records that the connection to an address has ended, even if the address was removed. The target may execute commands until
    /// `until_ns`.
    pub(crate) fn left(&self, trid: &Rc<Trid>, until_ns: u64) {
        trid.executes_until_ns.set(until_ns);
        if !self.has(trid) {
            self.removed_until_ns.set(self.removed_until_ns.get().max(until_ns));
        }
    }

    /// Returns the time after which no command of an earlier connection can execute, once the address in use is connected again. The
    /// target at this address has then closed its old connections, so `quiet_ns` is enough for them. Targets at other addresses may still
    /// have theirs open, so their times count, too.
    pub(crate) fn quiet_ns(&self, quiet_ns: u64) -> u64 {
        let others = self.alternates();
        let others = others.iter().map(|trid| trid.executes_until_ns.get());
        others.chain([self.removed_until_ns.get(), quiet_ns]).max().unwrap_or(quiet_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::Target;
    use drivebay_nvme_driver::tcp::Digests;
    use drivebay_sdk::runtime::net::{self, Address};
    use std::time::Duration;

    fn trid(traddr: &str) -> Trid {
        let target = Target {
            address: Address::ip("traddr", traddr, 4420).unwrap(),
            options: net::Options::default(),
            subnqn: String::new(),
            hostnqn: String::new(),
            hostid: [0; 16],
            digests: Digests { header: false, data: false },
            limit: Duration::from_secs(1),
        };
        Trid::new(Attach::tcp("Nvme0".into(), traddr.into()).unwrap(), Reach::Tcp(target))
    }

    fn three() -> Trids {
        let trids = Trids::new(trid("127.0.0.1"));
        trids.add(trid("127.0.0.2"));
        trids.add(trid("127.0.0.3"));
        trids
    }

    fn current(trids: &Trids) -> String {
        trids.current().attach.traddr.clone()
    }

    fn remove(trids: &Trids, traddr: &str) -> Removed {
        trids.remove(|trid| trid.attach.traddr == traddr)
    }

    #[test]
    fn addresses_are_used_in_turn() {
        let trids = three();
        let used: Vec<String> = (0..4)
            .map(|_| {
                trids.advance();
                current(&trids)
            })
            .collect();
        assert_eq!(used, ["127.0.0.2", "127.0.0.3", "127.0.0.1", "127.0.0.2"]);
    }

    #[test]
    fn the_address_in_use_stays_when_another_is_removed_and_the_last_one_is_never_removed() {
        let trids = three();
        trids.advance();
        assert_eq!(remove(&trids, "127.0.0.9"), Removed::None);
        assert_eq!(remove(&trids, "127.0.0.1"), Removed::Others);
        assert_eq!(current(&trids), "127.0.0.2");
        assert_eq!(remove(&trids, "127.0.0.2"), Removed::Current);
        assert_eq!(current(&trids), "127.0.0.3");
        assert_eq!(remove(&trids, "127.0.0.3"), Removed::All);
        assert_eq!(trids.count(), 1);
    }

    #[test]
    fn commands_at_another_address_are_waited_for_and_those_at_the_same_address_are_not() {
        let trids = three();
        trids.left(&trids.current(), 900);
        assert_eq!(trids.quiet_ns(100), 100, "its target closed them when it was connected again");
        trids.advance();
        assert_eq!(trids.quiet_ns(100), 900);
        remove(&trids, "127.0.0.1");
        assert_eq!(trids.quiet_ns(100), 900, "it may still execute");
        assert_eq!(trids.quiet_ns(1000), 1000);
    }

    #[test]
    fn commands_at_the_address_in_use_are_waited_for_when_a_call_removes_it() {
        let trids = three();
        let connected = trids.current();
        assert_eq!(remove(&trids, "127.0.0.1"), Removed::Current);
        assert!(!trids.has(&connected));
        trids.left(&connected, 900);
        assert_eq!(trids.quiet_ns(100), 900);
    }
}
