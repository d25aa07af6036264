//! One seed: threads, a virtual clock and a scheduler that decides what happens next.

use crate::abi::{host, threads};
use crate::client::{Client, Request};
use crate::control::Quiesce;
use crate::memory::Memory;
use crate::model::Tag;
use crate::rng::{Rng, mix};
use crate::stack::{self, Node, Top};
use crate::weights::Weights;
use drivebay_core::bdev::set_most_io;
use drivebay_core::env::{buf, memory};
use drivebay_core::reactor::stepped::Stepped;
use drivebay_core::reactor::thread;
use drivebay_core::services;
use std::cell::{Cell, RefCell};
use std::ptr;
use std::rc::Rc;

thread_local! {
    static SIM: Cell<*const Sim> = const { Cell::new(ptr::null()) };
}

/// The simulation that runs on this OS thread.
pub(crate) fn sim() -> &'static Sim {
    // SAFETY: null, or the simulation of `run`, which sets the pointer first and clears it before the
    // simulation ends. Only `run` and the messages and callbacks inside it call this function.
    unsafe { SIM.get().as_ref() }.expect("inside `run`")
}

pub(crate) struct Sim {
    pub(crate) rng: Rng,
    pub(crate) weights: Weights,
    pub(crate) now: Cell<u64>,
    /// Number of I/Os that this life may still submit.
    pub(crate) budget: Cell<u64>,
    pub(crate) submitted: Cell<u64>,
    completed: Cell<u64>,
    sequence: Cell<u64>,
    tag: Cell<Tag>,
    trace: Cell<u64>,
    /// Whether the life ends. Then clients release their channels.
    pub(crate) ending: Cell<bool>,
    /// Whether this life has removed or aborted something.
    pub(crate) removing: Cell<bool>,
    pub(crate) aborts: Cell<bool>,
    pub(crate) nodes: RefCell<Vec<Node>>,
    pub(crate) tops: RefCell<Vec<Rc<Top>>>,
    clients: RefCell<Vec<Rc<Client>>>,
    requests: RefCell<Vec<Rc<Request>>>,
    pub(crate) scratch: RefCell<Vec<u8>>,
    pub(crate) quiesces: RefCell<Vec<Quiesce>>,
    /// Control operations that have not reported their end yet.
    pub(crate) open_ends: Cell<u64>,
    built: Cell<bool>,
    pub(crate) removed: RefCell<Vec<bool>>,
    threads: RefCell<Vec<u64>>,
}

/// The results of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Number of I/Os of clients.
    pub ios: u64,
    /// A hash of all events in their order. The same seed has the same hash.
    pub trace: u64,
    /// The mood of the seed.
    pub mood: &'static str,
}

/// Number of turns without a completion after which the simulation counts as stuck.
const PATIENCE: u64 = 400_000;

/// Runs a seed with `ios` I/Os.
///
/// # Panics
/// When the bus breaks a promise.
pub fn run(reactor: &mut Stepped, seed: u64, ios: u64) -> Report {
    let rng = Rng::new(seed);
    let weights = Weights::draw(&rng);
    let sim = Sim {
        rng,
        weights,
        now: Cell::new(1),
        budget: Cell::new(0),
        submitted: Cell::new(0),
        completed: Cell::new(0),
        sequence: Cell::new(0),
        tag: Cell::new(1),
        trace: Cell::new(0),
        ending: Cell::new(false),
        removing: Cell::new(false),
        aborts: Cell::new(false),
        nodes: RefCell::default(),
        tops: RefCell::default(),
        clients: RefCell::default(),
        requests: RefCell::default(),
        scratch: RefCell::default(),
        quiesces: RefCell::default(),
        open_ends: Cell::new(0),
        built: Cell::new(false),
        removed: RefCell::default(),
        threads: RefCell::default(),
    };
    SIM.set(&raw const sim);
    set_most_io(weights.most_io);
    let used = memory::used();
    sim.start_threads(reactor);
    while sim.submitted.get() < ios {
        let left = ios - sim.submitted.get();
        sim.live(reactor, left.min(ios / weights.lives + 1));
    }
    sim.end_threads(reactor);
    // The bus allocates its buffer of zeroes at the first use, and keeps it.
    let more = memory::used() - used;
    assert!(more == 0 || (used == reactor_memory() && more == 1 << 20), "{more} bytes are left");
    SIM.set(ptr::null());
    Report { ios: sim.submitted.get(), trace: sim.trace.get(), mood: weights.mood }
}

