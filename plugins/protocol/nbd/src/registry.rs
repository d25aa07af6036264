//! The app thread's state: servers, disks, and the threads that serve them.

use crate::disk::{Disk, Served};
use crate::export::{Export, ExportConfig};
use crate::negotiate::Agreed;
use crate::server::Server;
use crate::share::Share;
use drivebay_sdk::runtime::group::Weight;
use drivebay_sdk::runtime::lock::Locks;
use drivebay_sdk::runtime::net::{Address, Stream};
use drivebay_sdk::runtime::{Group, OnApp, task};
use drivebay_sdk::{App, Error, Result, Stopping, errno, thread, tracing};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

static REGISTRY: OnApp<Registry> = OnApp::new();

/// Servers and disks.
#[derive(Debug, Default)]
pub struct Registry {
    /// The threads, which the first server or disk starts. A share is `None` when its thread could not create it.
    group: RefCell<Option<Rc<Group<Option<Share>>>>>,
    /// Servers, by name.
    pub servers: RefCell<BTreeMap<String, Server>>,
    /// Disks of the kernel, by their number.
    pub disks: RefCell<BTreeMap<u32, Disk>>,
    /// Allow one operation at a time on each device of the kernel.
    pub locks: Locks,
}

/// Returns the servers and disks. `[app thread]`
///
/// # Errors
/// `EPERM` on another thread.
pub fn registry() -> Result<Rc<Registry>> {
    REGISTRY.get().ok_or_else(|| Error::new(errno::EPERM, "not on the app thread"))
}

/// Runs `call` on the thread with the fewest connections. `[app thread]`
///
/// # Errors
/// When there are no threads.
pub fn on_a_thread(call: impl FnOnce(&Share, Weight) + Send + 'static) -> Result<()> {
    let group = registry()?.group()?;
    let (member, weight) = group.least_loaded().ok_or_else(no_thread)?;
    member.send(move |share| {
        if let Some(share) = &**share {
            call(share, weight);
        }
    });
    Ok(())
}

fn no_thread() -> Error {
    Error::new(errno::EAGAIN, "there is no thread for connections")
}

/// Ends all disks and servers, then lets the plugin stop. `[app thread]`
pub fn stop(stopping: Stopping) {
    let end = async move {
        if let Some(registry) = REGISTRY.get() {
            registry.end().await;
        }
        REGISTRY.take();
        drop(stopping);
    };
    match task::spawn("stop nbd", end) {
        Ok(task) => task.detach(),
        Err(error) => tracing::error!("nbd cannot stop cleanly: {error}"),
    }
}

impl Registry {
    /// Creates the registry, with nothing in it. `[app thread]`
    ///
    /// # Errors
    /// `EPERM` on another thread.
    pub fn start() -> Result<()> {
        REGISTRY.get_or_init(Self::default).map(drop)
    }

    fn group(&self) -> Result<Rc<Group<Option<Share>>>> {
        if let Some(group) = &*self.group.borrow() {
            return Ok(Rc::clone(group));
        }
        let share = |index| match Share::new() {
            Ok(share) => Some(share),
            Err(error) => {
                tracing::error!("nbd_poll_group_{index:03} cannot serve: {error}");
                None
            }
        };
        let group = Rc::new(Group::start("nbd_poll_group", thread::cores(), share)?);
        *self.group.borrow_mut() = Some(Rc::clone(&group));
        Ok(group)
    }

    /// Serves the connection of a disk on the thread with the fewest connections. Returns when that thread serves it.
    /// `[app thread]`
    ///
    /// # Errors
    /// When there are no threads or too many connections, or the error of the bdev's module.
    pub async fn serve(&self, stream: Stream, agreed: Agreed, served: Served) -> Result<()> {
        let group = self.group()?;
        let (member, weight) = group.least_loaded().ok_or_else(no_thread)?;
        let serve = async move |share: Rc<Option<Share>>| match &*share {
            Some(share) => share.serve(stream, &agreed, weight, served),
            None => Err(no_thread()),
        };
        member.call(serve)?.await?
    }

