//! The life of plugins: found → allowed → staged → loaded → serving → retired, or failed with its
//! reason.
//!
//! Plugins are called on the app thread only, and they call back from inside: nothing is borrowed
//! here while one of them runs.

use super::app_only::AppOnly;
use super::broker::{Broker, Revoked};
use super::calls::OpenCalls;
use super::error::{Error, Result};
use super::listing::{Listing, State, listing, of_manifest, on_path};
use super::manifest::{Manifest, Requirement};
use super::open::{Door, Instance};
use super::outside::{Job, Outside};
use super::search::{Candidate, Search, Stamp, look_into};
use super::services::Grant;
use super::stage::Stage;
use super::trust::Policy;
use crate::rpc::Owner;
use drivebay_plugin_api::{BAY_FINI_SHUTDOWN, BAY_FINI_UNLOAD, bay_host, id};
use drivebay_spec_jsonrpc::{Method, Role, State as RpcState};
use semver::VersionReq;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Weak};

/// Where plugins come from and where their copies go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folders that are searched, first come first; see [`Search::default_folders`].
    pub folders: Vec<PathBuf>,
    /// The host's runtime folder.
    pub runtime: PathBuf,
    /// What the operator allows.
    pub policy: Policy,
}

/// The plugins of this host. A handle for any thread; all but [`Manager::new`] fail with `EPERM`
/// outside of the app thread.
pub struct Manager {
    inner: AppOnly<Inner>,
}

struct Inner {
    manager: Weak<Manager>,
    outside: Outside,
    policy: Rc<Policy>,
    search: RefCell<Search>,
    stage: RefCell<Stage>,
    calls: Arc<OpenCalls>,
    broker: Broker,
    last_number: Cell<u64>,
    /// By name; those that have ended too.
    plugins: RefCell<BTreeMap<String, Rc<Plugin>>>,
    failures: RefCell<BTreeMap<String, Failure>>,
    /// Names of what is being loaded, the outermost first.
    loading: RefCell<Vec<String>>,
    /// What is to be done when the core has taken back what an instance left, by its number.
    releases: RefCell<BTreeMap<u64, Box<dyn FnOnce()>>>,
    /// What the registry was told.
    announced: RefCell<BTreeSet<Announced>>,
}

/// A plugin that was initialised.
struct Plugin {
    manifest: Manifest,
    path: PathBuf,
    sha256: String,
    signer: Option<String>,
    grant: &'static Grant,
    instance: Instance,
    state: Cell<State>,
}

/// A method that a call would load a plugin for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Announced {
    plugin: String,
    method: String,
    is_for_startup: bool,
}

struct Failure {
    candidate: Candidate,
    state: State,
    stamp: Stamp,
    error: Error,
}

impl Manager {
    /// Makes the staging folder; loads nothing. App thread.
    ///
    /// # Errors
    /// The staging folder cannot be made.
    pub fn new(settings: Settings, outside: Outside) -> Result<Arc<Self>> {
        let stage = RefCell::new(Stage::new(&settings.runtime)?);
        let core = Arc::clone(&outside.core);
        let manager = Arc::new_cyclic(|manager| {
            let policy = Rc::new(settings.policy);
            let inner = Inner {
                manager: manager.clone(),
                outside,
                search: RefCell::new(Search::new(settings.folders, Rc::clone(&policy))),
                policy,
                stage,
                calls: Arc::default(),
                broker: Broker::default(),
                last_number: Cell::new(0),
                plugins: RefCell::default(),
                failures: RefCell::default(),
                loading: RefCell::default(),
                releases: RefCell::default(),
                announced: RefCell::default(),
            };
            Self { inner: AppOnly::new(inner, core) }
        });
        manager.announce()?;
        Ok(manager)
    }

