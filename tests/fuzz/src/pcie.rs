//! The driver of NVMe controllers on PCIe with a controller that lies.

use crate::look;
use crate::script::Script;
use drivebay_nvme_driver::pcie::model::{Model, Registers32, Shared, pair};
use drivebay_nvme_driver::pcie::{
    AdminQueue, Controller, Fault, Memory, Payload, Registers, Ring, Sgl, Wait,
};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::{Command, Completion, Status, identify, zns};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Registers whose values come from a script: all ones, zero, a fatal error, any number, or what a good controller would say.
struct Lying<'a> {
    script: RefCell<Script<'a>>,
    good: Rc<Registers32>,
}

impl Registers for Lying<'_> {
    fn len_bytes(&self) -> usize {
        self.good.len_bytes()
    }

    fn read32(&self, at: usize) -> u32 {
        let mut script = self.script.borrow_mut();
        match script.number() % 8 {
            1 => u32::MAX,
            2 => 0,
            3 => 2,
            4 => u32::from_le_bytes([(); 4].map(|()| script.number())),
            _ => self.good.read32(at),
        }
    }

    fn write32(&self, at: usize, value: u32) {
        assert!(at.is_multiple_of(4) && at < self.len_bytes(), "a write at {at:#x}");
        self.good.write32(at, value);
    }
}

/// Enables and disables a controller whose registers lie at every step. Each wait must end by its deadline.
pub(crate) fn controller(bytes: &[u8]) {
    let registers = Lying { script: RefCell::new(Script(bytes)), good: Registers32::new() };
    let Ok(controller) = Controller::new(registers) else { return };
    look((controller.qid_max(), controller.cap()));
    let now_ns = Cell::new(0);
    let wait = |wait: Wait| {
        // The longest limit is that of a shutdown and CAP.TO, 128 s.
        for _ in 0..=256 {
            match wait.is_over(&controller, now_ns.get()) {
                Ok(false) => now_ns.set(now_ns.get() + 1_000_000_000),
                Ok(true) => return Ok(()),
                Err(fault) => return Err(fault),
            }
        }
        panic!("a wait without an end");
    };
    let run = || -> Result<(), Fault> {
        controller.disable();
        wait(Wait::for_ready(&controller, false, now_ns.get()))?;
        controller.enable(AdminQueue { sq_iova: 1 << 32, cq_iova: 2 << 32, entries: 64 });
        wait(Wait::for_ready(&controller, true, now_ns.get()))?;
        controller.shut_down();
        wait(Wait::for_shutdown(0, now_ns.get()))
    };
    look(run().map_err(|fault| fault.to_string()));
    // The data of Identify may contradict itself.
    if let Some(page) = bytes.first_chunk::<{ identify::LEN }>() {
        look(identify::Controller::parse(page));
        let namespace = identify::Namespace::parse(page);
        look((namespace.block_size(), namespace.lbaf.get(namespace.format_index())));
        look(identify::parse_namespace_id_descriptors(page));
        look(identify::parse_namespace_list(page).count());
        look((zns::ZonedNamespace::parse(page), zns::ZonedController::parse(page).zasl));
        look(zns::parse_report(page).map(|zone| (zone.kind(), zone.state())).collect::<Vec<_>>());
    }
}

struct Request {
    number: usize,
    pieces: Vec<Option<(u64, u32)>>,
}

impl Payload for Request {
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> {
        self.pieces.iter().copied()
    }
}

/// A queue pair whose controller completes what it likes, and writes any words into the memory that it shares. Each request must come back
/// once. The model panics at an access outside of the memory.
pub(crate) fn ring(bytes: &[u8]) {
    let mut script = Script(bytes);
    let bits = script.number();
    let sgl = [Sgl::Unsupported, Sgl::Dwords, Sgl::Bytes, Sgl::Bytes][usize::from(bits & 3)];
    let entries = 2 + u16::from(script.number() % 15);
    let (mut ring, controller, mut model) = pair(entries, sgl, bits & 4 != 0);
    let mut returned: Vec<bool> = Vec::new();
    while let Some(step) = script.byte() {
        match step % 8 {
            0 | 1 => {
                let request = Request { number: returned.len(), pieces: pieces(&mut script) };
                let command = Command::new(nvm::READ);
                if ring.submit(&command, request).is_ok() {
                    returned.push(false);
                }
            }
            2 => ring.ring(&controller),
            3 => {
                let reaped = ring.reap(|request, _| {
                    assert!(!returned[request.number], "a request came back twice");
                    returned[request.number] = true;
                });
                look(reaped);
            }
            4 => drop(model.fetch()),
            5 => model.complete(script.number().into()),
            6 => {
                let [cid, sqid, sqhd, status] = [(); 4].map(|()| u16::from(script.number()));
                let status = Status::from_bits(status);
                model.post(Completion { cid, sqid, sqhd, status, ..Completion::default() });
            }
            _ => scribble(&mut script, &model),
        }
        assert!(ring.outstanding() < usize::from(entries));
        assert!(!ring.has_room() || ring.outstanding() < usize::from(entries) - 1);
    }
    check_rest(ring, &returned);
}

fn pieces(script: &mut Script<'_>) -> Vec<Option<(u64, u32)>> {
    let count = script.number() % 8;
    let piece = |_| {
        let [page, offset, len, kind] = [(); 4].map(|()| script.number());
        let at = u64::from(page) << 12 | u64::from(offset) << 4;
        match kind % 4 {
            0 => Some((u64::from(page) << 12, 4096)),
            1 => Some((at, u32::from(len) << 9)),
            2 => Some((at | u64::from(len), u32::MAX >> (kind % 32))),
            _ => (kind & 4 == 0).then_some((u64::MAX - at, u32::from(len))),
        }
    };
    (0..count).map(piece).collect()
}

/// The controller writes a word into the completion queue or into the shadow doorbells.
fn scribble(script: &mut Script<'_>, model: &Model) {
    let place = usize::from(script.number());
    let value = u64::from_le_bytes([(); 8].map(|()| script.number()));
    match &model.shadow {
        Some((doorbells, events)) if place.is_multiple_of(4) => {
            let memory = if place.is_multiple_of(8) { doorbells } else { events };
            memory.store(place % memory.words(), value);
        }
        _ => model.scribble(place, value),
    }
}

fn check_rest(ring: Ring<Shared, Request>, returned: &[bool]) {
    let outstanding = ring.outstanding();
    assert_eq!(ring.iter().count(), outstanding);
    let (_, rest) = ring.into_parts();
    assert_eq!(rest.len(), outstanding);
    assert!(rest.iter().all(|request| !returned[request.number]));
    assert_eq!(rest.len(), returned.iter().filter(|returned| !**returned).count());
}
