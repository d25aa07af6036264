//! One thread's channels of the members of a redundant array, by slot, and the layout of the blocks on them.

use crate::shared::{View, Views};
use drivebay_sdk::bdev::{Channel, Desc};
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::Layout;
use std::cell::Cell;
use std::sync::Arc;

/// The channels of the current members. Only [`replace`](Self::replace) and [`close`](Self::close) change them.
#[derive(Debug)]
pub(crate) struct Bases {
    pub(crate) layout: Arc<Layout>,
    seats: Vec<Seat>,
}

/// A slot.
#[derive(Debug, Default)]
struct Seat {
    base: Option<Base>,
    /// How many blocks are being read from the slot's members.
    reading: Cell<u64>,
}

/// This thread's channel of a member.
#[derive(Debug)]
pub(crate) struct Base {
    // Fields are dropped in this order: the channel before its descriptor.
    pub(crate) channel: Channel,
    _desc: Arc<Desc>,
    pub(crate) serial: u64,
    pub(crate) offset: u64,
    pub(crate) is_readable: bool,
    /// Whether the member has a write cache.
    pub(crate) is_cached: bool,
}

impl Base {
    fn open(view: &View) -> Result<Self> {
        Ok(Self {
            channel: view.desc.channel()?,
            _desc: Arc::clone(&view.desc),
            serial: view.serial,
            offset: view.offset,
            is_readable: view.is_readable,
            is_cached: view.is_cached,
        })
    }
}

impl Bases {
    /// Opens a channel of each member.
    pub(crate) fn open(views: &Views) -> Result<Self> {
        let mut bases = Self { layout: Arc::clone(&views.layout), seats: Vec::new() };
        bases.replace(views)?;
        Ok(bases)
    }

    /// The slot's member.
    #[inline]
    pub(crate) fn get(&self, slot: u8) -> Option<&Base> {
        self.seats.get(usize::from(slot))?.base.as_ref()
    }

    /// The slot's member, unless the array is rebuilding it.
    #[inline]
    pub(crate) fn readable(&self, slot: u8) -> Option<&Base> {
        self.get(slot).filter(|base| base.is_readable)
    }

    /// The members and their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &Base)> {
        (0_u8..).zip(&self.seats).filter_map(|(slot, seat)| Some((slot, seat.base.as_ref()?)))
    }

    /// Whether the current members hold all data, without that of the slot `but`.
    pub(crate) fn hold_all(&self, but: Option<u8>) -> bool {
        self.layout.survives(|slot| Some(slot) == but || self.readable(slot).is_none())
    }

    /// Whether all members are there and current.
    pub(crate) fn are_whole(&self) -> bool {
        (0..self.layout.members()).all(|slot| self.readable(slot).is_some())
    }

    /// How many blocks are being read from a slot.
    #[inline]
    pub(crate) fn reading(&self, slot: u8) -> u64 {
        self.seats.get(usize::from(slot)).map_or(0, |seat| seat.reading.get())
    }

    /// Adds to the blocks that are being read from a slot.
    #[inline]
    pub(crate) fn add_reading(&self, slot: u8, nblocks: u64) {
        if let Some(Seat { reading, .. }) = self.seats.get(usize::from(slot)) {
            reading.set(reading.get().wrapping_add(nblocks));
        }
    }

    /// Puts the new members in place and returns the channels of those that left.
    ///
    /// # Errors
    /// Why a channel cannot be opened. Then nothing has changed.
    pub(crate) fn replace(&mut self, views: &Views) -> Result<Vec<Base>> {
        let mut opened = Vec::new();
        for (slot, view) in (0..).zip(&views.members) {
            let known = self.get(slot).map(|base| base.serial);
            opened.push(match view {
                Some(view) if known != Some(view.serial) => Some(Base::open(view)?),
                _ => None,
            });
        }
        self.layout = Arc::clone(&views.layout);
        let kept = self.seats.len().min(views.members.len());
        let mut left: Vec<Base> = self.seats.drain(kept..).filter_map(|seat| seat.base).collect();
        self.seats.resize_with(views.members.len(), Seat::default);
        for ((seat, view), opened) in self.seats.iter_mut().zip(&views.members).zip(opened) {
            match (view, opened) {
                (None, _) => left.extend(seat.base.take()),
                (Some(_), Some(new)) => left.extend(seat.base.replace(new)),
                (Some(view), None) => {
                    if let Some(base) = &mut seat.base {
                        base.is_readable = view.is_readable;
                    }
                }
            }
        }
        Ok(left)
    }

    /// Sends what the channels have collected.
    pub(crate) fn flush(&self) {
        self.iter().for_each(|(_, base)| base.channel.flush());
    }

    /// Closes all channels.
    pub(crate) fn close(&mut self) {
        self.seats.clear();
    }
}
