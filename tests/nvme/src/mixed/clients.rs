//! Clients: one for each disk that stays, and visitors, which leave in one of several ways.

use crate::counts::add;
use crate::host::eventually;
use crate::lanes::{Disk, Lanes};
use crate::random::Random;
use crate::scene::{DISKS, Scene};
use crate::target::NQN;
use drivebay_nvme_driver::spec::property::offset;
use drivebay_nvme_driver::{Controller, Error};
use serde_json::json;
use std::time::Duration;

/// Lanes of a client that stays, and blocks of each lane.
const STAYING: (usize, usize) = (16, 512);
/// Lanes of a visitor, and blocks of each lane.
const VISITING: (usize, usize) = (4, 256);
/// The first block of the visitors' lanes, behind the lanes of the clients that stay.
const VISITED: u64 = (STAYING.0 * STAYING.1) as u64;
/// Number of regions that visitors use in turn.
const PLACES: usize = 4;
const PLACE_LEN: u64 = (VISITING.0 * VISITING.1) as u64;
/// The maximum number of answers that a visitor stays for.
const ANSWERS: usize = 300;
const BETWEEN_VISITS: Duration = Duration::from_millis(100);

fn context(what: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error}")
}

/// Runs until the time is over, then disconnects cleanly.
pub(crate) fn stay(scene: &Scene, disk: Disk, turn: usize) -> Result<(), String> {
    let mut controller = Controller::connect(scene.options(turn)).map_err(context("connect"))?;
    add(&scene.counts.connections, 1);
    // The namespace exists at the beginning, and returns with the same number.
    let namespace = eventually("the namespace is there", || controller.namespace(disk.nsid).ok());
    let mut queue = controller.io_queue(1, 32).map_err(context("I/O queue"))?;
    let mut lanes = Lanes::new(disk, namespace, 0, STAYING, disk.nsid.into(), &scene.counts);
    lanes.fill(&mut queue)?;
    lanes.run(&mut queue, |_| scene.is_over())?;
    drop(queue);
    controller.shutdown().map_err(context("shutdown"))
}

/// Makes one visit after another.
pub(crate) fn come_and_go(scene: &Scene, visitor: usize) -> Result<(), String> {
    let mut random = Random::new(visitor as u64);
    let mut visits = 0;
    while !scene.is_over() {
        visits += 1;
        visit(scene, visitor, visits, &mut random)?;
        scene.pause(BETWEEN_VISITS);
    }
    Ok(())
}

fn visit(scene: &Scene, visitor: usize, number: usize, random: &mut Random) -> Result<(), String> {
    let mut controller = Controller::connect(scene.options(number)).map_err(context("connect"))?;
    add(&scene.counts.connections, 1);
    let disk = DISKS[random.below(DISKS.len())];
    let namespace = controller.namespace(disk.nsid).map_err(context("namespace"))?;
    let mut queue = controller.io_queue(1, 32).map_err(context("I/O queue"))?;
    let place = VISITED + (visitor * PLACES + number % PLACES) as u64 * PLACE_LEN;
    let seed = (visitor + 1) as u64 * 1_000_000 + number as u64;
    let mut lanes = Lanes::new(disk, namespace, place, VISITING, seed, &scene.counts);
    let answers = random.below(ANSWERS) as u64;
    match number % 4 {
        0 => {
            lanes.run_and_leave(&mut queue, |answered| answered >= answers)?;
            let cntlid = controller.cntlid();
            drop((queue, controller));
            add(&scene.counts.drops, 1);
            // Wait for this: only then no write of the visitor is in flight any more.
            eventually("a controller that was dropped is gone", || {
                let found = scene.host.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
                found
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|found| found["cntlid"] != cntlid)
                    .then_some(())
            });
            Ok(())
        }
        1 => {
            lanes.run(&mut queue, |answered| answered >= answers)?;
            controller.set_property(offset::CC, 0).map_err(context("reset"))?;
            add(&scene.counts.resets, 1);
            Ok(())
        }
        _ => {
            lanes.run(&mut queue, |answered| answered >= answers)?;
            drop(queue);
            controller.shutdown().map_err(context("shutdown"))
        }
    }
}
