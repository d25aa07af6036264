//! Namespaces and disks that are added and removed once a second, while clients use them.

use crate::counts::add;
use crate::host::eventually;
use crate::lanes::{Disk, Lanes};
use crate::scene::Scene;
use crate::target::{BLOCK, NQN};
use drivebay_nvme_driver::Controller;
use drivebay_nvme_driver::spec::Status;
use drivebay_nvme_driver::spec::event::AsyncEvent;
use drivebay_nvme_driver::spec::log::lid;
use serde_json::json;
use std::time::{Duration, Instant};

/// The namespace that is removed and added again. Its disk stays.
pub(crate) const COMES: Disk = Disk { nsid: 6, keeps: true, refusals: &[GONE] };
/// The namespace whose disks are created and deleted.
const SHORT: Disk = Disk { nsid: 7, keeps: true, refusals: &[GONE, GOING] };
const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
/// The status of an I/O that was on the bus when its disk was deleted. A host retries it and then
/// learns that the namespace is gone.
const GOING: Status = Status::NAMESPACE_NOT_READY;
const EVERY: Duration = Duration::from_secs(1);
/// How long the namespace is removed.
const AWAY: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(60);
/// Lanes of the short-lived disk, and blocks of each lane.
const LANES: (usize, usize) = (8, 128);

pub(crate) fn run(scene: &Scene) -> Result<(), String> {
    let mut controller =
        Controller::connect(scene.options(3)).map_err(|error| error.to_string())?;
    let mut round = 0;
    while !scene.is_over() {
        let begun = Instant::now();
        round += 1;
        remove_and_add(scene, &mut controller)?;
        make_and_delete(scene, round)?;
        scene.pause(EVERY.saturating_sub(begun.elapsed()));
    }
    controller.shutdown().map_err(|error| error.to_string())
}

/// Hosts that ask for events learn of both changes.
fn remove_and_add(scene: &Scene, controller: &mut Controller) -> Result<(), String> {
    let mut reported = |change: &dyn Fn()| {
        controller.request_event()?;
        change();
        let event = controller.event(PATIENCE)?;
        assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
        controller.log_page(lid::CHANGED_NAMESPACES, 0, 4096).map(drop)
    };
    let remove = || {
        drop(scene.host.call("nvmf_subsystem_remove_ns", json!({"nqn": NQN, "nsid": COMES.nsid})))
    };
    reported(&remove).map_err(|error| format!("the removal: {error}"))?;
    add(&scene.counts.removals, 1);
    scene.pause(AWAY);
    let params = json!({"nqn": NQN, "namespace": {"bdev_name": "come", "nsid": COMES.nsid}});
    let come = || assert_eq!(scene.host.call("nvmf_subsystem_add_ns", params.clone()), COMES.nsid);
    reported(&come).map_err(|error| format!("the addition: {error}"))?;
    add(&scene.counts.additions, 1);
    Ok(())
}

/// Creates a disk, uses it, and deletes it under I/O. Every other time, a second disk lies on top of it.
fn make_and_delete(scene: &Scene, round: usize) -> Result<(), String> {
    let host = &scene.host;
    let bdev = if round.is_multiple_of(2) { "short" } else { "past_short" };
    host.call(
        "bdev_malloc_create",
        json!({"name": "short", "num_blocks": 1024, "block_size": BLOCK}),
    );
    if bdev == "past_short" {
        host.call("bdev_passthru_create", json!({"base_bdev_name": "short", "name": bdev}));
    }
    assert_eq!(host.add_namespace(NQN, bdev), SHORT.nsid);
    add(&scene.counts.additions, 1);

    let failed = |error: drivebay_nvme_driver::Error| format!("the short-lived disk: {error}");
    let mut controller = Controller::connect(scene.options(round)).map_err(failed)?;
    add(&scene.counts.connections, 1);
    let namespace = controller.namespace(SHORT.nsid).map_err(failed)?;
    let mut queue = controller.io_queue(1, 32).map_err(failed)?;
    let mut lanes = Lanes::new(SHORT, namespace, 0, LANES, round as u64, &scene.counts);
    lanes.run_and_leave(&mut queue, |answered| answered > 100)?;
    host.call("bdev_malloc_delete", json!({"name": "short"}));
    add(&scene.counts.disk_removals, 1);
    lanes.run(&mut queue, |answered| answered >= 3 * LANES.0 as u64)?;
    eventually("the namespace of a deleted disk is gone", || {
        let left = controller.namespaces().unwrap();
        (!left.contains(&SHORT.nsid)).then_some(())
    });
    add(&scene.counts.removals, 1);
    drop(queue);
    controller.shutdown().map_err(failed)?;
    if bdev == "past_short" {
        // The disk on top goes with its base, or a moment later. It must not return with the next
        // base.
        eventually("the disk on top is gone", || {
            host.try_call("bdev_get_bdevs", json!({"name": bdev})).err()
        });
        host.call("bdev_passthru_delete", json!({"name": bdev}));
    }
    Ok(())
}
