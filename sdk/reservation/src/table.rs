//! The table, and the changes that both protocols have.

use crate::{Access, Held, Kind, Notice, REGISTRANTS_MAX, Refusal, Registrant, Told};

/// The registrants and the reservation of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<W> {
    generation: u32,
    registrants: Vec<Registrant<W>>,
    held: Option<Held<W>>,
}

impl<W> Default for Table<W> {
    fn default() -> Self {
        Self { generation: 0, registrants: Vec::new(), held: None }
    }
}

impl<W: Clone + PartialEq> Table<W> {
    /// Builds a table from stored parts. `None` when they contradict each other: a holder that is not registered, a key 0, a host that is
    /// registered twice, too many registrants.
    #[must_use]
    pub fn restore(registrants: Vec<Registrant<W>>, held: Option<Held<W>>) -> Option<Self> {
        let mut table = Self::default();
        for one in registrants {
            if one.key == 0 || table.key_of(&one.who).is_some() {
                return None;
            }
            table.add(vec![one.who], one.key).ok()?;
        }
        let fits = held.as_ref().is_none_or(|held| match &held.holder {
            Some(holder) => !held.kind.is_all_registrants() && table.key_of(holder).is_some(),
            None => held.kind.is_all_registrants() && !table.registrants.is_empty(),
        });
        table.held = held;
        fits.then_some(table)
    }

    /// The number of changes of registrations; wraps around.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The registrants, in the order in which they registered.
    #[must_use]
    pub fn registrants(&self) -> &[Registrant<W>] {
        &self.registrants
    }

    /// The reservation, if there is one.
    #[must_use]
    pub fn held(&self) -> Option<&Held<W>> {
        self.held.as_ref()
    }

    /// The key of a host; `None` when it is not registered.
    #[must_use]
    pub fn key_of(&self, who: &W) -> Option<u64> {
        self.registrants.iter().find(|one| one.who == *who).map(|one| one.key)
    }

    /// Whether a host holds the reservation, alone or with all registrants.
    #[must_use]
    pub fn holds(&self, who: &W) -> bool {
        match &self.held {
            Some(Held { holder: Some(holder), .. }) => holder == who,
            Some(Held { holder: None, .. }) => self.key_of(who).is_some(),
            None => false,
        }
    }

    /// Whether a host may access the disk. `None` is a host without a name, which cannot be registered.
    #[must_use]
    pub fn allows(&self, who: Option<&W>, access: Access) -> bool {
        let Some(Held { kind, .. }) = &self.held else { return true };
        let is_registered = who.is_some_and(|who| self.key_of(who).is_some());
        who.is_some_and(|who| self.holds(who))
            || is_registered && kind.admits_registrants()
            || access == Access::Read && kind.admits_readers()
    }

