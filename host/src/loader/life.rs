//! The life of plugins from their first call: loaded → serving → quiescing → retired.
//!
//! The host calls plugins only on the app thread, and a plugin may call the host from inside such a
//! call. So nothing here is borrowed while a plugin runs.

use super::announce::Announcements;
use super::app_only::AppOnly;
use super::broker::{Broker, LoadProvider};
use super::calls::OpenCalls;
use super::error::{Error, Result};
use super::files::{Files, Prepared};
use super::listing::{Listing, State, listing, of_manifest};
use super::manifest::{Manifest, Requirement};
use super::open::Instance;
use super::outside::Outside;
use super::search::{Candidate, Stamp};
use super::services::{Grant, new_grant};
use drivebay_plugin_api::{BAY_FINI_SHUTDOWN, BAY_FINI_UNLOAD, bay_host};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// The state that belongs to the app thread: the plugins that were initialized.
pub(super) struct Life {
    this: Weak<AppOnly<Self>>,
    files: Arc<Files>,
    pub(super) outside: Outside,
    pub(super) broker: Rc<Broker>,
    announcements: Announcements,
    calls: Arc<OpenCalls>,
    last_number: Cell<u64>,
    /// The plugins by name, including those that have stopped.
    plugins: RefCell<BTreeMap<String, Rc<Plugin>>>,
    failures: RefCell<BTreeMap<String, Failure>>,
    /// The names of the plugins that are being initialized or started, the outermost first.
    starting: RefCell<Vec<String>>,
    /// The callbacks that run when the core has removed everything that an instance left behind, by
    /// the instance's number.
    releases: RefCell<BTreeMap<u64, Box<dyn FnOnce()>>>,
}

/// A plugin that was initialized.
pub(super) struct Plugin {
    pub(super) manifest: Manifest,
    path: PathBuf,
    stamp: Stamp,
    sha256: String,
    signer: Option<String>,
    grant: &'static Grant,
    instance: Instance,
    state: Cell<State>,
}

/// What the loader's own thread needs to know about a plugin that is present.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) version: semver::Version,
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) sha256: String,
    /// The reasons why it cannot be unloaded.
    pub(super) uses: Vec<String>,
}

struct Failure {
    candidate: Candidate,
    state: State,
    error: Error,
}

impl Life {
    pub(super) fn new(
        outside: Outside,
        files: Arc<Files>,
        load_provider: LoadProvider,
    ) -> Arc<AppOnly<Self>> {
        let core = Arc::clone(&outside.core);
        Arc::new_cyclic(|this| {
            AppOnly::new(
                Self {
                    this: this.clone(),
                    files,
                    outside,
                    broker: Rc::new(Broker::new(load_provider)),
                    announcements: Announcements::default(),
                    calls: Arc::default(),
                    last_number: Cell::new(0),
                    plugins: RefCell::default(),
                    failures: RefCell::default(),
                    starting: RefCell::default(),
                    releases: RefCell::default(),
                },
                core,
            )
        })
    }

    // --- the first steps ---

    /// Initializes and starts a plugin whose library is mapped.
    ///
    /// # Errors
    /// The error of `init` or `start`, or a claim of the manifest that the plugin does not keep.
    pub(super) fn begin(&self, prepared: Prepared) -> Result<()> {
        let name = prepared.manifest.name.clone();
        if self.serving(&name).is_some() {
            return Err(Error::new(libc::EEXIST, "another call has loaded it meanwhile"));
        }
        self.starting.borrow_mut().push(name);
        let result = self.initialize(prepared).and_then(|plugin| self.start(&plugin));
        self.starting.borrow_mut().pop();
        result
    }

    fn initialize(&self, prepared: Prepared) -> Result<Rc<Plugin>> {
        let Prepared { manifest, path, stamp, sha256, signer, granted, door } = prepared;
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let broker = Rc::downgrade(&self.broker);
        let grant = new_grant(number, &manifest.name, granted, &self.outside, &self.calls, broker);
        if !door.lets_threads_move() {
            self.outside.core.pin_threads(grant.host(), &manifest.name);
        }
        let instance = door.init(grant).map_err(|error| {
            self.release(grant, Box::new(|| {}));
            with_trouble(grant, error)
        })?;
        let state = Cell::new(State::Loaded);
        let plugin = Plugin { manifest, path, stamp, sha256, signer, grant, instance, state };
        let (plugin, name) = (Rc::new(plugin), grant.name.clone());
        self.plugins.borrow_mut().insert(name, Rc::clone(&plugin));
        Ok(plugin)
    }

