//! Generates the calls that restore the current state.

use super::document::{Document, Section};
use crate::host::Host;
use crate::slices::{self, PER_MESSAGE};
use crate::subsystems::OWN;
use drivebay_core::bdev::{self, Bdev, examine};
use drivebay_core::reactor::thread;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// How often the generation restarts because bdevs were added or removed meanwhile. After that it
/// runs in one piece.
const ATTEMPTS: u32 = 8;

/// The number of bdevs that were added or removed so far.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// Generates the whole configuration and passes it to `then`. The call that creates a bdev comes
/// before the calls that use the bdev, even when bdevs are added or removed meanwhile. App thread.
pub fn document(host: &Arc<Host>, then: impl FnOnce(Document) + Send + 'static) {
    attempt(Arc::clone(host), ATTEMPTS, Box::new(then));
}

fn attempt(host: Arc<Host>, left: u32, then: Box<dyn FnOnce(Document) + Send>) {
    let before = CHANGES.load(Ordering::Relaxed);
    let at_once = if left == 0 { usize::MAX } else { PER_MESSAGE };
    let own = host.subsystems.own_config("bdev");
    let made = move |bdevs: Vec<Value>| {
        if CHANGES.load(Ordering::Relaxed) != before && left > 0 {
            return attempt(host, left - 1, then);
        }
        let mut bdevs = Some(bdevs);
        let of_host = OWN.iter().map(|(name, _)| (*name).to_owned());
        let names = of_host.chain(host.subsystems.of_plugins(&host.manager));
        let section = |name: String| {
            let calls = if name == "bdev" { bdevs.take() } else { None };
            let config =
                calls.or_else(|| other(&host, &name)).map(|calls| complete(&host, &name, calls));
            Section { config, subsystem: name }
        };
        then(Document { subsystems: names.map(section).collect() });
    };
    bdevs(at_once, own, made);
}

/// Generates the calls of one subsystem and passes them to `then`; `None` when no subsystem has
/// that name. App thread.
pub fn subsystem(
    host: &Arc<Host>,
    name: &str,
    then: impl FnOnce(Option<Vec<Value>>) + Send + 'static,
) {
    if name != "bdev" {
        return then(other(host, name).map(|calls| complete(host, name, calls)));
    }
    let host = Arc::clone(host);
    let own = host.subsystems.own_config("bdev");
    bdevs(PER_MESSAGE, own, move |calls| then(Some(complete(&host, "bdev", calls))));
}

/// The host's own calls for a subsystem other than `bdev`.
fn other(host: &Host, name: &str) -> Option<Vec<Value>> {
    match name {
        "iobuf" => Some(host.subsystems.own_config(name).into_iter().collect()),
        _ if host.subsystems.of_plugins(&host.manager).iter().any(|known| known == name) => {
            Some(Vec::new())
        }
        _ => None,
    }
}

/// Adds the calls that plugins write for the subsystem.
fn complete(host: &Host, name: &str, mut calls: Vec<Value>) -> Vec<Value> {
    for text in host.subsystems.configs(name) {
        calls.extend(parse(&text, name));
    }
    if name == "bdev" {
        calls.push(json!({"method": "bdev_wait_for_examine"}));
    }
    calls
}

/// Groups consecutive calls of one method into arrays, for which the order within the array does
/// not matter.
pub fn in_batches(calls: Vec<Value>) -> Vec<Value> {
    let method = |call: &Value| call.get("method").cloned();
    let batch = |calls: &[Value]| match calls {
        [only] => only.clone(),
        several => several.into(),
    };
    calls.chunk_by(|a, b| method(a) == method(b)).map(batch).collect()
}

/// Generates the calls for bdevs, `at_once` of them in one round, after the host's `own` call, and
/// passes them to `then`.
fn bdevs(at_once: usize, own: Option<Value>, then: impl FnOnce(Vec<Value>) + Send + 'static) {
    let mut calls: Vec<Value> = own.into_iter().collect();
    for (owner, text) in examine::module_configs() {
        calls.extend(parse(&written(|written| written.of_module(owner, text)), "bdev"));
    }
    let add = |calls: &mut Vec<Value>, bdev: Arc<Bdev>| {
        let text = bdev.config();
        calls.extend(parse(&written(|written| written.of_bdev(&bdev.name, text)), &bdev.name));
    };
    slices::fold(bases_first(bdev::all()), at_once, calls, add, then);
}

/// The configuration that plugins wrote last. A plugin that has panicked writes nothing any more,
/// but its disks stay in the configuration until they are deleted.
#[derive(Debug)]
struct Written {
    /// By the name of the bdev.
    bdevs: BTreeMap<String, String>,
    /// By the owner of the module.
    modules: BTreeMap<usize, String>,
    /// The owners that have panicked.
    panicked: BTreeSet<usize>,
}

static WRITTEN: Mutex<Written> = Mutex::new(Written {
    bdevs: BTreeMap::new(),
    modules: BTreeMap::new(),
    panicked: BTreeSet::new(),
});

