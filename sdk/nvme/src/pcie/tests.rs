//! The driver against a model that is good, is slow, or breaks the rules.

use super::model::{self, Model, Registers32};
use super::{AdminQueue, Controller, Fault, Memory, Payload, Refused, Ring, Sgl, Wait};
use drivebay_spec_nvme::{Command, Completion, Status, opcode};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::rc::Rc;

/// A request with a number, and data at some pages.
#[derive(Debug, PartialEq, Eq)]
struct Request(u32, Vec<(u64, u32)>);

impl Payload for Request {
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> {
        self.1.iter().map(|piece| Some(*piece))
    }
}

fn read(number: u32) -> (Command, Request) {
    (Command::new(opcode::nvm::READ).with_nsid(7), Request(number, vec![(0x5000, 4096)]))
}

/// A ring and a controller without options.
fn pair(entries: u16) -> (Ring<model::Shared, Request>, Controller<Rc<Registers32>>, Model) {
    model::pair(entries, Sgl::Unsupported, false)
}

fn cid_of(words: &[u64; 8]) -> u16 {
    u16::try_from(words[0] >> 16 & 0xffff).unwrap()
}

const SECOND: u64 = 1_000_000_000;
const ADMIN: AdminQueue =
    AdminQueue { sq_iova: 0x1_0000_1000, cq_iova: 0x1_0000_2000, entries: 32 };

#[test]
fn a_controller_is_enabled_and_disabled_by_its_registers() {
    let registers = Registers32::new();
    let controller = Controller::new(Rc::clone(&registers)).unwrap();
    controller.enable(ADMIN);
    assert!(Wait::for_ready(&controller, true, 0).is_over(&controller, 0).unwrap());
    assert_eq!(registers.get(0x24), 31 << 16 | 31);
    assert_eq!((registers.get(0x28), registers.get(0x2c)), (0x1000, 1));
    assert_eq!((registers.get(0x30), registers.get(0x34)), (0x2000, 1));
    assert_eq!(registers.get(0x14), 4 << 20 | 6 << 16 | 1);
    controller.shut_down();
    assert!(Wait::for_shutdown(0, 0).is_over(&controller, 0).unwrap());
    controller.disable();
    assert!(Wait::for_ready(&controller, false, 0).is_over(&controller, 0).unwrap());
    assert_eq!(controller.qid_max(), 511);
}

#[test]
fn every_wait_ends_at_its_time_at_a_fatal_error_and_when_the_controller_is_gone() {
    let registers = Registers32::new();
    let controller = Controller::new(Rc::clone(&registers)).unwrap();
    registers.is_obedient.set(false);
    for wait in [Wait::for_ready(&controller, true, 0), Wait::for_shutdown(0, 0)] {
        assert_eq!(wait.is_over(&controller, 0), Ok(false));
        assert!(matches!(wait.is_over(&controller, 20 * SECOND), Err(Fault::Late(_))));
        registers.set(0x1c, 2);
        assert_eq!(wait.is_over(&controller, 0), Err(Fault::Fatal));
        registers.is_gone.set(true);
        assert_eq!(wait.is_over(&controller, 0), Err(Fault::Gone));
        registers.is_gone.set(false);
        registers.set(0x1c, 0);
    }
    // A controller with a fatal error can still be disabled.
    let wait = Wait::for_ready(&controller, false, 0);
    registers.set(0x1c, 3);
    assert_eq!(wait.is_over(&controller, 0), Ok(false));
    registers.set(0x1c, 2);
    assert_eq!(wait.is_over(&controller, 0), Ok(true));
}

#[test]
fn a_controller_that_is_gone_or_not_supported_is_refused() {
    let registers = Registers32::new();
    registers.is_gone.set(true);
    assert_eq!(Controller::new(Rc::clone(&registers)).err(), Some(Fault::Gone));
    registers.is_gone.set(false);
    let (low, high) = (registers.get(0), registers.get(4));
    registers.set(0, low & !0xffff);
    assert!(matches!(Controller::new(Rc::clone(&registers)), Err(Fault::Unsupported(_))));
    registers.set(0, low);
    registers.set(4, high | 1 << 16);
    assert!(matches!(Controller::new(Rc::clone(&registers)), Err(Fault::Unsupported(_))));
    registers.set(4, 0);
    assert!(matches!(Controller::new(Rc::clone(&registers)), Err(Fault::Unsupported(_))));
    // The doorbells of this stride are outside of the registers.
    registers.set(4, high | 15);
    assert!(matches!(Controller::new(registers), Err(Fault::Unsupported(_))));
}