impl Sim {
    fn start_threads(&self, reactor: &mut Stepped) {
        for number in 0..self.rng.within(1, 4) {
            let cores = drivebay_core::env::CpuSet::one(0);
            let id = thread::create(&format!("sim{number}"), &cores).unwrap();
            self.threads.borrow_mut().push(id);
        }
        assert!(reactor.threads().count() > 1);
    }

    fn end_threads(&self, reactor: &mut Stepped) {
        for &id in self.threads.borrow().iter() {
            thread::send_boxed(id, move || exit(id));
        }
        for turn in 0.. {
            let left: Vec<u64> = reactor.threads().collect();
            for &id in &left {
                reactor.round(id, 64);
            }
            if left.len() == 1 {
                break;
            }
            assert!(turn < 10_000, "a thread does not end: {left:?}");
        }
    }

    /// Builds a stack, uses it, removes it, and checks that nothing is left.
    fn live(&self, reactor: &mut Stepped, ios: u64) {
        self.budget.set(ios);
        self.built.set(false);
        self.ending.set(false);
        self.removing.set(false);
        self.aborts.set(false);
        thread::send_app(|| {
            stack::build();
            sim().removed.borrow_mut().resize(sim().nodes.borrow().len(), false);
            sim().open_clients();
            sim().built.set(true);
        });
        let (mut quiet, mut completed) = (0, 0);
        while !self.is_over() {
            self.turn(reactor);
            quiet += 1;
            if self.completed.get() != completed {
                (quiet, completed) = (0, self.completed.get());
            }
            if self.budget.get() == 0 || self.tops.borrow().iter().all(|top| top.removed.get()) {
                self.ending.set(self.built.get());
            }
            assert!(quiet < PATIENCE, "the simulation is stuck: {}", self.state());
        }
        self.check_clean(reactor);
    }

    fn open_clients(&self) {
        let threads = self.threads.borrow();
        for top in self.tops.borrow().iter() {
            for &thread in threads.iter().take(self.rng.within(1, threads.len() as u64) as usize) {
                let desc = stack::open_top(top).unwrap();
                self.clients.borrow_mut().push(Client::new(thread, top, desc));
            }
        }
    }

    /// Makes one decision and runs one round of one thread.
    fn turn(&self, reactor: &mut Stepped) {
        self.decide();
        let rng = &self.rng;
        let step = if rng.chance(2) { rng.below(200_000) } else { rng.below(400) };
        self.now.set(self.now.get() + step);
        reactor.set_clock(self.now.get());
        let threads: Vec<u64> = reactor.threads().collect();
        let most = if rng.chance(30) { rng.within(1, 3) as usize } else { 64 };
        reactor.round(rng.pick(&threads), most);
    }

