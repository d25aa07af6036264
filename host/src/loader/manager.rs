//! The plugins of a host: found → allowed → staged → loaded → serving → retired, or failed with the
//! reason.
//!
//! | what | where |
//! |---|---|
//! | files: search, copy, hash, signature, `dlopen` | `files`, on the loader's own thread (`background`) |
//! | what is loaded before what | `load`, on that thread too |
//! | calls of plugins: `init`, `start`, quiesce, `fini` | `life`, on the app thread |

use super::app_only::AppOnly;
use super::background::{Background, Job};
use super::broker::{Broker, Revoked};
use super::error::{Error, Result};
use super::files::Files;
use super::life::Life;
use super::listing::Listing;
use super::load::Load;
use super::outside::{Job as AppJob, Outside};
use super::trust::Policy;
use drivebay_plugin_api::{BAY_FINI_SHUTDOWN, BAY_FINI_UNLOAD};
use std::ffi::c_void;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Weak, mpsc};

/// Where plugins come from and where their copies go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folders that are searched, first come first; see
    /// [`Search::default_folders`](super::search::Search::default_folders).
    pub folders: Vec<PathBuf>,
    /// The host's runtime folder.
    pub runtime: PathBuf,
    /// What the operator allows.
    pub policy: Policy,
}

/// The plugins of this host. A handle for any thread.
///
/// What looks at files blocks: call it from a thread that may wait, or `in_background`.
pub struct Manager {
    this: Weak<Self>,
    files: Files,
    background: Background,
    life: AppOnly<Life>,
}

impl Manager {
    /// Makes the staging folder and starts the loader's thread; loads nothing. App thread.
    ///
    /// # Errors
    /// The staging folder cannot be made.
    pub fn new(settings: Settings, outside: Outside) -> Result<Arc<Self>> {
        let files = Files::new(settings)?;
        let (background, thread) = Background::new();
        let core = Arc::clone(&outside.core);
        let manager = Arc::new_cyclic(|this: &Weak<Self>| {
            let life = AppOnly::new(Life::new(this.clone(), outside), core);
            Self { this: this.clone(), files, background, life }
        });
        thread.start(manager.this.clone())?;
        manager.announce()?;
        Ok(manager)
    }

    /// Loads a plugin by name, or from a path (what holds a `/` or ends in `.so`), after what it
    /// requires. One that serves already, from the same file, is no error. Any thread; blocks.
    ///
    /// # Errors
    /// What forbids it, and what is required.
    pub fn load(&self, name_or_path: &str) -> Result<()> {
        let result = Load::new(self)?.by_name_or_path(name_or_path);
        self.announce()?;
        result
    }

    /// Loads what provides `rpc:METHOD`, `nvmf.transport/TYPE` or an interface id. False when
    /// nothing on the path does, or what does is loaded already. A file that failed is not tried
    /// again until it changes or is loaded by name. Any thread; blocks.
    ///
    /// # Errors
    /// Several provide it, or the load failed.
    pub fn on_demand(&self, provision: &str) -> Result<bool> {
        let is_loaded = Load::new(self)?.on_demand(provision)?;
        if is_loaded {
            self.announce()?;
        }
        Ok(is_loaded)
    }

    /// Whether the manifest of a plugin that serves lists this. Any thread; blocks.
    ///
    /// # Errors
    /// When the host ends.
    pub fn is_provided(&self, provision: String) -> Result<bool> {
        self.on_app(move |life| life.is_provided(&provision))
    }

    /// Every plugin that is on the path, serves, failed or has ended. Any thread; blocks.
    ///
    /// # Errors
    /// When the host ends.
    pub fn list(&self) -> Result<Vec<Listing>> {
        self.announce()?;
        let on_path = self.files.known().listing;
        self.on_app(move |life| life.list(on_path))
    }

    /// As [`list`](Self::list), with the files that the last look at the path found. App thread.
    ///
    /// # Errors
    /// Outside of the app thread.
    pub fn list_known(&self) -> Result<Vec<Listing>> {
        Ok(self.life()?.list(self.files.known().listing))
    }