    /// Loads a plugin by name, or from a path (what holds a `/` or ends in `.so`), after what it
    /// requires. One that serves already is no error.
    ///
    /// # Errors
    /// What forbids it, and what is required.
    pub fn load(&self, name_or_path: &str) -> Result<()> {
        let inner = self.inner.get()?;
        let candidate = if name_or_path.contains('/') || name_or_path.ends_with(".so") {
            let path = Path::new(name_or_path);
            look_into(path)
                .map_err(|e| Error::new(libc::ENOEXEC, format!("{name_or_path}: {e}")))?
        } else {
            if inner.serving(name_or_path).is_some() {
                return Ok(());
            }
            inner.search.borrow_mut().by_name(name_or_path, &VersionReq::STAR)?
        };
        let result = inner.load(&candidate);
        self.announce()?;
        result
    }

    /// Loads what provides `rpc:METHOD`, `nvmf.transport/TYPE` or an interface id. False when
    /// nothing on the path does, or what does is loaded already. A file that failed is not tried
    /// again until it changes or is loaded by name.
    ///
    /// # Errors
    /// Several provide it, or the load failed.
    pub fn on_demand(&self, provision: &str) -> Result<bool> {
        let inner = self.inner.get()?;
        if inner.serving_provider(provision).is_some() {
            return Ok(false);
        }
        let Some(candidate) = inner.search.borrow_mut().by_provision(provision)? else {
            return Ok(false);
        };
        if inner.serving(&candidate.name()).is_some() {
            return Ok(false);
        }
        if let Some(failure) = inner.failures.borrow().get(&candidate.name())
            && failure.stamp == candidate.stamp
        {
            return Err(failure.error.clone());
        }
        let result = inner.load(&candidate);
        self.announce()?;
        result.map(|()| true)
    }

    /// Ends a plugin that nothing uses: `done` is called once it is quiet and has ended, or with
    /// the reason why not. Its library stays mapped.
    pub fn unload(&self, name: &str, done: Box<dyn FnOnce(Result<()>)>) {
        let plugin = match self.inner.get().and_then(|inner| inner.unloadable(name)) {
            Ok(plugin) => plugin,
            Err(error) => return done(Err(error)),
        };
        self.end(&plugin, BAY_FINI_UNLOAD, done);
    }

    /// Ends all plugins: first those that serve hosts from outside, then the rest, of each the last loaded first; but none that
    /// another one requires. So a host sees the end of its connection, after which it comes again, and not that of its disk,
    /// after which its I/O has failed for good. `done` is called when none is left.
    pub fn shutdown(&self, done: Box<dyn FnOnce()>) {
        let Ok(inner) = self.inner.get() else { return done() };
        let Some(next) = inner.next_to_end() else { return done() };
        let manager = inner.manager.clone();
        let ended = Box::new(move |_: Result<()>| match manager.upgrade() {
            Some(manager) => manager.shutdown(done),
            None => done(),
        });
        self.end(&next, BAY_FINI_SHUTDOWN, ended);
    }

    fn end(&self, plugin: &Rc<Plugin>, reason: u32, done: Box<dyn FnOnce(Result<()>)>) {
        plugin.state.set(State::Quiescing);
        let (manager, plugin) = (self.inner.get().map(|i| i.manager.clone()), Rc::clone(plugin));
        let quiet = Rc::clone(&plugin);
        plugin.instance.quiesce(Box::new(move |status| {
            let Some(manager) = manager.ok().and_then(|manager| manager.upgrade()) else { return };
            if let Err(error) = check_quiet(&quiet, reason, status) {
                return done(Err(error));
            }
            manager.end_quiet(&quiet, reason, done);
        }));
    }

    fn end_quiet(&self, plugin: &Rc<Plugin>, reason: u32, done: Box<dyn FnOnce(Result<()>)>) {
        let inner = match self.inner.get() {
            Ok(inner) => inner,
            Err(error) => return done(Err(error)),
        };
        let (manager, ended) = (inner.manager.clone(), Rc::clone(plugin));
        let finish = Box::new(move || {
            let Some(manager) = manager.upgrade() else { return };
            done(manager.retire(&ended, reason));
        });
        inner.take_back(plugin.grant, finish);
    }