    fn decide(&self) {
        if !self.built.get() {
            return;
        }
        let rng = &self.rng;
        if rng.chance(50) {
            let clients = self.clients.borrow();
            if !clients.is_empty() {
                let place = rng.index(clients.len());
                thread::send_boxed(clients[place].thread, move || {
                    let client = Rc::clone(&sim().clients.borrow()[place]);
                    client.step();
                });
            }
        }
        if rng.chance(50) {
            let nodes = self.nodes.borrow();
            let place = rng.index(nodes.len());
            let mut threads = Vec::new();
            nodes[place].work(&mut threads);
            for id in threads {
                thread::send_boxed(id, move || {
                    let node = sim().nodes.borrow()[place].clone(); // `act` runs without the borrow
                    node.act();
                });
            }
        }
        let roll = rng.below(10_000);
        let weights = &self.weights;
        let mut bound = weights.remove;
        if roll < bound || (self.ending.get() && roll < 500) {
            let place = rng.index(self.nodes.borrow().len());
            thread::send_app(move || sim().remove(place));
        }
        bound += weights.quiesce;
        if roll < bound && !self.ending.get() {
            let place = rng.index(self.nodes.borrow().len());
            thread::send_app(move || sim().quiesce(place));
        }
        if rng.chance(2) || self.ending.get() {
            self.let_one_go();
        }
        bound += weights.resize;
        if roll < bound {
            thread::send_app(|| sim().resize());
        }
        bound += weights.churn;
        if roll < bound {
            let cores = drivebay_core::env::CpuSet::one(0);
            let id = thread::create("passing", &cores).unwrap();
            thread::send_boxed(id, move || exit(id));
        }
    }

    /// Whether nothing of the life is left.
    fn is_over(&self) -> bool {
        self.ending.get()
            && self.open_ends.get() == 0
            && self.quiesces.borrow().is_empty()
            && self.nodes.borrow().iter().all(Node::destructed)
            && self.clients.borrow().iter().all(|client| client.closed.get())
    }

    fn check_clean(&self, reactor: &mut Stepped) {
        assert_eq!(self.submitted.get(), self.completed.get(), "completions");
        assert_eq!(services::owned(host()), 0, "bdevs or descriptors are left");
        let threads: Vec<u64> = reactor.threads().collect();
        for id in threads {
            for _ in 0..20 {
                reactor.round(id, 64); // runs pending work, for example a client's last step
            }
            thread::send_boxed(id, || {
                let left = thread::info().unwrap().channels;
                assert!(left.is_empty(), "channels are left: {left:?}");
            });
            reactor.round(id, 64);
        }
        for len in [1, buf::max_len()] {
            // The pools have one buffer each.
            // SAFETY: the call passes no waiter.
            let got = unsafe { buf::get(len, ptr::null_mut()) };
            let (buffer, _) = got.expect("a buffer was not given back");
            buf::put(buffer, len);
        }
        self.clients.borrow_mut().clear();
        self.tops.borrow_mut().clear();
        self.nodes.borrow_mut().clear();
        self.removed.borrow_mut().clear();
        self.requests.borrow_mut().clear();
    }

    fn state(&self) -> String {
        let clients: Vec<String> =
            self.clients.borrow().iter().map(|client| client.state()).collect();
        let left: Vec<String> = (self.nodes.borrow().iter())
            .filter(|node| !node.destructed())
            .map(Node::state)
            .collect();
        format!(
            "{} of {} I/O ended; ends not told: {}; quiesced: {}; bdevs left:\n{}\n{}",
            self.completed.get(),
            self.submitted.get(),
            self.open_ends.get(),
            self.quiesces.borrow().len(),
            left.join("\n"),
            clients.join("\n")
        )
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.set(self.sequence.get() + 1);
        self.sequence.get()
    }

    pub(crate) fn next_tags(&self, count: u64) -> Tag {
        self.tag.replace(self.tag.get() + count)
    }

    pub(crate) fn note(&self, what: &[u64]) {
        let trace = what.iter().fold(self.trace.get(), |trace, &value| mix(trace ^ value));
        self.trace.set(mix(trace ^ self.now.get()));
    }

    pub(crate) fn completed(&self, request: Rc<Request>, memory: Option<Memory>) {
        self.completed.set(self.completed.get() + 1);
        if let Some(memory) = memory {
            memory.give_back();
        }
        // The request is kept, so that a second completion is recognized.
        self.requests.borrow_mut().push(request);
    }
}

/// Memory of the pools, in bytes.
fn reactor_memory() -> u64 {
    buf::options().small_size as u64 + buf::options().large_size as u64
}

fn exit(id: u64) {
    // SAFETY: the call passes only a handle.
    let status = unsafe { threads().exit.unwrap()(host(), id) };
    assert_eq!(status, 0, "exit");
}
