//! The file of `--state`: the configuration as it is after the last accepted change.
//!
//! A thread of its own writes it. A call that changed something is answered when the file has it, so
//! that what a client was told outlives the process. Changes that wait together are written at once.

use super::save;
use crate::app::{Host, on_app_thread};
use crate::rpc::{Call, Dispatcher, Outcome, Registry, Responder};
use drivebay_spec_jsonrpc::{Role, RpcError};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

/// The writer. Dropping it writes what is still to be written and ends its thread.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    changes: Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread gets. As many wait as calls are in hand.
#[derive(Debug)]
enum Message {
    Changed(Change),
    /// Have the file written, and say how that went.
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
    /// Keeps the configuration of `host` in the file at `path` from now on.
    pub fn new(path: PathBuf, host: &Arc<Host>) -> Self {
        let (changes, received) = mpsc::channel();
        let (host, kept) = (Arc::clone(host), path.clone());
        let thread = std::thread::Builder::new().name("state".into());
        let thread = thread.spawn(move || keep(&kept, &host, &received)).ok();
        Self { path, changes, thread }
    }

    /// Writes the present configuration, as after the start. With `ignored` calls of the file that
    /// failed, a copy of the file is left beside it first.
    ///
    /// # Errors
    /// A line that names the file.
    pub fn begin(&self, ignored: usize) -> Result<(), String> {
        if ignored > 0 {
            let mut copy = self.path.clone().into_os_string();
            copy.push(".before");
            let copy = PathBuf::from(copy);
            fs::copy(&self.path, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
            tracing::warn!("{ignored} calls were ignored; the state as it was: {}", copy.display());
        }
        let (sender, written) = mpsc::channel();
        let ended = || format!("{}: its writer has ended", self.path.display());
        self.changes.send(Message::Write(sender)).map_err(|_| ended())?;
        written.recv().map_err(|_| ended())?
    }

    /// Passes calls on to `behind`; an answer to what changed something waits for the file.
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
            // Asked now: the call may have loaded the plugin that declares the method.
            let role = registry.method(&method).map_or(Role::Admin, |method| method.role);
            if outcome.is_err() || role == Role::Read {
                return responder.answer(outcome);
            }
            if let Err(unsent) = changes.send(Message::Changed(Change { responder, outcome }))
                && let Message::Changed(change) = unsent.0
            {
                // The writer has ended before the socket was closed: it failed to start.
                change.responder.error(not_kept("its writer has ended"));
            }
        });
        self.behind.call(call);
    }
}

fn keep(path: &Path, host: &Arc<Host>, received: &Receiver<Message>) {
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
            let written = update(path, host, &mut last);
            // One who does not wait any more needs no answer.
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
            Err(why) => responder.error(not_kept(why)),
        }
    }
}

fn not_kept(why: &str) -> RpcError {
    let message = format!("the change was made, but the state file does not have it: {why}");
    RpcError::new(i64::from(-libc::EIO), "not_kept", message)
}

/// Writes the file if it would differ.
fn update(path: &Path, host: &Arc<Host>, last: &mut String) -> Result<(), String> {
    let host = Arc::clone(host);
    let document = on_app_thread(move || Ok(save::document(&host)));
    let text = document.map_err(|error| error.to_string())?.to_text();
    if text == *last {
        return Ok(());
    }
    replace(path, &text).map_err(|error| {
        tracing::error!("state file {}: {error}", path.display());
        format!("{}: {error}", path.display())
    })?;
    *last = text;
    Ok(())
}

/// Replaces a file as a whole: after a crash it has the old text or the new one.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link stays, and what it points at is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut temporary = path.clone().into_os_string();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, &path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_replaced_as_a_whole_through_a_link_too() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("state"), dir.path().join("link"));
        replace(&path, "one").unwrap();
        symlink(&path, &link).unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something was left behind");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert!(replace(Path::new("/nonexistent/state"), "x").is_err());
    }
}