    fn retire(&self, plugin: &Rc<Plugin>, reason: u32) -> Result<()> {
        self.inner.get()?.fini(plugin.grant, &plugin.instance, reason);
        plugin.state.set(State::Retired);
        tracing::info!(plugin = plugin.manifest.name, "retired; its library stays mapped");
        self.announce()
    }

    /// The core has taken back what an instance left.
    fn released(&self, number: u64) {
        let Ok(inner) = self.inner.get() else { return };
        let next = inner.releases.borrow_mut().remove(&number);
        next.into_iter().for_each(|next| next());
    }

    /// Every plugin that is on the path, serves, failed or has ended.
    ///
    /// # Errors
    /// Outside of the app thread.
    pub fn list(&self) -> Result<Vec<Listing>> {
        self.announce()?;
        Ok(self.inner.get()?.list())
    }

    /// Reads the search path again and tells the registry which methods can be had by loading.
    ///
    /// # Errors
    /// Outside of the app thread.
    pub fn announce(&self) -> Result<()> {
        self.inner.get()?.announce();
        Ok(())
    }

    /// Tells every plugin that the log level is another one: they decide line by line, once for all
    /// lines of a kind, what is written.
    ///
    /// # Errors
    /// Outside of the app thread.
    pub fn log_level_changed(&self) -> Result<()> {
        self.inner.get()?.live().iter().for_each(|plugin| plugin.instance.log_level_changed());
        Ok(())
    }

    pub(super) fn methods(&self, current: bool, include_aliases: bool) -> Result<Vec<String>> {
        Ok(self.inner.get()?.outside.rpc.list(current, include_aliases))
    }

    /// For plugins: another plugin's table. Loads its provider if nobody provides it yet.
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
        Ok(&self.inner.get()?.broker)
    }

    /// Has the app thread do something soon. Any thread.
    pub(super) fn send_to_app(&self, job: Job) {
        self.inner.core().send_to_app(job);
    }
}

impl Inner {
    fn load(&self, candidate: &Candidate) -> Result<()> {
        let name = candidate.name();
        if let Some(present) = self.serving(&name) {
            let (version, path) = (&present.manifest.version, present.path.display());
            let message = format!("plugin {name}: version {version} is loaded from {path}");
            return Err(Error::new(libc::EEXIST, message));
        }
        self.check_cycle(&name)?;
        self.loading.borrow_mut().push(name.clone());
        let mut state = State::Found;
        let result = self.load_stepwise(candidate, &mut state);
        self.loading.borrow_mut().pop();

        let Err(error) = result else {
            self.failures.borrow_mut().remove(&name);
            return Ok(());
        };
        let error = Error::new(error.errno(), format!("plugin {name}: {error}"));
        tracing::error!(stopped = ?state, path = %candidate.path.display(), "{error}");
        let failure = Failure {
            candidate: candidate.clone(),
            state: if state == State::Found { State::Found } else { State::Failed },
            stamp: candidate.stamp,
            error: error.clone(),
        };
        self.failures.borrow_mut().insert(name, failure);
        Err(error)
    }