    /// Creates a server.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken, or the error of bind(2).
    pub fn create_server(&self, name: &str, address: &Address) -> Result<()> {
        if self.servers.borrow().contains_key(name) {
            return Err(Error::new(errno::EEXIST, format!("server {name} exists already")));
        }
        self.group()?;
        let server = Server::listen(address)?;
        self.servers.borrow_mut().insert(name.to_owned(), server);
        Ok(())
    }

    /// Deletes a server with its exports. If an export cannot end in order, the others end nevertheless.
    ///
    /// # Errors
    /// `ENOENT` when there is no such server, or the first error of an export.
    pub async fn delete_server(&self, name: &str) -> Result<()> {
        let server = self.servers.borrow_mut().remove(name).ok_or_else(|| no_server(name))?;
        let mut result = Ok(());
        for export in server.catalog().list() {
            server.catalog().remove(&export.config().name);
            result = result.and(self.end_export(export).await);
        }
        result
    }

    /// Adds an export to a server.
    ///
    /// # Errors
    /// `ENOENT` when there is no such server, `EEXIST` when the name is taken, or the error of opening the bdev.
    pub fn add_export(&self, app: &App, server: &str, config: ExportConfig) -> Result<()> {
        let servers = self.servers.borrow();
        let found = servers.get(server).ok_or_else(|| no_server(server))?;
        let (of, name) = (server.to_owned(), config.name.clone());
        let on_remove = move |_: &App| {
            let (of, name) = (of.clone(), name.clone());
            let remove = async move {
                tracing::warn!("NBD export {name} ends, because its bdev is being removed");
                let removed = async { registry()?.remove_export(&of, &name).await }.await;
                if let Err(error) = removed {
                    tracing::debug!("NBD export {name}: {error}");
                }
            };
            match task::spawn("remove export", remove) {
                Ok(task) => task.detach(),
                Err(error) => tracing::error!("an NBD export cannot be removed: {error}"),
            }
        };
        // Clients learn the size when they connect. The protocol cannot report a new size to them.
        found.catalog().add(Export::open(app, config, on_remove, || {})?)
    }

    /// Removes an export from a server and disconnects its clients.
    ///
    /// # Errors
    /// `ENOENT` when there is no such server or export.
    pub async fn remove_export(&self, server: &str, name: &str) -> Result<()> {
        let export = {
            let servers = self.servers.borrow();
            let found = servers.get(server).ok_or_else(|| no_server(server))?;
            let message = || format!("server {server} has no export {name}");
            found.catalog().remove(name).ok_or_else(|| Error::new(errno::ENOENT, message()))?
        };
        self.end_export(export).await
    }

    /// Ends the connections of an export on all threads.
    ///
    /// # Errors
    /// When a thread has ended in the meantime.
    pub async fn end_export(&self, export: Arc<Export>) -> Result<()> {
        export.set_ending();
        let group = self.group()?;
        let end = async move |share: Rc<Option<Share>>| {
            if let Some(share) = &*share {
                share.end_connections(&export).await;
            }
        };
        group.on_each(end).await.map(drop)
    }

    async fn end(&self) {
        let disks: Vec<u32> = self.disks.borrow().keys().copied().collect();
        for index in disks {
            if let Err(error) = self.stop_disk(index).await {
                tracing::warn!("/dev/nbd{index}: {error}");
            }
        }
        let servers: Vec<String> = self.servers.borrow().keys().cloned().collect();
        for name in servers {
            if let Err(error) = self.delete_server(&name).await {
                tracing::warn!("NBD server {name}: {error}");
            }
        }
        let group = self.group.borrow_mut().take();
        if let Some(group) = group.and_then(Rc::into_inner) {
            group.end().await;
        }
    }
}

/// The error for a server that does not exist.
#[must_use]
pub fn no_server(name: &str) -> Error {
    Error::new(errno::ENOENT, format!("there is no server {name}"))
}
