//! A fabric without a network. A test sends commands on a [`Wire`] and receives the responses there.

use drivebay_sdk::nvmf::transport::{
    Acceptor, Address, Group, Qpair, Request, Transfer, Transport,
};
use drivebay_sdk::{Result, Sink};
use drivebay_spec_nvme::{Command, Completion};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard};

/// The host's end of a connection.
#[derive(Clone, Default)]
pub(super) struct Wire(Arc<Mutex<Ends>>);

#[derive(Default)]
pub(super) struct Ends {
    sent: VecDeque<Sent>,
    /// The responses with their data.
    pub(super) received: Vec<(Completion, Vec<u8>)>,
    /// Whether the host closes the connection.
    hangs_up: bool,
    /// Whether the target has closed the connection.
    pub(super) is_closed: bool,
    /// Whether the target has freed the connection.
    pub(super) is_free: bool,
    /// Identifier, size and flow control, once the connection is a queue.
    pub(super) connected: Option<(u16, u16, bool)>,
}

struct Sent {
    command: Command,
    transfer: Transfer,
    len: u32,
    data: Vec<u8>,
}

impl Wire {
    pub(super) fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap()
    }

    fn send(&self, command: &Command, transfer: Transfer, len: usize, data: &[u8]) {
        let (len, data) = (u32::try_from(len).unwrap(), data.to_vec());
        self.ends().sent.push_back(Sent { command: *command, transfer, len, data });
    }

    /// Sends a command without data.
    pub(super) fn command(&self, command: &Command) {
        self.send(command, Transfer::None, 0, &[]);
    }

    /// Sends a command with data.
    pub(super) fn write(&self, command: &Command, data: &[u8]) {
        self.send(command, Transfer::FromHost, data.len(), data);
    }

    /// Sends a command that reads `len` bytes.
    pub(super) fn read(&self, command: &Command, len: usize) {
        self.send(command, Transfer::ToHost, len, &[]);
    }

    /// Sends a command that reads as many bytes as `stale` has, into memory that contains `stale`.
    pub(super) fn read_over(&self, command: &Command, stale: &[u8]) {
        self.send(command, Transfer::ToHost, stale.len(), stale);
    }

    pub(super) fn hang_up(&self) {
        self.ends().hangs_up = true;
    }
}

thread_local! {
    static ACCEPTOR: RefCell<Option<Acceptor<Fake>>> = const { RefCell::new(None) };
}

/// Connects to `trsvcid`.
pub(super) fn connect(trsvcid: &str) -> Wire {
    let at = |traddr: &str, trsvcid: &str| Address {
        trtype: "FAKE".into(),
        adrfam: "IPv4".into(),
        traddr: traddr.into(),
        trsvcid: trsvcid.into(),
    };
    let wire = Wire::default();
    ACCEPTOR.with_borrow(|acceptor| {
        let acceptor = acceptor.as_ref().unwrap();
        acceptor.hand_over(wire.clone(), &at("127.0.0.1", trsvcid), &at("127.0.0.1", "1")).unwrap();
    });
    wire
}

#[derive(Debug)]
pub(super) struct Fake;

impl Transport for Fake {
    const TRTYPE: &'static str = "FAKE";
    type Settings = ();
    type Incoming = Wire;
    type Group = FakeGroup;

    fn create(_options: &str, acceptor: Acceptor<Self>) -> Result<(Self, ())> {
        ACCEPTOR.replace(Some(acceptor));
        Ok((Self, ()))
    }

    fn dump(&self, sink: &Sink<'_>) {
        sink.write(r#"{"trtype": "FAKE", "max_io_size": 8192, "max_queue_depth": 4}"#);
    }

    fn listen(&mut self, _address: &Address) -> Result<()> {
        Ok(())
    }

    fn stop_listen(&mut self, _address: &Address) -> Result<()> {
        Ok(())
    }
}

#[derive(Default)]
pub(super) struct FakeGroup(Vec<(Wire, Qpair<()>)>);

impl FakeGroup {
    fn next(&self) -> Option<(&Qpair<()>, Sent)> {
        self.0.iter().find_map(|(wire, qpair)| Some((qpair, wire.ends().sent.pop_front()?)))
    }
}

impl Group for FakeGroup {
    type Transport = Fake;
    type Body = ();

    fn open(_settings: &()) -> Result<Self> {
        Ok(Self::default())
    }

    fn wake_fd(&self) -> RawFd {
        0
    }

    fn add(&mut self, wire: Wire, qpair: Qpair<()>) -> Result<usize> {
        self.0.push((wire, qpair));
        Ok(self.0.len() - 1)
    }

    fn poll(&mut self) -> bool {
        let mut did = false;
        while let Some((qpair, sent)) = self.next() {
            did = true;
            let mut request = Request::new((), 4096, 8192);
            request.begin(&sent.command.encode());
            request.set_transfer(sent.transfer, sent.len);
            assert!(request.obtain(sent.len));
            for (i, piece) in sent.data.chunks(4096).enumerate() {
                request.data_mut(u32::try_from(i * 4096).unwrap())[..piece.len()]
                    .copy_from_slice(piece);
            }
            qpair.exec(request);
        }
        for (wire, qpair) in &self.0 {
            if wire.ends().hangs_up {
                qpair.disconnected();
            }
        }
        did
    }

    fn completed(&mut self, key: usize, request: Request<()>) {
        let data: Vec<u8> = request.data(0, request.response_len()).flatten().copied().collect();
        let completion = Completion::parse(&request.response());
        self.0[key].0.ends().received.push((completion, data));
    }

    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool) {
        self.0[key].0.ends().connected = Some((qid, size, sq_flow_control));
    }

    fn close(&mut self, key: usize) {
        let (wire, qpair) = &self.0[key];
        wire.ends().is_closed = true;
        qpair.disconnected();
    }

    fn free(&mut self, key: usize) {
        self.0[key].0.ends().is_free = true;
    }

    fn flush(&mut self) -> bool {
        false
    }

    fn prepare_sleep(&mut self) -> bool {
        false
    }

    fn next_ns(&self) -> u64 {
        u64::MAX
    }
}
