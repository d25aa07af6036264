//! `spdk_kill_instance`.

use super::entry::Entry;
use crate::rpc::async_handler;
use drivebay_spec_jsonrpc::{Method, Role, RpcError, params};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

params! {
    /// Parameters of `spdk_kill_instance`.
    pub(crate) struct KillInstance {
        /// The signal to send to the host process.
        sig_name: SignalName,
    }
    /// Signals that this process may be sent.
    pub(crate) enum SignalName {
        /// Like Ctrl-C: the host shuts down cleanly.
        Int = "SIGINT" | "2",
        /// The host shuts down cleanly.
        Term = "SIGTERM" | "15",
        /// The host ends at once, with a core dump.
        Quit = "SIGQUIT" | "3",
        /// The host reopens its log file.
        Hup = "SIGHUP" | "1",
        /// The host ends at once.
        Kill = "SIGKILL" | "9",
        /// The host ends at once.
        Usr1 = "SIGUSR1" | "10",
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let method = Method::new::<KillInstance>(
        "spdk_kill_instance",
        Role::Admin,
        "Sends a signal to the host process.",
    )
    .in_any_state()
    .result("True.")
    .returns::<bool>();
    // Runs on the RPC thread, because an operator must be able to stop the host even when the app thread is blocked.
    let handler = async_handler(|KillInstance { sig_name }, responder: crate::rpc::Responder| {
        // Answer before sending the signal: a server that stops still sends the answers that are ready.
        responder.ok(&true);
        if let Err(errno) = signal::kill(Pid::this(), signal_of(sig_name)) {
            let error = RpcError::internal(errno);
            tracing::error!(signal = sig_name.as_str(), "cannot send the signal: {error}");
        }
    });
    vec![(method, handler)]
}

fn signal_of(name: SignalName) -> Signal {
    match name {
        SignalName::Int => Signal::SIGINT,
        SignalName::Term => Signal::SIGTERM,
        SignalName::Quit => Signal::SIGQUIT,
        SignalName::Hup => Signal::SIGHUP,
        SignalName::Kill => Signal::SIGKILL,
        SignalName::Usr1 => Signal::SIGUSR1,
    }
}