    /// Registers all of the hosts, or none of them. Hosts that are already registered keep their keys.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn register(&mut self, new: Vec<W>, key: u64) -> Result<(), Refusal> {
        self.add(new, key)?;
        self.changed();
        Ok(())
    }

    /// Gives hosts a key, whether they are registered or not. A reservation belongs to the host, not to the key, so the holder keeps it.
    ///
    /// # Errors
    /// [`Refusal::Full`].
    pub fn replace(&mut self, hosts: Vec<W>, key: u64) -> Result<(), Refusal> {
        self.add(hosts.clone(), key)?;
        self.changed();
        for one in self.registrants.iter_mut().filter(|one| hosts.contains(&one.who)) {
            one.key = key;
        }
        Ok(())
    }

    /// Unregisters hosts. A reservation that one of them held alone is released. A reservation of all registrants stays until the last
    /// one has gone.
    pub fn unregister(&mut self, hosts: &[W]) -> Told<W> {
        self.changed();
        let mut told = Told::default();
        for who in hosts {
            let was_holder = self.holds(who);
            self.registrants.retain(|one| one.who != *who);
            let Some(Held { kind, .. }) = self.held else { continue };
            let goes_on = kind.is_all_registrants() && !self.registrants.is_empty();
            if was_holder && !goes_on {
                self.held = None;
                told.notices.extend(self.released(who, kind));
            }
        }
        told
    }

    /// Takes the reservation. The holder may take it again.
    ///
    /// # Errors
    /// [`Refusal::Conflict`].
    pub fn reserve(&mut self, who: &W, kind: Kind) -> Result<(), Refusal> {
        match &self.held {
            None => {
                self.hold(who, kind);
                Ok(())
            }
            Some(held) if held.kind == kind && self.holds(who) => Ok(()),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    /// Releases the reservation. Has no effect for a host that does not hold it.
    ///
    /// # Errors
    /// [`Refusal::WrongKind`].
    pub fn release(&mut self, who: &W, kind: Option<Kind>) -> Result<Told<W>, Refusal> {
        let Some(held) = &self.held else { return Ok(Told::default()) };
        if !self.holds(who) {
            return Ok(Told::default());
        }
        if Some(held.kind) != kind {
            return Err(Refusal::WrongKind);
        }
        let kind = held.kind;
        self.held = None;
        Ok(Told { notices: self.released(who, kind), ..Told::default() })
    }

    /// Removes the reservation and every registration.
    pub fn clear(&mut self, who: &W) -> Told<W> {
        let others = std::mem::take(&mut self.registrants).into_iter();
        let others = others.map(|one| one.who).filter(|other| other != who);
        self.held = None;
        self.changed();
        let notices = others.map(|one| (one, Notice::ReservationPreempted)).collect();
        Told { notices, ..Told::default() }
    }

    /// Whether preempting this key takes the reservation, instead of only removing registrations.
    #[must_use]
    pub fn takes(&self, key: u64) -> bool {
        match &self.held {
            Some(Held { holder: None, .. }) => key == 0,
            Some(Held { holder: Some(holder), .. }) => self.key_of(holder) == Some(key),
            None => false,
        }
    }

    /// Removes the registrations with a key. Takes the reservation if the key is its holder's. If all registrants hold the reservation,
    /// key 0 means all other registrants, and the host takes the reservation. SPC-4, section 5.12.11.2.4; NVMe Base 2.0, section 8.19.7.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] when no registrant has the key, [`Refusal::KeyZero`].
    pub fn preempt(&mut self, who: &W, kind: Kind, key: u64) -> Result<Told<W>, Refusal> {
        let takes = self.takes(key);
        if key == 0 && !takes {
            return Err(Refusal::KeyZero);
        }
        let is_meant = |one: &Registrant<W>| key == 0 || one.key == key;
        if !takes && !self.registrants.iter().any(is_meant) {
            return Err(Refusal::Conflict);
        }
        let others = self.registrants.iter().filter(|one| is_meant(one) && one.who != *who);
        let preempted: Vec<W> = others.map(|one| one.who.clone()).collect();
        if !takes && preempted.is_empty() {
            // The key is the host's own, and the host does not hold the reservation alone: it unregisters. Nobody gets a notice. A
            // reservation of all registrants ends with the last of them.
            self.registrants.retain(|one| one.who != *who);
            if self.registrants.is_empty() {
                self.held = None;
            }
        }
        self.registrants.retain(|one| !preempted.contains(&one.who));
        self.changed();
        let notice = |one: &W| (one.clone(), Notice::RegistrationPreempted);
        let mut notices: Vec<(W, Notice)> = preempted.iter().map(notice).collect();
        if takes {
            let previous = self.held.as_ref().map(|held| held.kind);
            if let Some(previous) = previous.filter(|previous| *previous != kind) {
                notices.extend(self.released(who, previous));
            }
            self.hold(who, kind);
        }
        Ok(Told { notices, preempted })
    }

    /// The holder registers another host, which must not be the holder itself, and gives it the reservation. With `leaves` the holder
    /// unregisters. SPC-4, section 5.12.8.
    ///
    /// # Errors
    /// [`Refusal::Conflict`] when `who` does not hold the reservation alone, [`Refusal::Full`].
    pub fn move_to(&mut self, who: &W, to: &W, key: u64, leaves: bool) -> Result<(), Refusal> {
        match &self.held {
            Some(Held { holder: Some(holder), .. }) if holder == who => {}
            _ => return Err(Refusal::Conflict),
        }
        self.add(vec![to.clone()], key)?;
        for one in self.registrants.iter_mut().filter(|one| one.who == *to) {
            one.key = key;
        }
        self.registrants.retain(|one| !(leaves && one.who == *who));
        if let Some(held) = &mut self.held {
            held.holder = Some(to.clone());
        }
        self.changed();
        Ok(())
    }

    fn changed(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn hold(&mut self, who: &W, kind: Kind) {
        let holder = (!kind.is_all_registrants()).then(|| who.clone());
        self.held = Some(Held { kind, holder });
    }

    /// The notices for the release of a reservation of this kind. Each other registrant gets a notice if the reservation gave registrants
    /// access.
    fn released(&self, by: &W, kind: Kind) -> Vec<(W, Notice)> {
        if !kind.admits_registrants() {
            return Vec::new();
        }
        let others = self.registrants.iter().filter(|one| one.who != *by);
        others.map(|one| (one.who.clone(), Notice::ReservationReleased)).collect()
    }

    fn add(&mut self, new: Vec<W>, key: u64) -> Result<(), Refusal> {
        let before = self.registrants.len();
        for who in new {
            if self.key_of(&who).is_some() {
                continue;
            }
            if self.registrants.len() == REGISTRANTS_MAX {
                self.registrants.truncate(before);
                return Err(Refusal::Full);
            }
            self.registrants.push(Registrant { who, key });
        }
        Ok(())
    }
}
