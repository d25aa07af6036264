//! Limits of the number of connections: from one address, and at one listener.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a connection gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    Address,
    Listener,
}

impl NoPlace {
    /// The name of the option with the limit.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Self::Address => "max_connections_per_address",
            Self::Listener => "max_connections_per_listener",
        }
    }
}

/// The limits of a transport, and the connections so far.
#[derive(Debug)]
pub(crate) struct Places {
    per_address: u32,
    per_listener: u32,
    by_address: Mutex<BTreeMap<IpAddr, u32>>,
}

/// A connection's place. Dropping it, on any thread, releases the place.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    address: IpAddr,
    listener: Arc<AtomicU32>,
}

impl Places {
    pub(crate) fn new(per_address: u32, per_listener: u32) -> Arc<Self> {
        Arc::new(Self { per_address, per_listener, by_address: Mutex::default() })
    }

    /// Takes a place for a connection from `address` at the listener that has `listener`
    /// connections.
    pub(crate) fn take(
        self: &Arc<Self>,
        address: IpAddr,
        listener: &Arc<AtomicU32>,
    ) -> Result<Place, NoPlace> {
        let mut by_address = self.by_address();
        let count = by_address.get(&address).copied().unwrap_or(0);
        if count >= self.per_address {
            return Err(NoPlace::Address);
        }
        if listener.load(Ordering::Relaxed) >= self.per_listener {
            return Err(NoPlace::Listener);
        }
        by_address.insert(address, count + 1);
        listener.fetch_add(1, Ordering::Relaxed);
        Ok(Place { places: Arc::clone(self), address, listener: Arc::clone(listener) })
    }

    fn by_address(&self) -> MutexGuard<'_, BTreeMap<IpAddr, u32>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.places.by_address();
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
        self.listener.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_listener_have_so_many_places_and_get_them_back() {
        let places = Places::new(2, 3);
        let listener = Arc::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let first = places.take(address(1), &listener).unwrap();
        let _second = places.take(address(1), &listener).unwrap();
        assert_eq!(places.take(address(1), &listener).unwrap_err(), NoPlace::Address);
        let _third = places.take(address(2), &listener).unwrap();
        assert_eq!(places.take(address(3), &listener).unwrap_err(), NoPlace::Listener);
        drop(first);
        assert!(places.take(address(1), &listener).is_ok());
        assert_eq!(places.by_address().len(), 2);
    }
}
