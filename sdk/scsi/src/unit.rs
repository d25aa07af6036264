//! A logical unit: a bdev as initiators see it.

use crate::NexusId;
use crate::copy::Copies;
use crate::disk::Disk;
use crate::gate::Gate;
use crate::modes::Modes;
use crate::reserve::Reservations;
use crate::reserve_out::Unsettled;
use crate::space::Provisioning;
use std::collections::BTreeMap;

/// Maximum number of unit attentions that wait for one nexus. Further ones are dropped: those that wait already make the initiator check the
/// unit.
const ATTENTIONS_MAX: usize = 8;

/// A logical unit.
#[derive(Debug)]
pub struct Unit {
    pub(crate) number: u16,
    pub(crate) disk: Disk,
    pub(crate) modes: Modes,
    pub(crate) provisioning: Provisioning,
    pub(crate) reservations: Reservations,
    /// Whether reservations can survive a loss of power.
    pub(crate) keeps_reservations: bool,
    /// A change of reservations that the transport has not confirmed yet.
    pub(crate) unsettled: Option<Unsettled>,
    pub(crate) gate: Gate,
    pub(crate) copies: Copies,
    /// Waiting unit attentions by nexus, as additional sense codes. No list is empty.
    attentions: BTreeMap<NexusId, Vec<u16>>,
}

impl Unit {
    pub(crate) fn new(number: u16, disk: Disk) -> Self {
        Self {
            number,
            disk,
            modes: Modes::default(),
            provisioning: Provisioning::default(),
            reservations: Reservations::default(),
            keeps_reservations: false,
            unsettled: None,
            gate: Gate::default(),
            copies: Copies::default(),
            attentions: BTreeMap::new(),
        }
    }

    /// The bdev.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Raises a unit attention for a nexus.
    pub(crate) fn attend(&mut self, nexus: NexusId, code: u16) {
        let waiting = self.attentions.entry(nexus).or_default();
        if !waiting.contains(&code) && waiting.len() < ATTENTIONS_MAX {
            waiting.push(code);
        }
    }

    /// Takes the next unit attention of a nexus.
    pub(crate) fn take_attention(&mut self, nexus: NexusId) -> Option<u16> {
        if self.attentions.is_empty() {
            return None;
        }
        let waiting = self.attentions.get_mut(&nexus)?;
        let code = (!waiting.is_empty()).then(|| waiting.remove(0));
        if waiting.is_empty() {
            self.attentions.remove(&nexus);
        }
        code
    }

    /// Clears a unit attention of a nexus, because REPORT LUNS reported the change.
    pub(crate) fn forget_attention(&mut self, nexus: NexusId, code: u16) {
        if let Some(waiting) = self.attentions.get_mut(&nexus) {
            waiting.retain(|other| *other != code);
            if waiting.is_empty() {
                self.attentions.remove(&nexus);
            }
        }
    }

    /// Removes the state of a nexus that has ended.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.attentions.remove(&nexus);
        self.copies.forget(nexus);
        self.reservations.nexus_lost(nexus);
    }

    /// Whether the unit is write protected now.
    pub(crate) fn is_protected(&self) -> bool {
        self.disk.read_only || self.modes.write_protect
    }
}