fn written<T>(f: impl FnOnce(&mut Written) -> T) -> T {
    f(&mut WRITTEN.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Written {
    /// The configuration of an existing bdev: the text that its module has just written, or else
    /// the last one that it wrote.
    fn of_bdev(&mut self, name: &str, text: Option<String>) -> String {
        match text {
            Some(text) => {
                self.bdevs.insert(name.to_owned(), text.clone());
                text
            }
            None => self.bdevs.get(name).cloned().unwrap_or_default(),
        }
    }

    fn of_module(&mut self, owner: usize, text: String) -> String {
        if self.panicked.contains(&owner) {
            return self.modules.get(&owner).cloned().unwrap_or_default();
        }
        self.modules.insert(owner, text.clone());
        text
    }
}

/// Records that the plugin with the host table `owner` has panicked. Any thread.
pub fn panicked(owner: usize) {
    written(|written| written.panicked.insert(owner));
}

/// The method of the saved call that creates the bdev `name`. Any thread.
pub fn made_by(name: &str) -> Option<String> {
    let text = written(|written| written.bdevs.get(name).cloned())?;
    let call: Value = serde_json::from_str(&text).ok()?;
    Some(call.get("method")?.as_str()?.to_owned())
}

/// Records that a bdev was added or removed. `kind` is `bdev_register` or `bdev_unregister`.
pub fn bdev_changed(kind: &str, name: &str) {
    CHANGES.fetch_add(1, Ordering::Relaxed);
    let name = name.to_owned();
    match kind {
        // Send a message to do this later, because the module is still inside the call that
        // registers the bdev.
        "bdev_register" => thread::send_app(move || {
            let Some(bdev) = bdev::find(&name) else { return };
            let text = bdev.config();
            written(|written| written.of_bdev(&bdev.name, text));
        }),
        "bdev_unregister" => drop(written(|written| written.bdevs.remove(&name))),
        _ => {}
    }
}

/// Sorts bdevs by name, but each base before the filters on it.
fn bases_first(bdevs: Vec<Arc<Bdev>>) -> Vec<Arc<Bdev>> {
    let names: Vec<(String, Option<String>)> =
        bdevs.iter().map(|bdev| (bdev.name.clone(), bdev.base.clone())).collect();
    let order = sort(&names);
    order.into_iter().filter_map(|place| bdevs.get(place).cloned()).collect()
}

/// Sorts pairs (name, base) so that each base comes before what uses it. Returns their indexes.
fn sort(names: &[(String, Option<String>)]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let known: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    while order.len() < names.len() {
        let before = order.len();
        for (place, (name, base)) in names.iter().enumerate() {
            let is_ready = match base.as_deref() {
                Some(base) => done.contains(base) || !known.contains(base),
                None => true,
            };
            if is_ready && done.insert(name.as_str()) {
                order.push(place);
            }
        }
        if order.len() == before {
            // The remaining bases form a circle. Their order has no meaning, but none may be left
            // out.
            order.extend((0..names.len()).filter(|place| {
                names.get(*place).is_some_and(|(name, _)| !done.contains(name.as_str()))
            }));
        }
    }
    order
}

/// Parses JSON objects separated by commas, as a module writes them.
fn parse(text: &str, of: &str) -> Vec<Value> {
    serde_json::from_str(&format!("[{text}]")).unwrap_or_else(|error| {
        tracing::error!(
            of,
            "a module wrote invalid JSON, so its configuration is not saved: {error}"
        );
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_come_before_what_stands_on_them_and_circles_end() {
        let named = |list: &[(&str, Option<&str>)]| {
            let owned =
                |(name, base): &(&str, Option<&str>)| ((*name).to_owned(), base.map(str::to_owned));
            list.iter().map(owned).collect::<Vec<_>>()
        };
        let names = named(&[("a", Some("b")), ("b", Some("c")), ("c", None), ("d", Some("gone"))]);
        assert_eq!(sort(&names), [2, 3, 1, 0]);
        assert_eq!(sort(&named(&[("a", Some("b")), ("b", Some("a"))])), [0, 1]);
    }

    #[test]
    fn a_batch_holds_the_consecutive_calls_of_one_method() {
        let call = |method: &str| json!({"method": method});
        let calls = ["a", "b", "b", "a"].map(call).to_vec();
        assert_eq!(in_batches(calls), [call("a"), json!([call("b"), call("b")]), call("a")]);
    }

    #[test]
    fn what_a_plugin_that_panicked_does_not_write_is_kept() {
        let mut written =
            Written { bdevs: BTreeMap::new(), modules: BTreeMap::new(), panicked: BTreeSet::new() };
        assert_eq!(written.of_bdev("a", Some("{}".into())), "{}");
        assert_eq!(written.of_bdev("a", None), "{}");
        assert_eq!(written.of_bdev("b", None), "");
        assert_eq!(written.of_module(1, "{}".into()), "{}");
        assert_eq!(written.of_module(1, String::new()), "", "no filter waits any more");
        written.of_module(1, "{}".into());
        written.panicked.insert(1);
        assert_eq!(written.of_module(1, String::new()), "{}");
    }

    #[test]
    fn what_modules_write_is_a_list_without_brackets() {
        assert_eq!(parse(r#"{"method":"a"},{"method":"b"}"#, "x").len(), 2);
        assert!(parse("", "x").is_empty());
        assert!(parse("{", "x").is_empty());
    }
}
