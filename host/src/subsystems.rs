//! Subsystems: the names under which configuration is saved, and the plugins that write it.

use crate::loader::{ConfigWriter, Manager};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The subsystems of the host itself, in the order of their configuration, and what they depend on.
pub const OWN: [(&str, &[&str]); 2] = [("iobuf", &[]), ("bdev", &["iobuf"])];
/// What a plugin's subsystem depends on.
pub const OF_PLUGINS: &[&str] = &["bdev"];
/// The kind of plugins whose name is also a subsystem, even before they are loaded.
const KIND: &str = "target";

/// The subsystems of loaded plugins.
#[derive(Default)]
pub struct Subsystems {
    own: Mutex<Vec<(&'static str, OwnConfig)>>,
    parts: Mutex<Vec<Part>>,
}

/// Writes the call that restores the host's own options of a subsystem.
pub type OwnConfig = fn() -> Value;

struct Part {
    owner: u64,
    name: String,
    config: Option<Arc<ConfigWriter>>,
    /// The configuration that the plugin wrote last. After a panic the host keeps using it.
    last: String,
    has_panicked: bool,
}

impl Subsystems {
    /// Sets what writes the host's own options of a subsystem. Any thread.
    pub fn save_own(&self, name: &'static str, config: OwnConfig) {
        self.own().push((name, config));
    }

    /// The call that restores the host's own options of a subsystem, if it has any. Any thread.
    pub fn own_config(&self, name: &str) -> Option<Value> {
        let config = self.own().iter().find(|(own, _)| *own == name).map(|(_, config)| *config);
        config.map(|config| config())
    }

    /// Adds a plugin's part of a subsystem.
    pub fn add(&self, owner: u64, name: &str, config: Option<ConfigWriter>) {
        self.lock().push(Part {
            owner,
            name: name.to_owned(),
            config: config.map(Arc::new),
            last: String::new(),
            has_panicked: false,
        });
    }

    /// Records that a plugin panicked. What it wrote last remains its configuration.
    pub fn panicked(&self, owner: u64) {
        self.lock().iter_mut().filter(|part| part.owner == owner).for_each(|part| {
            part.has_panicked = true;
        });
    }

    /// Removes the parts of a plugin.
    pub fn remove(&self, owner: u64) {
        self.lock().retain(|part| part.owner != owner);
    }

    /// The subsystems of plugins: first those of loaded plugins, in the order of their start, then
    /// those of plugins on the path. App thread.
    pub fn of_plugins(&self, manager: &Manager) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let loaded: Vec<String> = self.lock().iter().map(|part| part.name.clone()).collect();
        let on_path = manager.list_known().unwrap_or_default().into_iter();
        let on_path = on_path.filter(|plugin| plugin.kind == KIND).map(|plugin| plugin.name);
        for name in loaded.into_iter().chain(on_path) {
            if !names.contains(&name) && OWN.iter().all(|(own, _)| *own != name) {
                names.push(name);
            }
        }
        names
    }

    /// What plugins write for a subsystem: one list of JSON objects for each plugin. App thread.
    pub fn configs(&self, name: &str) -> Vec<String> {
        // Release the lock first, because a plugin may call the host from inside the call.
        let writers: Vec<(u64, Arc<ConfigWriter>)> = {
            let parts = self.lock();
            let parts = parts.iter().filter(|part| part.name == name);
            parts.filter_map(|part| Some((part.owner, part.config.clone()?))).collect()
        };
        writers.iter().map(|(owner, write)| self.written(*owner, name, write())).collect()
    }

    /// The configuration of a part: the text that the plugin has just written, or, after a panic, the last one.
    fn written(&self, owner: u64, name: &str, text: String) -> String {
        let mut parts = self.lock();
        match parts.iter_mut().find(|part| part.owner == owner && part.name == name) {
            Some(part) if part.has_panicked => part.last.clone(),
            Some(part) => {
                part.last.clone_from(&text);
                text
            }
            None => text,
        }
    }

    fn own(&self) -> MutexGuard<'_, Vec<(&'static str, OwnConfig)>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Part>> {
        // Nothing panics between two changes of the list.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Subsystems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subsystems").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex as Text;

    #[test]
    fn a_plugin_that_panicked_keeps_the_configuration_that_it_wrote_last() {
        let (subsystems, text) =
            (Subsystems::default(), Arc::new(Text::new("{\"a\": 1}".to_owned())));
        let written = Arc::clone(&text);
        subsystems.add(1, "acme", Some(Box::new(move || written.lock().unwrap().clone())));
        assert_eq!(subsystems.configs("acme"), ["{\"a\": 1}"]);
        text.lock().unwrap().clear();
        assert_eq!(subsystems.configs("acme"), [""], "all was deleted");
        "{\"b\": 2}".clone_into(&mut text.lock().unwrap());
        assert_eq!(subsystems.configs("acme"), ["{\"b\": 2}"]);
        subsystems.panicked(1);
        text.lock().unwrap().clear();
        assert_eq!(subsystems.configs("acme"), ["{\"b\": 2}"]);
    }
}