#[test]
fn commands_arrive_as_they_were_meant_and_each_request_returns_once() {
    let (mut ring, controller, mut model) = pair(4);
    let mut next = 0;
    // Many laps, so that the phase bit changes often.
    for _ in 0..50 {
        for _ in 0..3 {
            let (command, request) = read(next);
            ring.submit(&command, request).unwrap();
            next += 1;
        }
        let (command, request) = read(u32::MAX);
        assert!(matches!(ring.submit(&command, request), Err(Refused::Full(Request(u32::MAX, _)))));
        ring.ring(&controller);
        let commands = model.fetch();
        assert_eq!(commands.len(), 3);
        let cids: Vec<u16> = commands.iter().map(cid_of).collect();
        for words in &commands {
            assert_eq!(words[0] & 0xffff, u64::from(opcode::nvm::READ), "PRP, not SGL");
            assert_eq!((words[0] >> 32, words[3], words[4]), (7, 0x5000, 0));
        }
        // Completions in another order than the commands.
        cids.iter().rev().for_each(|cid| model.complete(*cid));
        let mut done = Vec::new();
        let count = ring.reap(|request, completion| {
            assert!(completion.status.is_success());
            done.push(request.0);
        });
        assert_eq!((count, done), (Ok(3), vec![next - 1, next - 2, next - 3]));
        assert!(!ring.has_completions());
    }
}

/// How many doorbells the driver writes for 100 bursts of 16 commands.
fn doorbells_of_bursts(has_shadow: bool) -> usize {
    let (mut ring, controller, mut model) = model::pair(64, Sgl::Unsupported, has_shadow);
    for _ in 0..100 {
        for number in 0..16 {
            let (command, request) = read(number);
            ring.submit(&command, request).unwrap();
        }
        ring.ring(&controller);
        let commands = model.fetch();
        assert_eq!(commands.len(), 16);
        commands.iter().for_each(|words| model.complete(cid_of(words)));
        assert_eq!(ring.reap(|_, _| {}), Ok(16));
    }
    ring.ring(&controller);
    model.num_doorbells()
}

#[test]
fn a_burst_of_sixteen_needs_two_writes_of_doorbells() {
    let writes = doorbells_of_bursts(false);
    assert_eq!(writes, 200);
    assert!(writes * 5 < 1600, "{writes} writes for 1600 I/O");
}

#[test]
fn shadow_doorbells_write_a_register_only_when_the_controller_asks_for_it() {
    // The model asks for the commands of each burst, and for completions once a lap at most.
    let writes = doorbells_of_bursts(true);
    assert!((100..140).contains(&writes), "{writes}");

    let (mut ring, controller, mut model) = model::pair(64, Sgl::Unsupported, true);
    let submit = |ring: &mut Ring<_, _>| {
        let (command, request) = read(0);
        ring.submit(&command, request).unwrap();
        ring.ring(&controller);
    };
    submit(&mut ring);
    assert_eq!(model.num_doorbells(), 1);
    // The controller has not fetched the first command yet, so it sees the second without being woken.
    submit(&mut ring);
    assert_eq!((model.num_doorbells(), model.fetch().len()), (1, 2));
    submit(&mut ring);
    assert_eq!((model.num_doorbells(), model.fetch().len()), (2, 1));
}

#[test]
fn a_queue_that_is_made_again_does_not_inherit_shadow_doorbells() {
    let (ring, _, model) = model::pair::<Request>(8, Sgl::Unsupported, true);
    let (doorbells, events) = model.shadow.unwrap();
    doorbells.store(model::QID.into(), 0x0005_0000_0005);
    events.store(model::QID.into(), 0x0004_0000_0004);
    ring.queue().shadow.as_ref().unwrap().clear(model::QID);
    assert_eq!((doorbells.load(3), events.load(3)), (0, 0));
}

#[test]
fn data_that_pages_cannot_describe_is_described_by_a_list_where_the_controller_has_them() {
    let (mut ring, controller, mut model) = model::pair(4, Sgl::Bytes, false);
    let (command, whole) = read(0);
    let odd = Request(1, vec![(0x5001, 511), (0x9003, 513)]);
    ring.submit(&command, whole).unwrap();
    let cid = ring.submit(&command, odd).unwrap();
    ring.ring(&controller);
    let [of_pages, of_list] = model.fetch().try_into().unwrap();
    assert_eq!((of_pages[0] >> 14 & 3, of_pages[3]), (0, 0x5000));
    // PSDT 1: a list, here its last segment with two descriptors.
    assert_eq!(of_list[0] >> 14 & 3, 1);
    let at = usize::from(cid) * 512;
    assert_eq!(of_list[3], model.lists.iova() + at as u64 * 8);
    assert_eq!(of_list[4], 32 | 0x30 << 56);
    let list: Vec<u64> = (at..at + 4).map(|index| model.lists.load(index)).collect();
    assert_eq!(list, [0x5001, 511, 0x9003, 513]);
}

#[test]
fn data_that_cannot_be_described_is_given_back_and_leaves_the_queue_as_it_was() {
    let (mut ring, controller, mut model) = pair(4);
    let (command, _) = read(0);
    let odd = Request(1, vec![(0x5001, 512)]);
    assert!(matches!(ring.submit(&command, odd), Err(Refused::Data(Request(1, _)))));
    ring.ring(&controller);
    assert!(model.fetch().is_empty());
    assert_eq!(ring.outstanding(), 0);
}

