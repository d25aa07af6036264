//! One load: loads the plugins that a plugin requires, and then the plugin itself.
//!
//! ```text
//! found ─> required plugins loaded ─> prepared (files) ─> begun (app thread)
//! ```
//!
//! A load blocks, so it runs on the loader's own thread. If a plugin requests another plugin from
//! inside a call, the load runs on the app thread.

use super::app_only::AppOnly;
use super::error::{Error, Result};
use super::files::Files;
use super::life::{Life, Present};
use super::listing::State;
use super::manifest::Requirement;
use super::search::{Candidate, look_into};
use super::stage::sha256_of;
use drivebay_plugin_api::id;
use semver::VersionReq;
use std::path::Path;
use std::sync::Arc;

pub(super) struct Load<'m> {
    files: &'m Files,
    life: &'m Arc<AppOnly<Life>>,
    /// The names of the plugins that are being loaded, the outermost first.
    loading: Vec<String>,
}

impl<'m> Load<'m> {
    /// # Errors
    /// `ESHUTDOWN` when the host is stopping.
    pub(super) fn new(files: &'m Files, life: &'m Arc<AppOnly<Life>>) -> Result<Self> {
        Ok(Self { files, life, loading: life.run(|life| life.starting())? })
    }

    /// Loads a plugin by name, or from a path (a text that contains `/` or ends in `.so`).
    ///
    /// # Errors
    /// What forbids it; `EEXIST` when another file of that plugin is loaded.
    pub(super) fn by_name_or_path(mut self, name_or_path: &str) -> Result<()> {
        if name_or_path.contains('/') || name_or_path.ends_with(".so") {
            let candidate = look_into(Path::new(name_or_path))
                .map_err(|e| Error::new(libc::ENOEXEC, format!("{name_or_path}: {e}")))?;
            return match self.present(&candidate.name())? {
                Some(present) => check_same(&candidate, &present),
                None => self.plugin(&candidate),
            };
        }
        let found = self.files.by_name(name_or_path, &VersionReq::STAR);
        match (self.present(name_or_path)?, found) {
            (Some(present), Ok(candidate)) => check_same(&candidate, &present),
            // The plugin is serving, although its file is gone or may not be loaded any more.
            (Some(_), Err(_)) => Ok(()),
            (None, found) => self.plugin(&found?),
        }
    }

    /// Loads the plugin that provides `provision`. Returns false when no plugin had to be loaded.
    ///
    /// # Errors
    /// Several plugins provide it, or the load failed, now or earlier with the same file.
    pub(super) fn on_demand(mut self, provision: &str) -> Result<bool> {
        let wanted = provision.to_owned();
        if self.life.run(move |life| life.is_provided(&wanted))? {
            return Ok(false);
        }
        let Some(candidate) = self.files.by_provision(provision)? else {
            return Ok(false);
        };
        if self.present(&candidate.name())?.is_some() {
            return Ok(false);
        }
        let asked = candidate.clone();
        if let Some(before) = self.life.run(move |life| life.failure_of(&asked))? {
            return Err(before);
        }
        self.plugin(&candidate).map(|()| true)
    }

    fn plugin(&mut self, candidate: &Candidate) -> Result<()> {
        let name = candidate.name();
        self.check_cycle(&name)?;
        self.loading.push(name.clone());
        let mut state = State::Found;
        let result = self.step_by_step(candidate, &mut state);
        self.loading.pop();
        let result = result.map_err(|e| Error::new(e.errno(), format!("plugin {name}: {e}")));
        let (candidate, recorded) = (candidate.clone(), result.clone());
        self.life.run(move |life| life.record(candidate, state, &recorded))?;
        result
    }

    fn step_by_step(&mut self, candidate: &Candidate, state: &mut State) -> Result<()> {
        if let Some(refusal) = &candidate.refusal {
            return Err(refusal.clone());
        }
        let manifest = candidate.inspection.allowed()?;
        self.files.check_manifest(manifest)?;
        *state = State::Allowed;
        for requirement in manifest.requirements()? {
            match &requirement {
                Requirement::Provision(provision) => self.provision(provision),
                Requirement::Plugin(name, version) => self.required_plugin(name, version),
            }?;
        }
        let prepared = self.files.prepare(candidate)?;
        self.life.run(move |life| life.begin(prepared))?
    }

    fn check_cycle(&self, name: &str) -> Result<()> {
        let Some(at) = self.loading.iter().position(|n| n == name) else { return Ok(()) };
        let chain = self.loading.iter().skip(at).map(String::as_str);
        let chain: Vec<&str> = chain.chain([name]).collect();
        let message = format!("plugins require each other: {}", chain.join(" -> "));
        Err(Error::new(libc::ELOOP, message))
    }

    /// Loads a plugin that provides a required interface, unless one is already present.
    fn provision(&mut self, provision: &str) -> Result<()> {
        let wanted = provision.to_owned();
        let is_there = self.life.run(move |life| {
            [id::RPC, id::BROKER, id::NOTIFY].contains(&wanted.as_str())
                || life.outside.core.table(&wanted).is_some()
                || life.broker.is_provided(&wanted)
                || life.is_provided(&wanted)
        })?;
        if is_there {
            return Ok(());
        }
        let found = self.files.by_provision(provision)?;
        let provider = found.ok_or_else(|| {
            let message = format!("it requires {provision}; no plugin on the path provides it");
            Error::new(libc::ENOENT, message)
        })?;
        self.plugin(&provider)
            .map_err(|e| Error::new(e.errno(), format!("it requires {provision}: {e}")))
    }

    /// Loads a required plugin, unless it is already present.
    fn required_plugin(&mut self, name: &str, version: &VersionReq) -> Result<()> {
        let requires =
            |e: Error| Error::new(e.errno(), format!("it requires {name} {version}: {e}"));
        if let Some(present) = self.present(name)? {
            let found = &present.version;
            if *version == VersionReq::STAR || version.matches(found) {
                return Ok(());
            }
            return Err(requires(Error::new(libc::EINVAL, format!("version {found} is loaded"))));
        }
        let found = self.files.by_name(name, version).map_err(requires)?;
        self.plugin(&found).map_err(requires)
    }

    fn present(&self, name: &str) -> Result<Option<Present>> {
        let name = name.to_owned();
        self.life.run(move |life| life.present(&name))
    }
}

/// A loaded plugin is not replaced. An operator who replaced its file gets an error that says so.
fn check_same(candidate: &Candidate, present: &Present) -> Result<()> {
    let is_same_file = candidate.path == present.path && candidate.stamp == present.stamp;
    if is_same_file || sha256_of(&candidate.path)? == present.sha256 {
        return Ok(());
    }
    let (name, old, from) = (candidate.name(), &present.version, present.path.display());
    let manifest = candidate.inspection.manifest.as_ref();
    let new = manifest.map_or_else(String::new, |new| format!(" (version {})", new.version));
    let first = match present.uses.as_slice() {
        [] => "plugin_unload it first".to_owned(),
        uses => format!("unload it first (plugin_unload), but it {}", uses.join(", and it ")),
    };
    let message = if candidate.path == present.path {
        format!(
            "plugin {name}: version {old} is loaded, and {from} was replaced since{new}; {first}"
        )
    } else {
        let path = candidate.path.display();
        format!("plugin {name}: version {old} is loaded from {from}, and not {path}{new}; {first}")
    };
    Err(Error::new(libc::EEXIST, message))
}