    fn start(&self, plugin: &Rc<Plugin>) -> Result<()> {
        let grant = plugin.grant;
        if let Err(error) = plugin.instance.start().and_then(|()| self.check_claims(plugin)) {
            plugin.state.set(State::Retired);
            self.plugins.borrow_mut().remove(&grant.name);
            let (life, failed) = (self.this.clone(), Rc::clone(plugin));
            let finish = Box::new(move || {
                let Some(life) = life.upgrade() else { return };
                let Ok(life) = life.get() else { return };
                life.fini(failed.grant, &failed.instance, BAY_FINI_UNLOAD);
            });
            self.release(grant, finish);
            return Err(with_trouble(grant, error));
        }
        plugin.instance.examine_bdevs(self.outside.core.as_ref(), grant);
        plugin.state.set(State::Serving);
        let (version, sha256) = (plugin.manifest.version.to_string(), &plugin.sha256);
        tracing::info!(plugin = grant.name, version, sha256, "serving");
        Ok(())
    }

    /// Checks that the plugin provides what its manifest promises, because calls and acquisitions
    /// load plugins by these promises.
    fn check_claims(&self, plugin: &Plugin) -> Result<()> {
        let owner = plugin.grant.owner();
        let is_kept = |claim: &str| match claim.split_once(':') {
            Some(("rpc" | "rpc.startup" | "rpc.last", method)) => {
                self.outside.rpc.is_registered(&owner, method)
            }
            Some(_) => true,
            // Other provisions have a meaning only for other plugins, so the loader cannot check
            // them.
            None => !claim.starts_with("bay.") || self.broker.is_provided_by(owner.instance, claim),
        };
        let broken = plugin.manifest.provides.iter().find(|claim| !is_kept(claim));
        broken.map_or(Ok(()), |claim| {
            let message = format!("its manifest claims {claim}, which it does not provide");
            Err(Error::new(libc::EBADMSG, message))
        })
    }

    /// Tells the registry which methods become available when one of these plugins is loaded.
    pub(super) fn announce(&self, plugins: &[Candidate]) {
        self.announcements.update(&self.outside.rpc, plugins);
    }

    /// Records why a file was not loaded, or that it was loaded.
    pub(super) fn record(&self, candidate: Candidate, state: State, result: &Result<()>) {
        let name = candidate.name();
        let Err(error) = result else {
            self.failures.borrow_mut().remove(&name);
            return;
        };
        tracing::error!(path = %candidate.path.display(), "{error}");
        let state = if state == State::Found { State::Found } else { State::Failed };
        let failure = Failure { candidate, state, error: error.clone() };
        self.failures.borrow_mut().insert(name, failure);
    }

    /// The error of the last attempt to load exactly this file.
    pub(super) fn failure_of(&self, candidate: &Candidate) -> Option<Error> {
        let failures = self.failures.borrow();
        let failure = failures.get(&candidate.name())?;
        (failure.candidate.stamp == candidate.stamp).then(|| failure.error.clone())
    }

    // --- the present plugins ---

    /// The names of the plugins that are being initialized or started.
    pub(super) fn starting(&self) -> Vec<String> {
        self.starting.borrow().clone()
    }

    pub(super) fn live(&self) -> Vec<Rc<Plugin>> {
        let plugins = self.plugins.borrow();
        plugins.values().filter(|p| p.state.get() == State::Serving).cloned().collect()
    }

    fn serving(&self, name: &str) -> Option<Rc<Plugin>> {
        let plugins = self.plugins.borrow();
        plugins.get(name).filter(|p| p.is_there()).cloned()
    }

    /// The plugin of that name, if it is present.
    pub(super) fn present(&self, name: &str) -> Option<Present> {
        let plugin = self.serving(name)?;
        Some(Present {
            version: plugin.manifest.version.clone(),
            path: plugin.path.clone(),
            stamp: plugin.stamp,
            sha256: plugin.sha256.clone(),
            uses: self.uses(&plugin),
        })
    }