fn lie(post: impl FnOnce(&mut Model)) -> Fault {
    let (mut ring, controller, mut model) = pair(8);
    for number in 0..3 {
        let (command, request) = read(number);
        ring.submit(&command, request).unwrap();
    }
    ring.ring(&controller);
    model.fetch();
    post(&mut model);
    let fault = ring.reap(|_, _| {}).unwrap_err();
    // After a fault the ring does nothing more, and still has the outstanding requests.
    let (command, request) = read(9);
    assert!(matches!(ring.submit(&command, request), Err(Refused::Full(_))));
    assert_eq!(ring.reap(|_, _| {}), Err(fault));
    assert!(!ring.has_completions() && !ring.has_room());
    assert_eq!(ring.iter().count(), ring.outstanding());
    assert_eq!(ring.outstanding(), ring.into_parts().1.len());
    fault
}

#[test]
fn a_controller_that_lies_ends_the_queue() {
    let of = |cid, sqid, sqhd| Completion { cid, sqid, sqhd, ..Completion::default() };
    assert_eq!(lie(|model| model.complete(6)), Fault::UnknownCommand(6));
    assert_eq!(lie(|model| model.complete(0xffff)), Fault::UnknownCommand(0xffff));
    assert_eq!(
        lie(|model| [0, 0].iter().for_each(|cid| model.complete(*cid))),
        Fault::UnknownCommand(0)
    );
    assert_eq!(lie(|model| model.post(of(0, 2, 0))), Fault::WrongQueue(2));
    assert_eq!(lie(|model| model.post(of(0, 3, 8))), Fault::WrongHead(8));
}

#[test]
fn a_completion_of_a_command_before_its_doorbell_ends_the_queue() {
    let (mut ring, controller, mut model) = pair(8);
    let (command, request) = read(0);
    let first = ring.submit(&command, request).unwrap();
    ring.ring(&controller);
    model.fetch();
    model.complete(first);
    assert_eq!(ring.reap(|_, _| {}), Ok(1));
    // The next command gets the same identifier, and the controller repeats its completion.
    let (command, request) = read(1);
    assert_eq!(ring.submit(&command, request).unwrap(), first);
    model.complete(first);
    assert_eq!(ring.reap(|_, _| {}), Err(Fault::UnknownCommand(first)));
    assert_eq!(ring.into_parts().1, [Request(1, vec![(0x5000, 4096)])]);
}

#[test]
fn a_completion_of_the_old_phase_is_not_seen() {
    let (mut ring, controller, mut model) = pair(8);
    let (command, request) = read(0);
    ring.submit(&command, request).unwrap();
    ring.ring(&controller);
    model.fetch();
    // cid 0, queue 3, and the phase bit clear.
    model.scribble(1, 3 << 16);
    assert_eq!(ring.reap(|_, _| {}), Ok(0));
    model.complete(0);
    assert_eq!(ring.reap(|_, _| {}), Ok(1));
}

#[test]
fn the_status_and_the_result_of_a_command_are_the_controllers() {
    let (mut ring, controller, mut model) = pair(8);
    let (command, request) = read(0);
    let cid = ring.submit(&command, request).unwrap();
    ring.ring(&controller);
    model.fetch();
    let status = Status::LBA_OUT_OF_RANGE.with_dnr();
    model.post(Completion { result: 0x1_0000_0002, cid, sqid: 3, sqhd: 1, phase: false, status });
    let mut seen = None;
    ring.reap(|_, completion| seen = Some((completion.result, completion.status))).unwrap();
    assert_eq!(seen, Some((0x1_0000_0002, status)));
}

#[derive(Clone, Debug)]
enum Step {
    Submit,
    Reap,
    Complete(u16),
    Post(u16, u16, u16),
    Scribble(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Submit),
        4 => Just(Step::Reap),
        4 => (0_u16..8).prop_map(Step::Complete),
        1 => (any::<u16>(), 2_u16..5, any::<u16>()).prop_map(|(cid, sqid, sqhd)| Step::Post(cid, sqid, sqhd)),
        1 => (any::<usize>(), any::<u64>()).prop_map(|(index, value)| Step::Scribble(index, value)),
    ]
}

proptest! {
    /// Whatever the controller writes, no request is lost, and none comes back twice.
    #[test]
    fn a_request_comes_back_once_whatever_the_controller_writes(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut ring, controller, mut model) = pair(8);
        let (mut submitted, mut returned) = (0, BTreeSet::new());
        for step in steps {
            match step {
                Step::Submit => {
                    let (command, request) = read(submitted);
                    submitted += u32::from(ring.submit(&command, request).is_ok());
                    ring.ring(&controller);
                }
                Step::Reap => {
                    let mut is_new = true;
                    let _ = ring.reap(|request, _| is_new &= returned.insert(request.0));
                    prop_assert!(is_new);
                    ring.ring(&controller);
                }
                Step::Complete(cid) => model.complete(cid),
                Step::Post(cid, sqid, sqhd) => model.post(Completion { cid, sqid, sqhd, ..Completion::default() }),
                Step::Scribble(index, value) => model.scribble(index, value),
            }
            prop_assert!(ring.outstanding() <= 7);
        }
        let (_, left) = ring.into_parts();
        for request in left {
            prop_assert!(returned.insert(request.0));
        }
        prop_assert_eq!(returned.len(), submitted as usize);
    }
}
