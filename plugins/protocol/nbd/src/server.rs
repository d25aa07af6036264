//! Servers: sockets on which clients find exports.

use crate::export::Export;
use crate::registry;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::net::{Address, ListenOptions, Listener, Stream};
use drivebay_sdk::{Error, Result, errno, thread, tracing};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, PoisonError, RwLock};

/// The event "readable" of poll(2).
const POLLIN: u32 = 1;
/// Maximum number of exports of a server.
const EXPORTS_MAX: usize = 1024;

/// A server. Dropping it closes its socket. Its connections stay until their exports end.
#[derive(Debug)]
pub struct Server {
    catalog: Arc<Catalog>,
    address: Address,
    _poller: Poller,
}

impl Server {
    /// Starts to listen. `[app thread]`
    ///
    /// # Errors
    /// The error of bind(2), with the address.
    pub fn listen(address: &Address) -> Result<Self> {
        let listener = Listener::bind(address, &ListenOptions::default())?;
        let address = listener.address().clone();
        let fd = listener.as_fd().as_raw_fd();
        let catalog = Arc::<Catalog>::default();
        let acceptor = Acceptor { listener, accepted: Vec::new(), catalog: Arc::clone(&catalog) };
        let poller = Poller::register("nbd_acceptor", 0, acceptor)?;
        poller.wake_fd(fd, POLLIN)?;
        Ok(Self { catalog, address, _poller: poller })
    }

    /// The address on which the server listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The exports of the server.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }
}

/// The exports of a server, by name. Threads look here while a client negotiates. The data path does not.
#[derive(Debug, Default)]
pub struct Catalog(RwLock<BTreeMap<String, Arc<Export>>>);

impl Catalog {
    /// Adds an export.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, `ENOSPC` when there are too many.
    pub fn add(&self, export: Arc<Export>) -> Result<()> {
        let name = export.config().name.clone();
        let mut exports = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if exports.contains_key(&name) {
            return Err(Error::new(errno::EEXIST, format!("export {name} exists already")));
        }
        if exports.len() == EXPORTS_MAX {
            let message = format!("the server has {EXPORTS_MAX} exports, which is the limit");
            return Err(Error::new(errno::ENOSPC, message));
        }
        exports.insert(name, export);
        Ok(())
    }

    /// Removes an export and returns it.
    pub fn remove(&self, name: &str) -> Option<Arc<Export>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// Finds an export by name. The empty name means the only export, if there is just one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Export>> {
        let exports = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let only = || if exports.len() == 1 { exports.values().next() } else { None };
        exports.get(name).or_else(|| if name.is_empty() { only() } else { None }).cloned()
    }

    /// All exports, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Export>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Accepts clients and hands each to the thread with the fewest connections.
struct Acceptor {
    listener: Listener,
    accepted: Vec<Stream>,
    catalog: Arc<Catalog>,
}

impl Poll for Acceptor {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        self.listener.accept(thread::now_ns(), &mut self.accepted);
        let has_come = !self.accepted.is_empty();
        for stream in self.accepted.drain(..) {
            let catalog = Arc::clone(&self.catalog);
            let handed =
                registry::on_a_thread(move |share, weight| share.begin(stream, catalog, weight));
            if let Err(error) = handed {
                tracing::warn!("an NBD client is refused: {error}");
            }
        }
        has_come
    }

    fn next_ns(&mut self) -> u64 {
        self.listener.next_ns()
    }
}