    /// Whether the manifest of a present plugin lists `provision`.
    pub(super) fn is_provided(&self, provision: &str) -> bool {
        let plugins = self.plugins.borrow();
        plugins.values().any(|p| p.is_there() && p.manifest.provides(provision))
    }

    /// The listing of the files `on_path`, each with its present state, and of plugins whose file
    /// is gone.
    pub(super) fn list(&self, on_path: Vec<Listing>) -> Vec<Listing> {
        let key = |plugin: &Listing| (plugin.name.clone(), plugin.path.clone());
        let mut list: BTreeMap<(String, PathBuf), Listing> =
            on_path.into_iter().map(|plugin| (key(&plugin), plugin)).collect();
        for failure in self.failures.borrow().values() {
            let failed = listing(&failure.candidate);
            let entry = list.entry(key(&failed)).or_insert(failed);
            if entry.state == State::Allowed {
                entry.state = failure.state;
                entry.reason = Some(failure.error.message().to_owned());
            }
        }
        for plugin in self.plugins.borrow().values() {
            let plugin = plugin.listing();
            list.insert(key(&plugin), plugin);
        }
        list.into_values().collect()
    }

    // --- the end ---

    /// The plugin of that name, if nothing uses it.
    ///
    /// # Errors
    /// `ENOENT` when it is not loaded; `EBUSY` with the first thing that uses it.
    pub(super) fn unloadable(&self, name: &str) -> Result<Rc<Plugin>> {
        let plugin = self.serving(name);
        let plugin =
            plugin.ok_or_else(|| Error::new(libc::ENOENT, format!("plugin {name}: not loaded")))?;
        match self.uses(&plugin).first() {
            None => Ok(plugin),
            Some(why) => Err(Error::new(libc::EBUSY, format!("plugin {name}: {why}"))),
        }
    }

    /// The reasons why a plugin cannot be unloaded, one line each.
    fn uses(&self, plugin: &Plugin) -> Vec<String> {
        if plugin.state.get() != State::Serving {
            return vec!["is starting or stopping".to_owned()];
        }
        let mut uses = Vec::new();
        let live = self.live();
        let users = live.iter().filter(|other| !other.is(plugin) && other.needs(plugin));
        let users: Vec<&str> = users.map(|other| other.manifest.name.as_str()).collect();
        if !users.is_empty() {
            uses.push(format!("is required by {}", users.join(", ")));
        }
        let number = plugin.grant.number;
        let host: *const bay_host = plugin.grant.host();
        // The disks of a failed plugin only return errors, so they do not prevent the unload.
        let has_failed = plugin.grant.panic().is_some();
        let owned = if has_failed { 0 } else { self.outside.core.owned(host) };
        for (count, what) in [
            (self.broker.references_to(number), "references of other plugins to it"),
            (self.calls.count(number), "unanswered RPC calls"),
            (owned, "bdevs or open descriptors"),
        ] {
            if count > 0 {
                uses.push(format!("has {count} {what}; 0 are required"));
            }
        }
        uses
    }

    /// The plugin that stops next when the host stops. Plugins that serve hosts come first, then
    /// plugins whose bdevs no other owner has open, so that a store can still reach its disk.
    /// Within each group the last loaded one comes first. A plugin that another one requires must
    /// wait.
    pub(super) fn next_to_end(&self) -> Option<Rc<Plugin>> {
        let live = self.live();
        let is_required =
            |plugin: &Plugin| live.iter().any(|other| !other.is(plugin) && other.needs(plugin));
        let turn = |plugin: &&Rc<Plugin>| {
            let is_open = self.outside.core.others_use(plugin.grant.host());
            let serves_hosts = plugin.manifest.serves_hosts();
            (!is_required(plugin), serves_hosts, !is_open, plugin.grant.number)
        };
        live.iter().max_by_key(turn).cloned()
    }

