//! One thread's connections.

use crate::connection::{Connection, Opened, Woken};
use crate::disk::Served;
use crate::export::Export;
use crate::negotiate::{Agreed, negotiate};
use crate::server::Catalog;
use drivebay_sdk::poller::{Poll, Poller};
use drivebay_sdk::runtime::group::Weight;
use drivebay_sdk::runtime::net::{Sockets, Stream};
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use drivebay_sdk::{Error, Result, errno, tracing};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// The event "readable" of poll(2).
const POLLIN: u32 = 1;
/// Maximum number of connections of one thread.
const CONNECTIONS_MAX: usize = 1024;
/// Maximum number of clients of one thread that negotiate at the same time.
const NEGOTIATING_MAX: usize = 128;
/// How long a client may negotiate.
const NEGOTIATION_LIMIT: Duration = Duration::from_secs(30);

/// One thread's connections, with the poller that serves them.
#[derive(Debug)]
pub struct Share {
    serving: Rc<Serving>,
    num_negotiating: Rc<Cell<usize>>,
    _poller: Poller,
}

struct Serving {
    sockets: RefCell<Sockets<Connection>>,
    /// Exports in use on this thread. Connections of one export share its channel.
    opened: RefCell<Vec<Weak<Opened>>>,
    /// Connections whose I/O has ended.
    woken: Rc<Woken>,
    /// Notified when connections have ended.
    ended: Notify,
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl Share {
    /// Creates the share of the current thread, without connections.
    ///
    /// # Errors
    /// When the system or the host is out of resources.
    pub fn new() -> Result<Self> {
        let sockets = Sockets::new(CONNECTIONS_MAX)?;
        let fd = sockets.wake_fd();
        let serving = Rc::new(Serving {
            sockets: RefCell::new(sockets),
            opened: RefCell::default(),
            woken: Rc::default(),
            ended: Notify::new(),
        });
        let poller = Poller::register("nbd", 0, Round(Rc::clone(&serving)))?;
        poller.wake_fd(fd, POLLIN)?;
        Ok(Self { serving, num_negotiating: Rc::default(), _poller: poller })
    }

    /// Negotiates with a client, then serves it.
    pub fn begin(&self, mut stream: Stream, catalog: Arc<Catalog>, weight: Weight) {
        if self.num_negotiating.get() == NEGOTIATING_MAX {
            return tracing::warn!("an NBD client is refused: {NEGOTIATING_MAX} others negotiate");
        }
        let place = Negotiating::enter(&self.num_negotiating);
        let serving = Rc::clone(&self.serving);
        let served = async move {
            let agreed = task::timeout(NEGOTIATION_LIMIT, negotiate(&mut stream, &catalog));
            let Some(agreed) = agreed.await?? else { return Ok(()) };
            drop(place);
            serving.add(stream, &agreed, weight, None)
        };
        let logged = async move {
            if let Err::<(), Error>(error) = served.await {
                tracing::info!("an NBD client failed to negotiate: {error}");
            }
        };
        match task::spawn("negotiate", logged) {
            Ok(task) => task.detach(),
            Err(error) => tracing::warn!("an NBD client is refused: {error}"),
        }
    }

    /// Serves the connection of a disk, which needs no negotiation. The connection drops `served` when it ends.
    ///
    /// # Errors
    /// When the export ends, or there are too many connections.
    pub fn serve(
        &self,
        stream: Stream,
        agreed: &Agreed,
        weight: Weight,
        served: Served,
    ) -> Result<()> {
        self.serving.add(stream, agreed, weight, Some(served))
    }

    /// Ends the connections of an export, and waits until they have ended.
    pub async fn end_connections(&self, export: &Arc<Export>) {
        self.serving.end(export);
        self.serving.ended.until(|| !self.serving.has_connections(export)).await;
    }
}

/// Counts a client that negotiates, until this is dropped.
struct Negotiating(Rc<Cell<usize>>);

impl Negotiating {
    fn enter(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Negotiating {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Serving {
    fn add(
        &self,
        stream: Stream,
        agreed: &Agreed,
        weight: Weight,
        served: Option<Served>,
    ) -> Result<()> {
        let export = agreed.export.upgrade().filter(|export| !export.is_ending());
        let export = export.ok_or_else(|| Error::new(errno::ENODEV, "the export has ended"))?;
        let opened = self.open(export)?;
        let connection = Connection::new(opened, agreed, Rc::clone(&self.woken), weight, served);
        let mut sockets = self.sockets.borrow_mut();
        let key = sockets.add(stream, connection)?;
        if let Some((_, connection)) = sockets.get_mut(key) {
            connection.set_key(key);
        }
        Ok(())
    }

    /// Finds or opens this thread's channel of an export.
    fn open(&self, export: Arc<Export>) -> Result<Rc<Opened>> {
        let mut all = self.opened.borrow_mut();
        all.retain(|opened| opened.strong_count() > 0);
        let same = |opened: &Rc<Opened>| Arc::ptr_eq(opened.export(), &export);
        if let Some(opened) = all.iter().filter_map(Weak::upgrade).find(same) {
            return Ok(opened);
        }
        let opened = Rc::new(Opened::new(export)?);
        all.push(Rc::downgrade(&opened));
        Ok(opened)
    }

    fn end(&self, export: &Arc<Export>) {
        let mut sockets = self.sockets.borrow_mut();
        let mut ending = Vec::new();
        for (key, _, connection) in sockets.iter_mut() {
            if Arc::ptr_eq(connection.export(), export) {
                connection.end();
                ending.push(key);
            }
        }
        ending.into_iter().for_each(|key| sockets.activate(key));
    }

    fn has_connections(&self, export: &Arc<Export>) -> bool {
        let mut sockets = self.sockets.borrow_mut();
        sockets.iter_mut().any(|(_, _, connection)| Arc::ptr_eq(connection.export(), export))
    }

    /// Gives a turn to each connection that has something to do. Returns whether there was one.
    fn round(&self) -> bool {
        let mut sockets = self.sockets.borrow_mut();
        self.woken.drain(|key| sockets.activate(key));
        if !sockets.has_work() {
            return false;
        }
        let before = sockets.len();
        sockets.round(|_, stream, connection| connection.turn(stream));
        let have_ended = sockets.len() < before;
        drop(sockets);
        for opened in self.opened.borrow().iter().filter_map(Weak::upgrade) {
            opened.flush();
        }
        if have_ended {
            self.ended.notify();
        }
        true
    }
}

struct Round(Rc<Serving>);

impl Poll for Round {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let has_come = self.0.sockets.borrow_mut().look();
        self.0.round() || has_come
    }

    fn prepare_sleep(&mut self) -> bool {
        !self.0.woken.is_empty() || self.0.sockets.borrow().has_work()
    }
}