    /// Reads the search path again and tells the registry which methods can be had by loading. Any
    /// thread; blocks.
    ///
    /// # Errors
    /// When the host ends.
    pub fn announce(&self) -> Result<()> {
        let found = self.files.scan();
        self.on_app(move |life| life.announcements.update(&life.outside.rpc, &found.best))
    }

    /// Has the loader's own thread do something that may block. Any thread.
    ///
    /// # Errors
    /// `EBUSY` when too much is waiting; `job` is dropped.
    pub(super) fn in_background(&self, job: Job) -> Result<()> {
        self.background.send(job)
    }

    /// Ends a plugin that nothing uses: `done` is called once it is quiet and has ended, or with
    /// the reason why not. Its library stays mapped. App thread.
    pub fn unload(&self, name: &str, done: Box<dyn FnOnce(Result<()>)>) {
        match self.life().and_then(|life| Ok((life, life.unloadable(name)?))) {
            Ok((life, plugin)) => life.end(&plugin, BAY_FINI_UNLOAD, done),
            Err(error) => done(Err(error)),
        }
    }

    /// Ends all plugins: first those that serve hosts from outside, then those whose bdevs nobody else has open, then the rest. Of
    /// each kind the last loaded ends first, and none ends that another one requires. So a host sees the end of its connection,
    /// after which it comes again, and not that of its disk, after which its I/O has failed for good. `done` is called when none is left. App thread.
    pub fn shutdown(&self, done: Box<dyn FnOnce()>) {
        let Ok(life) = self.life() else { return done() };
        let Some(next) = life.next_to_end() else { return done() };
        let manager = self.this.clone();
        let ended = Box::new(move |_: Result<()>| match manager.upgrade() {
            Some(manager) => manager.shutdown(done),
            None => done(),
        });
        life.end(&next, BAY_FINI_SHUTDOWN, ended);
    }

    /// Tells every plugin that the log level is another one: they decide line by line, once for all
    /// lines of a kind, what is written. App thread.
    ///
    /// # Errors
    /// Outside of the app thread.
    pub fn log_level_changed(&self) -> Result<()> {
        self.life()?.live().iter().for_each(|plugin| plugin.log_level_changed());
        Ok(())
    }

    /// For plugins: another plugin's table. Loads its provider if nobody provides it yet; the caller
    /// waits for its file then. App thread.
    pub(super) fn acquire(
        &self,
        owner: u64,
        id: &str,
        revoked: Option<Revoked>,
    ) -> Result<Option<(*const c_void, u64)>> {
        if !self.broker()?.is_provided(id) {
            self.on_demand(id)?;
        }
        self.broker()?.acquire(owner, id, revoked)
    }

    pub(super) fn broker(&self) -> Result<&Broker> {
        Ok(&self.life()?.broker)
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// What belongs to the app thread.
    ///
    /// # Errors
    /// `EPERM` outside of it.
    pub(super) fn life(&self) -> Result<&Life> {
        self.life.get()
    }

    /// Does `work` on the app thread and waits for it; at once when this is the app thread.
    ///
    /// # Errors
    /// `ESHUTDOWN` when the host ends meanwhile.
    pub(super) fn on_app<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Life) -> R + Send + 'static,
    ) -> Result<R> {
        if let Ok(life) = self.life() {
            return Ok(work(life));
        }
        let (sender, result) = mpsc::channel();
        let manager = self.this.clone();
        self.send_to_app(Box::new(move || {
            let Some(manager) = manager.upgrade() else { return };
            if let Ok(life) = manager.life() {
                // Whoever waits has not gone.
                let _ = sender.send(work(life));
            }
        }));
        result.recv().map_err(|_| Error::new(libc::ESHUTDOWN, "the host ends"))
    }

    /// Has the app thread do something soon. Any thread.
    pub(super) fn send_to_app(&self, job: AppJob) {
        self.life.core().send_to_app(job);
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}
