//! Operations of the control plane during I/O, on the app thread: removal, resize, quiesce.

use crate::abi::{self, bus, host};
use crate::sim::{Sim, sim};
use crate::stack::Node;
use drivebay_core::reactor::thread;
use std::ffi::c_void;
use std::ptr;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Begun,
    Held,
    LettingGo,
}

pub(crate) struct Quiesce {
    node: usize,
    range: (u64, u64),
    phase: Phase,
}

impl Sim {
    pub(crate) fn remove(&self, place: usize) {
        let nodes = self.nodes.borrow();
        if self.removed.borrow().get(place) != Some(&false) {
            return;
        }
        self.removed.borrow_mut()[place] = true;
        self.removing.set(true);
        match &nodes[place] {
            Node::Disk(disk) => self.unregister(disk.id.get()),
            Node::Filter(filter, _) => filter.unregister(),
        }
    }

    pub(crate) fn unregister(&self, id: u64) {
        self.removing.set(true);
        self.open_ends.set(self.open_ends.get() + 1);
        let unregister = bus().unregister.unwrap();
        // SAFETY: the call passes a handle, and `reported` ignores its argument.
        let status = unsafe { unregister(host(), id, Some(reported), ptr::null_mut()) };
        assert_eq!(status, 0, "unregister");
    }

    pub(crate) fn resize(&self) {
        let nodes = self.nodes.borrow();
        if nodes.is_empty() || self.ending.get() {
            return;
        }
        let place = self.rng.index(nodes.len());
        let Node::Disk(disk) = &nodes[place] else { return };
        let more = disk.blocks.get() + self.rng.within(1, 4) * 4;
        if more > crate::disk::MOST_BLOCKS || self.removed.borrow()[place] {
            return;
        }
        let before = disk.blocks.replace(more);
        assert_eq!(abi::resize(disk.id.get(), more), 0, "resize");
        let status = abi::resize(disk.id.get(), before);
        assert!(matches!(-status, 0 | libc::EBUSY), "shrink");
        if status == 0 {
            disk.blocks.set(before);
        }
    }

    pub(crate) fn quiesce(&self, node: usize) {
        let nodes = self.nodes.borrow();
        let Some(target) = nodes.get(node).filter(|node| !node.destructed()) else { return };
        let range = if self.rng.chance(40) {
            (0, 0)
        } else {
            let lba = self.rng.below(24);
            (lba, self.rng.within(1, 24 - lba))
        };
        let mut quiesces = self.quiesces.borrow_mut();
        if quiesces.len() >= 4
            || quiesces.iter().any(|other| other.node == node && other.range == range)
        {
            return;
        }
        let quiesce = bus().quiesce.unwrap();
        let arg = (node as u64) << 32 | range.0 << 16 | range.1;
        let arg = arg as *mut c_void;
        // SAFETY: the call passes a handle and numbers. `arg` is a number too, which `quiesced` decodes.
        let status = unsafe { quiesce(host(), target.id(), range.0, range.1, Some(quiesced), arg) };
        match -status {
            0 => quiesces.push(Quiesce { node, range, phase: Phase::Begun }),
            libc::EINVAL | libc::ENODEV => {}
            _ => panic!("quiesce: {status}"),
        }
    }

    pub(crate) fn let_one_go(&self) {
        let mut quiesces = self.quiesces.borrow_mut();
        let Some(one) = quiesces.iter_mut().find(|one| one.phase == Phase::Held) else { return };
        one.phase = Phase::LettingGo;
        let (node, range) = (one.node, one.range);
        thread::send_app(move || sim().unquiesce(node, range));
    }

    fn unquiesce(&self, node: usize, range: (u64, u64)) {
        let nodes = self.nodes.borrow();
        nodes[node].quiesced().borrow_mut().retain(|&other| other != range);
        let unquiesce = bus().unquiesce.unwrap();
        let id = nodes[node].id();
        let arg = ((node as u64) << 32 | range.0 << 16 | range.1) as *mut c_void;
        // SAFETY: the call passes a handle and numbers. `arg` is a number too, which `unquiesced` decodes.
        let status = unsafe { unquiesce(host(), id, range.0, range.1, Some(unquiesced), arg) };
        if status != 0 {
            assert_eq!(status, -libc::ENODEV, "unquiesce");
            self.quiesces.borrow_mut().retain(|one| (one.node, one.range) != (node, range));
        }
    }
}

/// The place of a quiesce, decoded from the callback's argument.
fn quiesce_of(arg: *mut c_void) -> (usize, (u64, u64)) {
    let arg = arg as u64;
    ((arg >> 32) as usize, (arg >> 16 & 0xffff, arg & 0xffff))
}

unsafe extern "C" fn quiesced(arg: *mut c_void, status: i32) {
    assert_eq!(status, 0, "quiesce");
    let (node, range) = quiesce_of(arg);
    let mut quiesces = sim().quiesces.borrow_mut();
    let one = quiesces.iter_mut().find(|one| one.node == node && one.range == range).unwrap();
    assert!(one.phase == Phase::Begun, "told twice");
    one.phase = Phase::Held;
    sim().nodes.borrow()[node].quiesced().borrow_mut().push(range);
}

unsafe extern "C" fn unquiesced(arg: *mut c_void, status: i32) {
    assert_eq!(status, 0, "unquiesce");
    let (node, range) = quiesce_of(arg);
    sim().quiesces.borrow_mut().retain(|one| (one.node, one.range) != (node, range));
}

unsafe extern "C" fn reported(_arg: *mut c_void, status: i32) {
    assert_eq!(status, 0, "unregister");
    sim().open_ends.set(sim().open_ends.get() - 1);
}
