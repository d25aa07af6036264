//! One client: it reads bytes, passes requests to the dispatcher, and writes answers.

use super::call::{Call, Outcome, Peer, Responder};
use super::config::Config;
use super::outbox::{Answer, Outbox};
use drivebay_spec_jsonrpc::message::{encode_batch, encode_error, encode_result};
use drivebay_spec_jsonrpc::{FrameError, Framer, Id, Incoming, Request, Role, RpcError};
use nix::poll::PollFlags;
use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The maximum number of bytes of one read. One connection takes no more of the thread in a round.
const READ_BYTES: usize = 64 * 1024;
/// How long the server reads and drops what a refused client still sends, so that the client can
/// finish sending and read the reason.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    pub(crate) stream: UnixStream,
    peer: Peer,
    framer: Framer,
    phase: Phase,
    /// Requests without a complete answer.
    exchanges: HashMap<u64, Exchange>,
    next_exchange: u64,
    /// The number of calls without an answer, in all exchanges.
    outstanding: usize,
    /// The answers to write. `written_bytes` of the first one are already written.
    answers: VecDeque<Vec<u8>>,
    written_bytes: usize,
    queued_bytes: usize,
    /// When bytes last moved, or started to wait.
    progress: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The server reads requests.
    Open,
    /// The client sends no more. It gets its answers, then the connection closes.
    InputEnded,
    /// The client sent something that is not JSON-RPC. It gets its answers; further data is read
    /// and dropped.
    Refused { since: Instant, shut: bool },
    /// The connection is finished.
    Closed,
}

/// One frame of the client, with the answers that it has so far.
#[derive(Debug)]
enum Exchange {
    Single,
    Batch { answers: Vec<Option<String>>, remaining: usize, len_bytes: usize },
}

impl Connection {
    pub(crate) fn new(id: u64, stream: UnixStream, peer: Peer, config: &Config) -> Self {
        Self {
            id,
            stream,
            peer,
            framer: Framer::new(config.request),
            phase: Phase::Open,
            exchanges: HashMap::new(),
            next_exchange: 0,
            outstanding: 0,
            answers: VecDeque::new(),
            written_bytes: 0,
            queued_bytes: 0,
            progress: Instant::now(),
        }
    }

