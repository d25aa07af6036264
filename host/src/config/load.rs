//! Makes the calls of a configuration when the host starts.

use super::document::{Document, Entry};
use super::order::put_clients_last;
use crate::host::{Event, Host};
use crate::rpc::{Call, Dispatcher, Outcome, Peer, Registry, Responder, has_no_effect};
use drivebay_core::env::buf;
use drivebay_spec_jsonrpc::State;
use serde_json::value::to_raw_value;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Why the host does not start.
#[derive(Debug, PartialEq, Eq)]
pub enum Halt {
    /// A signal arrived.
    Stopped,
    /// A call failed; the text names it.
    Failed(String),
}

/// The calls of a configuration: those that belong before the initialization, and those that belong
/// after it.
#[derive(Debug)]
pub struct Load {
    entries: Vec<(String, Entry)>,
    host: Arc<Host>,
    ignores_errors: bool,
    ignored: Cell<usize>,
}

impl Load {
    /// The calls of `document`. None of them has been made yet.
    pub fn new(document: Option<Document>, host: &Arc<Host>, ignores_errors: bool) -> Self {
        // The entries were checked when the document was read.
        let entries = document.and_then(|document| document.entries().ok()).unwrap_or_default();
        Self { entries, host: Arc::clone(host), ignores_errors, ignored: Cell::new(0) }
    }

    /// Loads the plugins that the calls need, reports the calls of unknown methods, then makes the
    /// startup calls. Calls that let clients in move to the end.
    ///
    /// # Errors
    /// An unknown method, or a call that failed, unless errors are ignored.
    pub fn startup(&mut self, events: &Receiver<Event>) -> Result<(), Halt> {
        let methods: BTreeSet<&str> =
            self.entries.iter().map(|(_, entry)| entry.method.as_str()).collect();
        let refused: Vec<String> = methods
            .into_iter()
            .filter_map(|method| self.host.manager.on_demand(&format!("rpc:{method}")).err())
            .map(|error| error.message().to_owned())
            .collect();
        self.leave_out_unknown(&refused)?;
        let manager = &self.host.manager;
        // There is no answer when the host is stopping; the next call reports that.
        put_clients_last(&mut self.entries, |method| {
            manager.is_provided(format!("rpc.last:{method}")).unwrap_or(false)
        });
        self.make(State::Startup, events)
    }

    /// Removes the calls of unknown methods, and logs one summary: calls without effect here, and
    /// calls whose configuration is lost. `refused` says why plugins were not loaded.
    fn leave_out_unknown(&mut self, refused: &[String]) -> Result<(), Halt> {
        let registry = Arc::clone(&self.host.registry);
        let all = std::mem::take(&mut self.entries);
        let (known, unknown): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(_, entry)| registry.method(&entry.method).is_some());
        self.entries = known;
        let (harmless, lost): (Vec<_>, Vec<_>) =
            unknown.into_iter().partition(|(_, entry)| has_no_effect(&entry.method));
        if !harmless.is_empty() {
            let calls = summary(&harmless);
            tracing::info!(
                notice = true,
                "configuration: these calls have no effect here, and nothing is lost: {calls}"
            );
        }
        if lost.is_empty() {
            return Ok(());
        }
        let calls = summary(&lost);
        if !self.ignores_errors {
            let why = match refused {
                [] => "put the plugins with these methods on the plugin path".to_owned(),
                _ => refused.join("; "),
            };
            return Err(Halt::Failed(format!(
                "configuration: these methods do not exist, so their settings would be lost: {calls}; {why}, or \
                 start without them: --json-ignore-init-errors"
            )));
        }
        tracing::warn!(
            "configuration: these methods do not exist, so their settings are lost: {calls}"
        );
        self.ignored.set(self.ignored.get() + lost.len());
        Ok(())
    }

    /// Ends the startup state and makes the remaining calls.
    ///
    /// # Errors
    /// As for [`Load::startup`].
    pub fn runtime(&self, events: &Receiver<Event>) -> Result<(), Halt> {
        // Reserve the buffers before RAM disks take memory. Without buffers most I/O would wait forever.
        buf::reserve().map_err(|error| Halt::Failed(format!("--mem-size: {}", error.message())))?;
        self.host.registry.set_state(State::Runtime);
        self.make(State::Runtime, events)
    }

    /// The number of calls that failed and were ignored.
    pub fn ignored(&self) -> usize {
        self.ignored.get()
    }

    fn make(&self, phase: State, events: &Receiver<Event>) -> Result<(), Halt> {
        for (subsystem, entry) in &self.entries {
            if phase_of(&self.host.registry, &entry.method) != phase {
                continue;
            }
            tracing::debug!(method = entry.method, "calling");
            let Err(error) = self.call(entry, events)? else { continue };
            let why = format!("subsystem {subsystem}: {}: {error}", entry.method);
            if !self.ignores_errors {
                return Err(Halt::Failed(format!("configuration: {why}")));
            }
            tracing::warn!("configuration: ignored: {why}");
            self.ignored.set(self.ignored.get() + 1);
        }
        Ok(())
    }

    /// Makes one call and waits for its answer.
    fn call(&self, entry: &Entry, events: &Receiver<Event>) -> Result<Outcome, Halt> {
        let answer = self.host.events.clone();
        let responder = Responder::new(move |outcome| {
            // If the host is stopping, nobody waits for the answer.
            let _ = answer.send(Event::Answer(outcome));
        });
        self.host.registry.call(Call {
            method: entry.method.clone(),
            params: entry.params.as_ref().and_then(|params| to_raw_value(params).ok()),
            peer: Peer::local(),
            responder,
        });
        loop {
            match events.recv() {
                Ok(Event::Answer(outcome)) => return Ok(outcome),
                // `framework_start_init` is not allowed any more. Dropping the responder answers
                // the call with an error.
                Ok(Event::StartInit(responder)) => drop(responder),
                Ok(Event::Stop) | Err(_) => return Err(Halt::Stopped),
            }
        }
    }
}

/// The methods of the calls with their counts, by subsystem: `bdev: a, b (2 times); sock: c`.
fn summary(calls: &[(String, Entry)]) -> String {
    let mut counts: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (subsystem, entry) in calls {
        *counts.entry(subsystem).or_default().entry(&entry.method).or_default() += 1;
    }
    let method = |(name, count): (&str, usize)| match count {
        1 => name.to_owned(),
        _ => format!("{name} ({count} times)"),
    };
    let subsystem = |(name, methods): (&str, BTreeMap<&str, usize>)| {
        let methods: Vec<String> = methods.into_iter().map(method).collect();
        format!("{name}: {}", methods.join(", "))
    };
    counts.into_iter().map(subsystem).collect::<Vec<_>>().join("; ")
}

/// The state in which a method is called. A method that is allowed in every state is called early.
/// An unknown method fails early.
fn phase_of(registry: &Registry, method: &str) -> State {
    match registry.method(method) {
        Some(method) if !method.states.contains(&State::Startup) => State::Runtime,
        _ => State::Startup,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_reported_once_by_subsystem_with_counts() {
        let call = |subsystem: &str, method: &str| {
            (subsystem.to_owned(), Entry { method: method.to_owned(), params: None })
        };
        let calls = [call("sock", "c"), call("bdev", "b"), call("bdev", "a"), call("bdev", "b")];
        assert_eq!(summary(&calls), "bdev: a, b (2 times); sock: c");
    }
}
