//! Making the calls of a configuration at start.

use super::document::{Document, Entry};
use crate::app::{Event, Host};
use crate::rpc::{Call, Dispatcher, Outcome, Peer, Registry, Responder};
use drivebay_spec_jsonrpc::State;
use serde_json::value::to_raw_value;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// Why the start does not go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Halt {
    /// A signal came.
    Stopped,
    /// A call failed; the text names it.
    Failed(String),
}

/// The calls of a configuration, before and after the initialisation.
#[derive(Debug)]
pub struct Load {
    entries: Vec<(String, Entry)>,
    host: Arc<Host>,
    ignores_errors: bool,
    ignored: Cell<usize>,
}

impl Load {
    /// The calls of `document`; none of them is made yet.
    pub fn new(document: Option<Document>, host: &Arc<Host>, ignores_errors: bool) -> Self {
        // They were read when the document was.
        let entries = document.and_then(|document| document.entries().ok()).unwrap_or_default();
        Self { entries, host: Arc::clone(host), ignores_errors, ignored: Cell::new(0) }
    }

    /// Loads the plugins that the calls need, then makes those that are for startup.
    ///
    /// # Errors
    /// A call that failed, unless errors are ignored.
    pub fn startup(&self, events: &Receiver<Event>) -> Result<(), Halt> {
        let methods: BTreeSet<&str> =
            self.entries.iter().map(|(_, entry)| entry.method.as_str()).collect();
        for method in methods {
            // A refusal shows again, with its call.
            let _ = self.host.manager.on_demand(&format!("rpc:{method}"));
        }
        self.make(State::Startup, events)
    }

    /// Goes to run time and makes the other calls.
    ///
    /// # Errors
    /// As [`Load::startup`].
    pub fn runtime(&self, events: &Receiver<Event>) -> Result<(), Halt> {
        self.host.registry.set_state(State::Runtime);
        self.make(State::Runtime, events)
    }

    /// How many calls failed and were ignored.
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
            // Nobody waits any more once the host ends.
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
                // The state is run time already, so that it is refused there.
                Ok(Event::StartInit(responder)) => drop(responder),
                Ok(Event::Stop) | Err(_) => return Err(Halt::Stopped),
            }
        }
    }
}

/// When a method is called. What may be called at any time is called early, and an unknown one fails
/// early.
fn phase_of(registry: &Registry, method: &str) -> State {
    match registry.method(method) {
        Some(method) if !method.states.contains(&State::Startup) => State::Runtime,
        _ => State::Startup,
    }
}