    /// The events to wait for on the socket.
    pub(crate) fn interest(&self, config: &Config) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.wants_read(config));
        interest.set(PollFlags::POLLOUT, !self.answers.is_empty());
        interest
    }

    fn wants_read(&self, config: &Config) -> bool {
        match self.phase {
            Phase::Open => self.may_ask(config),
            Phase::Refused { .. } => true,
            Phase::InputEnded | Phase::Closed => false,
        }
    }

    /// Whether the client may have more requests in flight. A client that does not read its answers
    /// may not.
    fn may_ask(&self, config: &Config) -> bool {
        self.outstanding < config.max_outstanding && self.queued_bytes < READ_BYTES
    }

    /// Whether there is work that needs no further event on the socket.
    pub(crate) fn has_work(&self, config: &Config) -> bool {
        let ended = self.phase == Phase::InputEnded;
        (self.phase == Phase::Open || ended)
            && self.may_ask(config)
            && (self.framer.has_unread() || ended && self.framer.is_partial())
    }

    /// When the server drops the client, unless bytes move before that.
    pub(crate) fn deadline(&self, config: &Config) -> Option<Instant> {
        match self.phase {
            Phase::Refused { since, shut: true } => Some(since + LINGER),
            _ if !self.answers.is_empty() => Some(self.progress + config.stall_timeout),
            Phase::Open if self.framer.is_partial() && self.wants_read(config) => {
                Some(self.progress + config.stall_timeout)
            }
            _ => None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// The time since which the client is idle; `None` while a call, an answer or a part of a request is in progress.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.phase == Phase::Open
            && self.outstanding == 0
            && self.answers.is_empty()
            && !self.framer.is_partial()
            && !self.framer.has_unread();
        is_idle.then_some(self.progress)
    }

    /// Whether the peer is root or the host's own user.
    pub(crate) fn is_of_operator(&self) -> bool {
        self.peer.role == Some(Role::Admin)
    }

    /// Closes the connection at once. Later answers are dropped.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closed;
    }

    /// Reads once.
    pub(crate) fn read(&mut self) {
        let mut buffer = [0; READ_BYTES];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end_input(),
            Ok(len) => {
                self.progress = Instant::now();
                if self.phase == Phase::Open {
                    self.framer.push(buffer.get(..len).unwrap_or_default());
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn end_input(&mut self) {
        match self.phase {
            Phase::Open => self.phase = Phase::InputEnded,
            Phase::InputEnded | Phase::Refused { .. } | Phase::Closed => self.close(),
        }
    }

    fn failed(&mut self, error: &io::Error) {
        if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
            tracing::debug!(pid = self.peer.pid, %error, "rpc connection lost");
            self.close();
        }
    }

    /// Takes the requests that have arrived completely, as far as the limits allow.
    pub(crate) fn take_requests(&mut self, config: &Config, outbox: &Outbox) -> Vec<Call> {
        let mut calls = Vec::new();
        while matches!(self.phase, Phase::Open | Phase::InputEnded) && self.may_ask(config) {
            let incoming = match self.framer.next_frame() {
                Ok(Some(frame)) => Incoming::parse(frame),
                Ok(None) => break,
                Err(error @ FrameError::TooLong { .. }) => Err(RpcError::invalid_request(error)),
                Err(error) => Err(RpcError::parse(error)),
            };
            match incoming {
                Ok(Incoming::Single(request)) => {
                    let exchange = self.begin(Exchange::Single);
                    calls.extend(self.start(exchange, 0, request, config, outbox));
                }
                Ok(Incoming::Batch(requests)) => {
                    let exchange = self.begin(Exchange::Batch {
                        answers: requests.iter().map(|_| None).collect(),
                        remaining: requests.len(),
                        len_bytes: 0,
                    });
                    for (index, request) in requests.into_iter().enumerate() {
                        calls.extend(self.start(exchange, index, request, config, outbox));
                    }
                }
                Err(error) => self.refuse(&error, config),
            }
        }
        // The end of the input has cut off a request, which can never be completed.
        if self.phase == Phase::InputEnded && self.framer.is_partial() && self.may_ask(config) {
            self.refuse(&RpcError::parse("the request is incomplete"), config);
        }
        calls
    }

    fn begin(&mut self, exchange: Exchange) -> u64 {
        let number = self.next_exchange;
        self.next_exchange += 1;
        self.exchanges.insert(number, exchange);
        number
    }

    /// Starts the call of a request. If it is not a valid request, it is answered at once.
    fn start(
        &mut self,
        exchange: u64,
        index: usize,
        request: Result<Request, RpcError>,
        config: &Config,
        outbox: &Outbox,
    ) -> Option<Call> {
        self.outstanding += 1;
        match request {
            Ok(Request { id, method, params }) => {
                let place = Place { connection: self.id, exchange, index };
                let responder = responder(place, id, &method, self.peer, config, outbox);
                Some(Call { method, params, peer: self.peer, responder })
            }
            Err(error) => {
                self.settle(exchange, index, Some(encode_error(None, &error)), config);
                None
            }
        }
    }

    /// Takes the answer of one call; `None` for a notification.
    pub(crate) fn settle(
        &mut self,
        number: u64,
        index: usize,
        text: Option<String>,
        config: &Config,
    ) {
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        let whole = match exchange {
            Exchange::Single => text,
            Exchange::Batch { answers, remaining, len_bytes } => {
                let text = text.map(|text| bound_batch(text, *len_bytes, config));
                *len_bytes += text.as_ref().map_or(0, String::len);
                if let Some(answer) = answers.get_mut(index) {
                    *answer = text;
                }
                *remaining -= 1;
                if *remaining > 0 {
                    return;
                }
                let answers: Vec<String> = std::mem::take(answers).into_iter().flatten().collect();
                encode_batch(&answers)
            }
        };
        self.exchanges.remove(&number);
        if let Some(text) = whole {
            self.queue(text, config);
        }
    }

    /// Queues one answer. A client that leaves too many answers unread is dropped.
    fn queue(&mut self, text: String, config: &Config) {
        let mut bytes = text.into_bytes();
        bytes.push(b'\n');
        if self.answers.is_empty() {
            self.progress = Instant::now();
        }
        self.queued_bytes += bytes.len();
        self.answers.push_back(bytes);
        if self.queued_bytes > config.max_queued_bytes {
            tracing::warn!(
                pid = self.peer.pid,
                bytes = self.queued_bytes,
                "rpc client does not read its answers; dropped"
            );
            self.close();
        }
    }

    /// Answers with a null id and reads no further request.
    fn refuse(&mut self, error: &RpcError, config: &Config) {
        self.phase = Phase::Refused { since: Instant::now(), shut: false };
        self.queue(encode_error(None, error), config);
    }

    /// Writes as much as the socket takes, and closes the connection when it is finished.
    pub(crate) fn write(&mut self, config: &Config) {
        while let Some(answer) = self.answers.front() {
            match self.stream.write(answer.get(self.written_bytes..).unwrap_or_default()) {
                Ok(len) => {
                    self.progress = Instant::now();
                    self.written_bytes += len;
                    self.queued_bytes -= len;
                    if self.written_bytes == answer.len() {
                        self.answers.pop_front();
                        self.written_bytes = 0;
                    }
                }
                Err(error) => return self.failed(&error),
            }
        }
        if self.outstanding > 0 || self.has_work(config) {
            return;
        }
        match &mut self.phase {
            Phase::InputEnded => self.close(),
            Phase::Refused { since, shut } if !*shut => {
                *since = Instant::now();
                *shut = true;
                if self.stream.shutdown(Shutdown::Write).is_err() {
                    self.close();
                }
            }
            Phase::Open | Phase::Refused { .. } | Phase::Closed => {}
        }
    }
}

/// The exchange and position to which an answer belongs.
#[derive(Debug, Clone, Copy)]
struct Place {
    connection: u64,
    exchange: u64,
    index: usize,
}

/// A responder that encodes on the answering thread and wakes the server.
fn responder(
    place: Place,
    id: Option<Id>,
    method: &str,
    peer: Peer,
    config: &Config,
    outbox: &Outbox,
) -> Responder {
    tracing::debug!(method, pid = peer.pid, uid = peer.uid, "rpc call");
    let Place { connection, exchange, index } = place;
    let (method, begun) = (method.to_owned(), Instant::now());
    let (outbox, max_answer_bytes) = (outbox.clone(), config.max_answer_bytes);
    Responder::new(move |outcome| {
        tracing::debug!(
            method,
            pid = peer.pid,
            code = outcome.as_ref().err().map_or(0, |error| error.code),
            elapsed_us = begun.elapsed().as_micros(),
            "rpc answer"
        );
        let text = id.map(|id| encode(&id, outcome, max_answer_bytes));
        outbox.send(Answer { connection, exchange, index, text });
    })
}

fn encode(id: &Id, outcome: Outcome, max_bytes: usize) -> String {
    match outcome {
        Ok(result) if result.get().len() <= max_bytes => encode_result(id, &result),
        Ok(_) => encode_error(Some(id), &too_long(max_bytes)),
        Err(error) => encode_error(Some(id), &error),
    }
}

/// The answer itself, or an error if the batch would exceed the limit of one answer.
fn bound_batch(text: String, before_bytes: usize, config: &Config) -> String {
    if before_bytes + text.len() <= config.max_answer_bytes {
        return text;
    }
    encode_error(None, &too_long(config.max_answer_bytes))
}

fn too_long(max_bytes: usize) -> RpcError {
    RpcError::internal(format!("the answer is longer than {max_bytes} bytes"))
}
