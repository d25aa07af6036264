//! Control operations that wait for the end of a target, or for answers of poll groups.

use crate::group::ConnectionInfo;
use crate::node::histogram::Histogram;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

type Then = Box<dyn FnOnce()>;
type ThenHistogram = Box<dyn FnOnce(Option<Histogram>)>;
type ThenAll = Box<dyn FnOnce(Vec<ConnectionInfo>)>;

/// The operations that wait.
#[derive(Default)]
pub(super) struct Waits {
    targets: RefCell<Vec<(Option<String>, Then)>>,
    gathers: RefCell<BTreeMap<u64, Gather>>,
    histograms: RefCell<BTreeMap<u64, ThenHistogram>>,
    last: Cell<u64>,
}

struct Gather {
    left: usize,
    all: Vec<ConnectionInfo>,
    then: ThenAll,
}

impl std::fmt::Debug for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waits").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Waits {
    /// Runs `then` when nothing is left of a target.
    pub(super) fn for_target(&self, name: &str, then: Then) {
        self.targets.borrow_mut().push((Some(name.to_owned()), then));
    }

    /// Runs `then` when nothing is left of any one target.
    pub(super) fn for_any_target(&self, then: Then) {
        self.targets.borrow_mut().push((None, then));
    }

    /// Reports that nothing is left of a target.
    pub(super) fn target_went(&self, name: &str) {
        let all = self.targets.take();
        let (now, later): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(of, _)| of.as_deref().is_none_or(|of| of == name));
        self.targets.borrow_mut().extend(later);
        now.into_iter().for_each(|(_, then)| then());
    }

    /// Runs `then` with the answers of `count` poll groups. Returns the number of the request.
    pub(super) fn gather(&self, count: usize, then: ThenAll) -> u64 {
        let id = self.next();
        if count == 0 {
            then(Vec::new());
        } else {
            let gather = Gather { left: count, all: Vec::new(), then };
            self.gathers.borrow_mut().insert(id, gather);
        }
        id
    }

    /// Runs `then` with a target's histogram. Returns the number of the request.
    pub(super) fn for_histogram(&self, then: ThenHistogram) -> u64 {
        let id = self.next();
        self.histograms.borrow_mut().insert(id, then);
        id
    }

    /// Delivers a poll group's answer to a request for a histogram.
    pub(super) fn histogram_came(&self, id: u64, histogram: Option<Histogram>) {
        let then = self.histograms.borrow_mut().remove(&id);
        if let Some(then) = then {
            then(histogram);
        }
    }

    fn next(&self) -> u64 {
        let id = self.last.get() + 1;
        self.last.set(id);
        id
    }

    /// Delivers a poll group's answer to a request for connections.
    pub(super) fn gathered(&self, id: u64, told: Vec<ConnectionInfo>) {
        let mut gathers = self.gathers.borrow_mut();
        let Some(gather) = gathers.get_mut(&id) else { return };
        gather.all.extend(told);
        gather.left = gather.left.saturating_sub(1);
        if gather.left == 0
            && let Some(Gather { all, then, .. }) = gathers.remove(&id)
        {
            drop(gathers);
            then(all);
        }
    }
}