    /// One step after another; `state` tells how far it came.
    fn load_stepwise(&self, candidate: &Candidate, state: &mut State) -> Result<()> {
        if let Some(refusal) = &candidate.refusal {
            return Err(refusal.clone());
        }
        let manifest = candidate.inspection.allowed()?;
        self.policy.check_name(&manifest.name)?;
        *state = State::Allowed;
        for requirement in manifest.requirements()? {
            self.satisfy(&requirement)?;
        }

        let staged = self.stage.borrow_mut().copy(&candidate.path)?;
        *state = State::Staged;
        // The copy may be of a newer file than the one that was looked at; it is what counts.
        let manifest = staged.inspection.allowed()?.clone();
        if manifest.name != candidate.name() {
            return Err(Error::new(libc::EAGAIN, "its file was replaced by another plugin's"));
        }
        let signer = self.policy.check_signature(&candidate.path, &staged.path)?;
        let granted = self.policy.granted(&manifest, signer.as_ref());

        let door = Door::open(&staged)?;
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let manager = self.manager.clone();
        let grant =
            Grant::new(number, &manifest.name, granted, &self.outside, &self.calls, manager);
        let instance = match door.init(grant) {
            Ok(instance) => instance,
            Err(error) => {
                self.take_back(grant, Box::new(|| {}));
                return Err(with_trouble(grant, error));
            }
        };
        *state = State::Loaded;

        let plugin = Rc::new(Plugin {
            manifest,
            path: candidate.path.clone(),
            sha256: staged.sha256,
            signer: signer.map(|key| key.to_string()),
            grant,
            instance,
            state: Cell::new(State::Loaded),
        });
        let name = plugin.manifest.name.clone();
        self.plugins.borrow_mut().insert(name.clone(), Rc::clone(&plugin));
        if let Err(error) = plugin.instance.start().and_then(|()| self.check_claims(&plugin)) {
            plugin.state.set(State::Retired);
            self.plugins.borrow_mut().remove(&name);
            let (manager, failed) = (self.manager.clone(), Rc::clone(&plugin));
            let finish = Box::new(move || {
                let Some(manager) = manager.upgrade() else { return };
                let Ok(inner) = manager.inner.get() else { return };
                inner.fini(failed.grant, &failed.instance, BAY_FINI_UNLOAD);
            });
            self.take_back(grant, finish);
            return Err(with_trouble(grant, error));
        }
        plugin.instance.examine_bdevs(self.outside.core.as_ref(), grant);
        plugin.state.set(State::Serving);
        *state = State::Serving;
        let version = plugin.manifest.version.to_string();
        tracing::info!(plugin = name, version, sha256 = plugin.sha256, "serving");
        Ok(())
    }

    /// What the manifest promises must be there: calls and acquisitions load plugins by it.
    fn check_claims(&self, plugin: &Plugin) -> Result<()> {
        let owner = plugin.grant.owner();
        let is_kept = |claim: &str| match claim.split_once(':') {
            Some(("rpc" | "rpc.startup", method)) => self.outside.rpc.is_registered(&owner, method),
            Some(_) => true,
            // Names of other forms are understood by other plugins, not here.
            None => !claim.starts_with("bay.") || self.broker.is_provided_by(owner.instance, claim),
        };
        let broken = plugin.manifest.provides.iter().find(|claim| !is_kept(claim));
        broken.map_or(Ok(()), |claim| {
            let message = format!("its manifest claims {claim}, which it does not provide");
            Err(Error::new(libc::EBADMSG, message))
        })
    }

    fn check_cycle(&self, name: &str) -> Result<()> {
        let loading = self.loading.borrow();
        let Some(at) = loading.iter().position(|n| n == name) else { return Ok(()) };
        let chain: Vec<&str> = loading.iter().skip(at).map(String::as_str).chain([name]).collect();
        let message = format!("plugins require each other: {}", chain.join(" -> "));
        Err(Error::new(libc::ELOOP, message))
    }

    fn satisfy(&self, requirement: &Requirement) -> Result<()> {
        match requirement {
            Requirement::Provision(provision) => self.satisfy_provision(provision),
            Requirement::Plugin(name, version) => self.satisfy_plugin(name, version),
        }
    }

    fn satisfy_provision(&self, provision: &str) -> Result<()> {
        let is_there = [id::RPC, id::BROKER, id::NOTIFY].contains(&provision)
            || self.outside.core.table(provision).is_some()
            || self.broker.is_provided(provision)
            || self.serving_provider(provision).is_some();
        if is_there {
            return Ok(());
        }
        let found = self.search.borrow_mut().by_provision(provision)?;
        let provider = found.ok_or_else(|| {
            let message = format!("it requires {provision}; no plugin on the path provides it");
            Error::new(libc::ENOENT, message)
        })?;
        self.load(&provider)
            .map_err(|e| Error::new(e.errno(), format!("it requires {provision}: {e}")))
    }

