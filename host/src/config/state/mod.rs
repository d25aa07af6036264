//! The file of `--state`: the configuration after the last accepted change.
//!
//! A separate thread writes the file. The answer to a call that changed something is sent when the
//! file contains the change, so the change outlives the process. Changes that wait at the same time
//! are written together.

mod file;

pub use file::KeptFile;

use super::save;
use crate::host::Host;
use crate::rpc::{Call, Dispatcher, Outcome, Registry, Responder};
use drivebay_core::reactor::thread;
use drivebay_spec_jsonrpc::{Role, RpcError};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

/// The writer. Dropping it writes the pending changes and ends its thread.
#[derive(Debug)]
pub struct StateFile {
    file: Arc<KeptFile>,
    changes: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// A message to the thread. At most as many wait as there are calls in flight.
#[derive(Debug)]
enum Message {
    Changed(Change),
    /// Write the file, and report the result.
    Write(Sender<Result<(), String>>),
    End,
}

/// A change that was made, and the answer that waits for the file.
#[derive(Debug)]
struct Change {
    responder: Responder,
    outcome: Outcome,
}

impl StateFile {
    /// Keeps the configuration of `host` in `file` from now on.
    pub fn new(file: KeptFile, host: &Arc<Host>) -> Self {
        let (changes, received) = mpsc::channel();
        let file = Arc::new(file);
        let (host, kept) = (Arc::clone(host), Arc::clone(&file));
        let thread = std::thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || write_changes(&kept, &host, &received)).ok();
        Self { file, changes, thread }
    }

    /// Writes the current configuration after the start. If `ignored` calls of the file failed, it
    /// first saves a copy of the file beside it.
    ///
    /// # Errors
    /// One line that names the file and says what is wrong.
    pub fn begin(&self, ignored: usize) -> Result<(), String> {
        if ignored > 0 {
            let copy = self.file.copy_as_before()?;
            tracing::warn!(
                "{ignored} calls failed and were ignored; a copy of the previous state is in {}",
                copy.display()
            );
        }
        let (sender, written) = mpsc::channel();
        let ended = || format!("{}: its writer has ended", self.file.path().display());
        self.changes.send(Message::Write(sender)).map_err(|_| ended())?;
        written.recv().map_err(|_| ended())?
    }

    /// Passes calls on to `behind`. The answer to a call that changed something waits for the file.
    pub fn record(
        &self,
        behind: Arc<dyn Dispatcher>,
        registry: &Arc<Registry>,
    ) -> Arc<dyn Dispatcher> {
        let (registry, changes) = (Arc::clone(registry), self.changes.clone());
        Arc::new(Recorder { behind, registry, changes })
    }
}

impl Drop for StateFile {
    fn drop(&mut self) {
        let _ = self.changes.send(Message::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Recorder {
    behind: Arc<dyn Dispatcher>,
    registry: Arc<Registry>,
    changes: Sender<Message>,
}

impl Dispatcher for Recorder {
    fn call(&self, mut call: Call) {
        let (registry, changes) = (Arc::clone(&self.registry), self.changes.clone());
        let method = call.method.clone();
        let responder = call.responder;
        call.responder = Responder::new(move |outcome| {
            // The role is read after the call, because the call may have loaded the plugin that
            // declares the method.
            let role = registry.method(&method).map_or(Role::Admin, |method| method.role);
            if outcome.is_err() || role == Role::Read {
                return responder.answer(outcome);
            }
            if let Err(unsent) = changes.send(Message::Changed(Change { responder, outcome }))
                && let Message::Changed(change) = unsent.0
            {
                // The writer ends before the socket closes only if it could not start.
                change.responder.error(not_written("its writer has ended"));
            }
        });
        self.behind.call(call);
    }
}

fn write_changes(file: &KeptFile, host: &Arc<Host>, received: &Receiver<Message>) {
    let mut last = String::new();
    while let Ok(first) = received.recv() {
        let mut ends = false;
        let (mut changes, mut asked) = (Vec::new(), Vec::new());
        for message in std::iter::once(first).chain(received.try_iter()) {
            match message {
                Message::Changed(change) => changes.push(change),
                Message::Write(sender) => asked.push(sender),
                Message::End => ends = true,
            }
        }
        if !(changes.is_empty() && asked.is_empty()) {
            let written = update(file, host, &mut last);
            // A caller that does not wait any more needs no answer.
            asked.iter().for_each(|sender| drop(sender.send(written.clone())));
            answer(changes, &written);
        }
        if ends {
            return;
        }
    }
}

fn answer(changes: Vec<Change>, written: &Result<(), String>) {
    for Change { responder, outcome } in changes {
        match written {
            Ok(()) => responder.answer(outcome),
            Err(why) => responder.error(not_written(why)),
        }
    }
}

fn not_written(why: &str) -> RpcError {
    let message = format!("the change was made, but it is not in the state file: {why}");
    RpcError::new(i64::from(-libc::EIO), "not_kept", message)
}

/// Writes the file if its content would change.
fn update(file: &KeptFile, host: &Arc<Host>, last: &mut String) -> Result<(), String> {
    let host = Arc::clone(host);
    let (sender, document) = mpsc::channel();
    thread::send_app(move || {
        // If the writer has ended, nobody waits any more.
        save::document(&host, move |document| drop(sender.send(document)));
    });
    let text = document.recv().map_err(|_| "the app thread has ended")?.to_text();
    if text == *last {
        return Ok(());
    }
    file.replace(&text).map_err(|error| {
        let path = file.path().display();
        tracing::error!("state file {path}: {error}");
        format!("{path}: {error}")
    })?;
    *last = text;
    Ok(())
}
