//! The plugins of a host: found → allowed → staged → loaded → serving → retired, or failed with a
//! reason.
//!
//! | what | where |
//! |---|---|
//! | files: search, copy, hash, signature, `dlopen` | `files`, on the loader's own thread (`background`) |
//! | the order of loads | `load`, on that thread too |
//! | calls of plugins: `init`, `start`, quiesce, `fini` | `life`, on the app thread |

use super::app_only::AppOnly;
use super::background::Background;
use super::error::{Error, Result};
use super::files::{Files, Settings};
use super::life::Life;
use super::listing::Listing;
use super::load::Load;
use super::outside::{Job, Outside};
use drivebay_plugin_api::{BAY_FINI_SHUTDOWN, BAY_FINI_UNLOAD};
use std::fmt;
use std::sync::{Arc, Weak};

/// The plugins of this host. Any thread may use it.
///
/// Methods that read files block: call them from a thread that may wait, or use `in_background`.
pub struct Manager {
    this: Weak<Self>,
    files: Arc<Files>,
    background: Background,
    life: Arc<AppOnly<Life>>,
}

impl Manager {
    /// Creates the staging folder and starts the loader's thread. Loads nothing. App thread.
    ///
    /// # Errors
    /// The staging folder cannot be created.
    pub fn new(settings: Settings, outside: Outside) -> Result<Arc<Self>> {
        let files = Arc::new(Files::new(settings)?);
        let background = Background::start()?;
        let manager = Arc::new_cyclic(|this: &Weak<Self>| {
            let manager = this.clone();
            let load_provider = Box::new(move |interface: &str| match manager.upgrade() {
                Some(manager) => manager.on_demand(interface).map(drop),
                None => Err(Error::new(libc::ESHUTDOWN, "the host is stopping")),
            });
            let life = Life::new(outside, Arc::clone(&files), load_provider);
            Self { this: this.clone(), files, background, life }
        });
        manager.announce()?;
        Ok(manager)
    }

    /// Loads a plugin by name, or from a path (a text that contains `/` or ends in `.so`). First
    /// loads the plugins that it requires. Does nothing if the plugin already serves from the same
    /// file. Any thread; blocks.
    ///
    /// # Errors
    /// The reason why the plugin may not be loaded, and what is allowed.
    pub fn load(&self, name_or_path: &str) -> Result<()> {
        let result = Load::new(&self.files, &self.life)?.by_name_or_path(name_or_path);
        self.announce()?;
        result
    }

    /// Loads the plugin that provides `rpc:METHOD`, `nvmf.transport/TYPE` or an interface id.
    /// Returns false when no plugin on the path provides it, or when its provider is already
    /// loaded. A file that failed is not tried again until it changes or is loaded by name. Any
    /// thread; blocks.
    ///
    /// # Errors
    /// Several plugins provide it, or the load failed.
    pub fn on_demand(&self, provision: &str) -> Result<bool> {
        let is_loaded = Load::new(&self.files, &self.life)?.on_demand(provision)?;
        if is_loaded {
            self.announce()?;
        }
        Ok(is_loaded)
    }

    /// Whether the manifest of a serving plugin lists `provision`. Any thread; blocks.
    ///
    /// # Errors
    /// `ESHUTDOWN` when the host is stopping.
    pub fn is_provided(&self, provision: String) -> Result<bool> {
        self.life.run(move |life| life.is_provided(&provision))
    }

    /// Lists every plugin that is on the path, is serving, has failed or has stopped. Any thread;
    /// blocks.
    ///
    /// # Errors
    /// `ESHUTDOWN` when the host is stopping.
    pub fn list(&self) -> Result<Vec<Listing>> {
        self.announce()?;
        let on_path = self.files.known().listing;
        self.life.run(move |life| life.list(on_path))
    }

    /// As [`list`](Self::list), with the files that the last scan of the path found. App thread.
    ///
    /// # Errors
    /// `EPERM` outside of the app thread.
    pub fn list_known(&self) -> Result<Vec<Listing>> {
        Ok(self.life.get()?.list(self.files.known().listing))
    }

    /// Scans the search path again, and tells the registry which methods are available by loading a
    /// plugin. Any thread; blocks.
    ///
    /// # Errors
    /// `ESHUTDOWN` when the host is stopping.
    pub fn announce(&self) -> Result<()> {
        let found = self.files.scan();
        self.life.run(move |life| life.announce(&found.best))
    }

    /// Runs a job that may block on the loader's own thread. Any thread.
    ///
    /// # Errors
    /// `EBUSY` when too many jobs wait; `job` is dropped.
    pub(super) fn in_background(&self, job: impl FnOnce(&Self) + Send + 'static) -> Result<()> {
        let manager = self.this.clone();
        self.background.send(Box::new(move || {
            if let Some(manager) = manager.upgrade() {
                job(&manager);
            }
        }))
    }

    /// Stops a plugin that nothing uses. Calls `done` when it has quiesced and stopped, or with the reason
    /// why not. Its library stays mapped. App thread.
    pub fn unload(&self, name: &str, done: Box<dyn FnOnce(Result<()>)>) {
        match self.life.get().and_then(|life| Ok((life, life.unloadable(name)?))) {
            Ok((life, plugin)) => life.end(&plugin, BAY_FINI_UNLOAD, done),
            Err(error) => done(Err(error)),
        }
    }

    /// Stops all plugins: first those that serve hosts from outside, then those whose bdevs no
    /// other owner has open, then the rest. Within each group the last loaded one stops first, and
    /// a plugin that another one requires must wait. So a host loses its connection first, and
    /// reconnects after the restart. If it lost the disk first, its I/O would fail for good. `done`
    /// is called when no plugin is left. App thread.
    pub fn shutdown(&self, done: Box<dyn FnOnce()>) {
        let Ok(life) = self.life.get() else { return done() };
        let Some(next) = life.next_to_end() else { return done() };
        let manager = self.this.clone();
        let ended = Box::new(move |_: Result<()>| match manager.upgrade() {
            Some(manager) => manager.shutdown(done),
            None => done(),
        });
        life.end(&next, BAY_FINI_SHUTDOWN, ended);
    }

    /// Tells every plugin that the log level has changed. A plugin caches for each kind of line
    /// whether it is logged, so it must learn of the change. App thread.
    ///
    /// # Errors
    /// `EPERM` outside of the app thread.
    pub fn log_level_changed(&self) -> Result<()> {
        self.life.get()?.live().iter().for_each(|plugin| plugin.log_level_changed());
        Ok(())
    }

    /// Sends a job to the app thread. Any thread.
    pub(super) fn send_to_app(&self, job: Job) {
        self.life.core().send_to_app(job);
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}
