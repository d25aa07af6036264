//! The checks, in the order in which they run.

mod bdev;
mod completion;
mod data;
mod fabric;
mod faults;
mod life;
mod panics;
mod plugin;
mod range;
mod sleep;

use crate::rig::Rig;
use crate::verdict::Verdict;

/// A kind of plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Creates disks.
    Bdev,
    /// Creates disks on other disks.
    Filter,
    /// A transport or a target of NVMe over Fabrics.
    Fabric,
    /// A kind that the suite does not know.
    Other,
}

impl Kind {
    /// The kind from the manifest.
    #[must_use]
    pub fn of(manifest: &str) -> Self {
        match manifest {
            "bdev" => Self::Bdev,
            "filter" => Self::Filter,
            "transport" | "target" => Self::Fabric,
            _ => Self::Other,
        }
    }
}

/// One check.
#[derive(Clone, Copy)]
pub struct Check {
    /// The rule that is checked, as a path.
    pub name: &'static str,
    /// The kinds of plugins that it applies to.
    pub kinds: &'static [Kind],
    /// Whether the check runs in its own child, because it breaks a rule that the bus keeps, or leaves the plugin unusable for later
    /// checks.
    pub is_alone: bool,
    /// The function that checks.
    pub run: fn(&mut Rig<'_>) -> Verdict,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

const ALL: &[Kind] = &[Kind::Bdev, Kind::Filter, Kind::Fabric, Kind::Other];
const DISKS: &[Kind] = &[Kind::Bdev, Kind::Filter];
const FILTERS: &[Kind] = &[Kind::Filter];
const FABRICS: &[Kind] = &[Kind::Fabric];

macro_rules! checks {
    ($($kinds:ident $name:literal $run:path $(, $alone:ident)?;)*) => {
        &[$(Check { name: $name, kinds: $kinds, is_alone: checks!(@ $($alone)?), run: $run },)*]
    };
    (@ alone) => { true };
    (@) => { false };
}

/// All checks. A failure ends the child that it ran in, and the remaining checks run in a new one.
pub const CHECKS: &[Check] = checks! {
    ALL "plugin::layout" plugin::layout;
    ALL "plugin::serves_and_ends" plugin::serves_and_ends;
    ALL "plugin::registers_what_its_manifest_says" plugin::methods;
    DISKS "bdev::declares_what_the_abi_knows" bdev::declares;
    DISKS "bdev::texts_are_json" bdev::texts;
    DISKS "ops::each_declared_one_succeeds" bdev::declared_ops;
    DISKS "range::first_last_and_all_blocks" range::edges;
    DISKS "range::past_the_end_is_refused" range::past_the_end;
    DISKS "list::many_elements" range::many_elements;
    DISKS "list::no_element_and_no_block" range::nothing;
    DISKS "completion::exactly_once" completion::once;
    DISKS "completion::on_its_own_thread" completion::on_its_thread;
    DISKS "completion::at_depth_1_to_1024" completion::depths;
    DISKS "completion::on_all_threads_at_once" completion::threads;
    DISKS "data::survives_a_random_mix" data::mix;
    DISKS "data::is_the_same_on_every_thread" data::across_threads;
    DISKS "reset::ends_and_loses_nothing" life::reset;
    DISKS "remove::ends_io_in_flight" life::remove;
    FILTERS "remove::of_the_base_ends_io_in_flight" life::remove_base;
    FILTERS "faults::errors_of_the_base_are_reported" faults::errors;
    FILTERS "faults::late_and_refused_io_ends" faults::late;
    DISKS "sleep::an_idle_host_sleeps" sleep::idle;
    DISKS "sleep::no_wake_up_is_lost" sleep::wakes;
    DISKS "life::created_and_deleted_again_and_again" life::again;
    DISKS "deadline::no_callback_blocks" life::deadline;
    FABRICS "fabric::registers_with_its_target" fabric::registers;
    FABRICS "fabric::listens_and_listens_no_more" fabric::listens;
    FABRICS "fabric::carries_data" fabric::data;
    FABRICS "fabric::connections_come_and_go" fabric::connections;
    FABRICS "fabric::ends_with_commands_under_way" fabric::ends_under_load;
    FABRICS "sleep::an_idle_host_sleeps" fabric::idle;
    DISKS "module::refuses_what_it_did_not_declare" bdev::undeclared_ops, alone;
    DISKS "module::refuses_what_is_past_its_end" range::past_the_end_at_module, alone;
    DISKS "module::ends_io_of_no_blocks" range::nothing_at_module, alone;
    ALL "panic::no_call_of_a_method_causes_one" panics::methods_bear_anything, alone;
};