    fn satisfy_plugin(&self, name: &str, version: &VersionReq) -> Result<()> {
        let requires =
            |e: Error| Error::new(e.errno(), format!("it requires {name} {version}: {e}"));
        if let Some(present) = self.serving(name) {
            let found = &present.manifest.version;
            if *version == VersionReq::STAR || version.matches(found) {
                return Ok(());
            }
            return Err(requires(Error::new(libc::EINVAL, format!("version {found} is loaded"))));
        }
        let found = self.search.borrow_mut().by_name(name, version).map_err(requires)?;
        self.load(&found).map_err(requires)
    }

    /// From here on nothing new reaches the plugin; `next` runs when nothing of it is left.
    fn take_back(&self, grant: &'static Grant, next: Box<dyn FnOnce()>) {
        self.broker.take_back(grant.number);
        grant.end();
        self.releases.borrow_mut().insert(grant.number, next);
        let (manager, number) = (self.manager.clone(), grant.number);
        let done = Box::new(move || {
            if let Some(manager) = manager.upgrade() {
                manager.released(number);
            }
        });
        self.outside.core.release_owner(grant.host(), done);
    }

    fn fini(&self, grant: &'static Grant, instance: &Instance, reason: u32) {
        let left = self.outside.core.owned(grant.host());
        if left == 0 {
            return instance.fini(reason);
        }
        tracing::warn!(plugin = grant.name, left, "still in use, so it is not finalised");
    }

    fn unloadable(&self, name: &str) -> Result<Rc<Plugin>> {
        let plugin = self.plugins.borrow().get(name).cloned();
        let plugin = plugin
            .filter(|p| p.state.get() != State::Retired)
            .ok_or_else(|| Error::new(libc::ENOENT, format!("plugin {name}: not loaded")))?;
        let busy = |why: String| Err(Error::new(libc::EBUSY, format!("plugin {name}: {why}")));
        if plugin.state.get() != State::Serving {
            return busy("is starting or stopping".to_owned());
        }
        let users: Vec<String> = self
            .live()
            .iter()
            .filter(|other| other.manifest.name != name && other.needs(&plugin))
            .map(|other| other.manifest.name.clone())
            .collect();
        if !users.is_empty() {
            return busy(format!("is required by {}", users.join(", ")));
        }
        let number = plugin.grant.number;
        let host: *const bay_host = plugin.grant.host();
        for (count, what) in [
            (self.broker.references_to(number), "references of other plugins to it"),
            (self.calls.count(number), "RPC calls in hand"),
            (self.outside.core.owned(host), "bdevs or open descriptors"),
        ] {
            if count > 0 {
                return busy(format!("has {count} {what}; 0 are required"));
            }
        }
        Ok(plugin)
    }

    fn next_to_end(&self) -> Option<Rc<Plugin>> {
        let live = self.live();
        let is_required = |plugin: &Plugin| {
            live.iter()
                .any(|other| other.grant.number != plugin.grant.number && other.needs(plugin))
        };
        let turn = |plugin: &&Rc<Plugin>| {
            (!is_required(plugin), plugin.manifest.serves_hosts(), plugin.grant.number)
        };
        live.iter().max_by_key(turn).cloned()
    }

    fn live(&self) -> Vec<Rc<Plugin>> {
        let plugins = self.plugins.borrow();
        plugins.values().filter(|p| p.state.get() == State::Serving).cloned().collect()
    }

    fn serving(&self, name: &str) -> Option<Rc<Plugin>> {
        let plugins = self.plugins.borrow();
        plugins.get(name).filter(|p| p.is_there()).cloned()
    }

    fn serving_provider(&self, provision: &str) -> Option<Rc<Plugin>> {
        let plugins = self.plugins.borrow();
        plugins.values().find(|p| p.is_there() && p.manifest.provides(provision)).cloned()
    }

