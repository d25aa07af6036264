//! Quiesced blocks: the fake host holds back new I/O to them until they are released. A test asks for this with
//! [`FakeHost::hold_quiesced`]; otherwise a quiesce has no effect.
#![expect(unsafe_code, reason = "implements the host's side of the ABI")]
#![allow(clippy::unwrap_used, reason = "for tests")]

use super::*;

/// Blocks of a bdev.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    bdev: u64,
    lba: u64,
    /// 0 stands for all blocks of the bdev.
    nblocks: u64,
}

impl Blocks {
    /// The blocks of an I/O; `None` if it has no range.
    fn of(state: &State, io: *mut bay_io) -> Option<Self> {
        // SAFETY: `new_io` made the request, and it is live.
        let FakeIo { chan, io: bay_io { lba, nblocks, .. }, .. } = unsafe { &*io.cast::<FakeIo>() };
        let bdev = state.chans.get(chan)?.bdev;
        (*nblocks > 0).then_some(Self { bdev, lba: *lba, nblocks: *nblocks })
    }

    fn overlap(self, other: Self) -> bool {
        let end = |blocks: Self| match blocks.nblocks {
            0 => u64::MAX,
            nblocks => blocks.lba + nblocks,
        };
        self.bdev == other.bdev && self.lba < end(other) && other.lba < end(self)
    }
}

#[derive(Default)]
pub(super) struct Quiesced {
    is_on: bool,
    ranges: Vec<Blocks>,
    /// I/O in flight.
    in_flight: Vec<*mut bay_io>,
    held: VecDeque<*mut bay_io>,
    /// Callers that wait until no I/O to their blocks is in flight.
    waiting: Vec<(Blocks, Callback)>,
}

impl FakeHost {
    /// From now on, a quiesce holds back I/O, as on the real bus.
    pub fn hold_quiesced(&self) {
        state(|state| state.quiesced.is_on = true);
    }
}

/// Whether an I/O may begin now. If not, it is held back.
pub(super) fn lets_begin(io: *mut bay_io) -> bool {
    state(|state| {
        let blocks = Blocks::of(state, io).filter(|_| state.quiesced.is_on);
        let Some(blocks) = blocks else { return true };
        let is_held = state.quiesced.ranges.iter().any(|range| range.overlap(blocks));
        let quiesced = &mut state.quiesced;
        if is_held {
            quiesced.held.push_back(io);
        } else {
            quiesced.in_flight.push(io);
        }
        !is_held
    })
}

/// An I/O has ended.
pub(super) fn ended(io: *mut bay_io) {
    state(|state| state.quiesced.in_flight.retain(|other| *other != io));
}

/// Calls back those whose blocks have no I/O in flight.
pub(super) fn call_back() {
    let quiet = state(|state| {
        let in_flight: Vec<Blocks> =
            state.quiesced.in_flight.iter().filter_map(|io| Blocks::of(state, *io)).collect();
        let is_quiet = |blocks: Blocks| !in_flight.iter().any(|other| other.overlap(blocks));
        let (quiet, waiting) = std::mem::take(&mut state.quiesced.waiting)
            .into_iter()
            .partition(|(blocks, _)| is_quiet(*blocks));
        state.quiesced.waiting = waiting;
        let quiet: Vec<(Blocks, Callback)> = quiet;
        quiet
    });
    let app = state(|state| state.threads.app());
    for (_, (done, arg)) in quiet {
        // SAFETY: the module's callback with its argument; this is the only call.
        on_thread(app, || unsafe { done.unwrap()(arg, 0) });
    }
}

pub(super) unsafe extern "C" fn quiesce(
    _: H,
    bdev: u64,
    lba: u64,
    nblocks: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let is_on = state(|state| {
        if state.quiesced.is_on {
            let blocks = Blocks { bdev, lba, nblocks };
            state.quiesced.ranges.push(blocks);
            state.quiesced.waiting.push((blocks, (done, arg)));
        }
        state.quiesced.is_on
    });
    if let Some(done) = done.filter(|_| !is_on) {
        // SAFETY: the module's callback with its argument; this is the only call.
        unsafe { done(arg, 0) };
    }
    0
}

pub(super) unsafe extern "C" fn unquiesce(
    _: H,
    bdev: u64,
    lba: u64,
    nblocks: u64,
    done: Option<api::bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    let released = state(|state| {
        let blocks = Blocks { bdev, lba, nblocks };
        let ranges = &mut state.quiesced.ranges;
        if let Some(place) = ranges.iter().position(|range| *range == blocks) {
            ranges.swap_remove(place);
        }
        std::mem::take(&mut state.quiesced.held)
    });
    for io in released {
        if lets_begin(io) {
            begin(io);
        }
    }
    if let Some(done) = done {
        // SAFETY: the module's callback with its argument; this is the only call.
        unsafe { done(arg, 0) };
    }
    0
}