    /// Stops a plugin: it quiesces, then the host removes what it left behind, then `fini` runs.
    pub(super) fn end(&self, plugin: &Rc<Plugin>, reason: u32, done: Box<dyn FnOnce(Result<()>)>) {
        plugin.state.set(State::Quiescing);
        let (life, quiet) = (self.this.clone(), Rc::clone(plugin));
        plugin.instance.quiesce(Box::new(move |status| {
            let Some(life) = life.upgrade() else { return };
            if let Err(error) = check_quiet(&quiet, reason, status) {
                return done(Err(error));
            }
            match life.get() {
                Ok(life) => life.end_quiet(&quiet, reason, done),
                Err(error) => done(Err(error)),
            }
        }));
    }

    fn end_quiet(&self, plugin: &Rc<Plugin>, reason: u32, done: Box<dyn FnOnce(Result<()>)>) {
        let (life, ended) = (self.this.clone(), Rc::clone(plugin));
        let finish = Box::new(move || {
            let Some(life) = life.upgrade() else { return };
            let retired = life.get().map(|life| {
                life.fini(ended.grant, &ended.instance, reason);
                ended.state.set(State::Retired);
                tracing::info!(plugin = ended.manifest.name, "retired; its library stays mapped");
                life.announce(&life.files.known().best);
            });
            done(retired);
        });
        self.release(plugin.grant, finish);
    }

    /// From here on no call reaches the plugin. `next` runs when nothing of the plugin is left.
    fn release(&self, grant: &'static Grant, next: Box<dyn FnOnce()>) {
        self.broker.withdraw_all(grant.number);
        grant.end();
        self.releases.borrow_mut().insert(grant.number, next);
        let (life, number) = (self.this.clone(), grant.number);
        let done = Box::new(move || {
            let Some(life) = life.upgrade() else { return };
            let Ok(life) = life.get() else { return };
            let next = life.releases.borrow_mut().remove(&number);
            next.into_iter().for_each(|next| next());
        });
        self.outside.core.release_owner(grant.host(), done);
    }

    fn fini(&self, grant: &'static Grant, instance: &Instance, reason: u32) {
        let left = self.outside.core.owned(grant.host());
        if left == 0 {
            return instance.fini(reason);
        }
        tracing::warn!(plugin = grant.name, left, "still in use, so fini is not called");
    }
}

impl Plugin {
    fn is_there(&self) -> bool {
        self.state.get() != State::Retired
    }

    fn is(&self, other: &Self) -> bool {
        self.grant.number == other.grant.number
    }

    /// Tells the plugin that the log level has changed.
    pub(super) fn log_level_changed(&self) {
        self.instance.log_level_changed();
    }

    /// Whether the plugin requires the other plugin, by name or by an interface that the other
    /// plugin provides.
    fn needs(&self, other: &Self) -> bool {
        let requirements = self.manifest.requirements().unwrap_or_default();
        requirements.iter().any(|requirement| match requirement {
            Requirement::Provision(provision) => other.manifest.provides(provision),
            Requirement::Plugin(name, _) => *name == other.manifest.name,
        })
    }

    fn listing(&self) -> Listing {
        let retired = "ended; its library stays mapped until the host ends";
        let (state, reason) = match (self.state.get(), self.grant.reason_of_failure()) {
            (State::Retired, _) => (State::Retired, Some(retired.to_owned())),
            (_, Some(reason)) => (State::Failed, Some(reason)),
            (state, None) => (state, None),
        };
        Listing {
            state,
            reason,
            sha256: Some(self.sha256.clone()),
            signed_by: self.signer.clone(),
            granted: self.grant.permissions.clone(),
            ..of_manifest(&self.manifest, &self.path)
        }
    }
}

/// A plugin that cannot stop keeps running, unless the host is stopping.
fn check_quiet(plugin: &Plugin, reason: u32, status: i32) -> Result<()> {
    if status >= 0 || reason == BAY_FINI_SHUTDOWN {
        return Ok(());
    }
    plugin.state.set(State::Serving);
    let errno = status.checked_neg().unwrap_or(libc::EIO);
    let why = std::io::Error::from_raw_os_error(errno);
    let message = format!("plugin {}: did not quiesce: {why}", plugin.manifest.name);
    Err(Error::new(errno, message))
}

fn with_trouble(grant: &Grant, error: Error) -> Error {
    match grant.take_trouble() {
        Some(trouble) => Error::new(error.errno(), format!("{error} ({trouble})")),
        None => error,
    }
}