    fn announce(&self) {
        let registry = &self.outside.rpc;
        let mut wanted = BTreeSet::new();
        for candidate in self.search.borrow_mut().best_of_each_name() {
            let Some(manifest) = candidate.usable() else { continue };
            let announced = |method: &str| Announced {
                plugin: manifest.name.clone(),
                method: method.to_owned(),
                is_for_startup: manifest.is_for_startup(method),
            };
            wanted.extend(manifest.methods().map(announced));
        }
        let mut announced = self.announced.borrow_mut();
        for gone in announced.difference(&wanted) {
            registry.unregister(&Owner::new(&gone.plugin, 0), &gone.method);
        }
        for one in &wanted {
            // Taken by another owner: that one answers it, and a load by name says so.
            let _ = registry.announce(&Owner::new(&one.plugin, 0), one.declaration());
        }
        *announced = wanted;
    }

    fn list(&self) -> Vec<Listing> {
        let mut list: BTreeMap<(String, PathBuf), Listing> = BTreeMap::new();
        for plugin in on_path(&mut self.search.borrow_mut()) {
            list.insert((plugin.name.clone(), plugin.path.clone()), plugin);
        }
        for failure in self.failures.borrow().values() {
            let is_that_file =
                |l: &&mut Listing| l.path == failure.candidate.path && l.state == State::Allowed;
            let at = key(&failure.candidate);
            let entry = list.entry(at).or_insert_with(|| listing(&failure.candidate));
            if let Some(entry) = Some(entry).filter(is_that_file) {
                entry.state = failure.state;
                entry.reason = Some(failure.error.message().to_owned());
            }
        }
        for plugin in self.plugins.borrow().values() {
            let at = (plugin.manifest.name.clone(), plugin.path.clone());
            list.insert(at, plugin.listing());
        }
        list.into_values().collect()
    }
}

impl Plugin {
    fn is_there(&self) -> bool {
        self.state.get() != State::Retired
    }

    /// Whether it named the other, or what the other provides, among what it requires.
    fn needs(&self, other: &Self) -> bool {
        let requirements = self.manifest.requirements().unwrap_or_default();
        requirements.iter().any(|requirement| match requirement {
            Requirement::Provision(provision) => other.manifest.provides(provision),
            Requirement::Plugin(name, _) => *name == other.manifest.name,
        })
    }

    fn listing(&self) -> Listing {
        let retired = "ended; its library stays mapped until the host ends";
        Listing {
            state: self.state.get(),
            reason: (self.state.get() == State::Retired).then(|| retired.to_owned()),
            sha256: Some(self.sha256.clone()),
            signed_by: self.signer.clone(),
            granted: self.grant.permissions.clone(),
            ..of_manifest(&self.manifest, &self.path)
        }
    }
}

/// A plugin that cannot stop stays, unless the host ends.
fn check_quiet(plugin: &Plugin, reason: u32, status: i32) -> Result<()> {
    if status >= 0 || reason == BAY_FINI_SHUTDOWN {
        return Ok(());
    }
    plugin.state.set(State::Serving);
    let errno = status.checked_neg().unwrap_or(libc::EIO);
    let why = std::io::Error::from_raw_os_error(errno);
    let message = format!("plugin {}: did not become quiet: {why}", plugin.manifest.name);
    Err(Error::new(errno, message))
}

fn key(candidate: &Candidate) -> (String, PathBuf) {
    (candidate.name(), candidate.path.clone())
}

impl Announced {
    /// What is known of the method before its plugin declares it.
    fn declaration(&self) -> Method {
        let Self { plugin, method, is_for_startup } = self;
        let state = if *is_for_startup { RpcState::Startup } else { RpcState::Runtime };
        Method {
            name: method.clone(),
            aliases: Vec::new(),
            states: vec![state],
            role: Role::Operate,
            doc: format!("Loads the plugin {plugin}, which answers it."),
            params: Vec::new(),
            result: String::new(),
            errors: Vec::new(),
        }
    }
}

fn with_trouble(grant: &Grant, error: Error) -> Error {
    match grant.take_trouble() {
        Some(trouble) => Error::new(error.errno(), format!("{error} ({trouble})")),
        None => error,
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}
