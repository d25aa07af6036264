//! A group on a fake host: how it behaves as time passes and memory runs out.

use super::{DATA_PERIOD_NS, END_WAIT_NS, HANDSHAKE_WAIT_NS, Held, PIECES_WAIT_NS, TcpGroup};
use crate::connection::doubles::{FLUSH, Host, command};
use crate::listen::Arrived;
use crate::options::Options;
use drivebay_sdk::nvmf::transport::{FakeTarget, Group};
use drivebay_sdk::testing::FakeHost;
use drivebay_spec_nvme::sgl::SglDescriptor;
use drivebay_spec_nvme_tcp::{Digests, IcResp};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

const SAY: Host = Host { digests: Digests { header: false, data: false } };

/// A group with one connection, and both ends of that connection.
struct Scene {
    fake: FakeHost,
    group: TcpGroup,
    target: Rc<FakeTarget<Held>>,
    host: TcpStream,
    key: usize,
}

impl Scene {
    fn new(options: &str) -> Self {
        let fake = FakeHost::new();
        let mut group = TcpGroup::open(&Options::parse(options).unwrap().settings()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let target = FakeTarget::new();
        let peer = stream.peer_addr().ok();
        let key = group.add(Arrived { stream, peer, place: None }, target.qpair()).unwrap();
        Self { fake, group, target, host, key }
    }

    /// A group with one connection, after the handshake.
    fn open(options: &str) -> Self {
        let mut scene = Self::new(options);
        scene.host.write_all(&SAY.ic_req(0)).unwrap();
        scene.group.connected(scene.key, 1, 128, true);
        let mut response = [0; IcResp::LEN];
        scene.host.set_nonblocking(true).unwrap();
        scene.rounds(|scene| scene.host.read_exact(&mut response).is_ok());
        scene.host.set_nonblocking(false).unwrap();
        scene
    }

    fn round(&mut self) {
        self.fake.run();
        self.group.poll();
        self.group.flush();
    }

    fn rounds(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < end, "no progress");
            self.round();
        }
    }

    fn lent(&self) -> usize {
        self.target.lent.borrow().len()
    }

    /// The oldest request comes back with `len` bytes of data.
    fn answer(&mut self, cid: u16, len: u32) {
        let mut request = self.target.lent.borrow_mut().remove(0);
        request.succeed(cid, len);
        self.group.completed(self.key, request);
    }

    fn host_sees_the_end(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.host.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }

    /// Expects that nothing happens just before `at_ns`, and that the connection then ends.
    fn ends_at(&mut self, at_ns: u64) {
        assert!(self.group.next_ns() <= at_ns, "nothing would wake the thread");
        self.fake.set_now_ns(at_ns - 1);
        (0..3).for_each(|_| self.round());
        assert_eq!(self.target.gone.get(), 0);
        self.fake.set_now_ns(at_ns);
        (0..3).for_each(|_| self.round());
        assert_eq!(self.target.gone.get(), 1);
        assert!(self.host_sees_the_end());
        assert_eq!(self.group.next_ns(), u64::MAX, "nothing is to come");
    }
}

#[test]
fn a_host_that_never_says_anything_is_let_go_when_its_time_is_over() {
    Scene::new("{}").ends_at(HANDSHAKE_WAIT_NS);
}

#[test]
fn a_host_that_initializes_and_never_connects_is_let_go_too() {
    let mut scene = Scene::new("{}");
    scene.host.write_all(&SAY.ic_req(0)).unwrap();
    (0..3).for_each(|_| scene.round());
    scene.ends_at(HANDSHAKE_WAIT_NS);
}

#[test]
fn a_queue_may_be_silent_for_ever() {
    let mut scene = Scene::open("{}");
    scene.fake.set_now_ns(1000 * HANDSHAKE_WAIT_NS);
    (0..3).for_each(|_| scene.round());
    assert_eq!((scene.target.gone.get(), scene.group.next_ns()), (0, u64::MAX));
}

#[test]
fn a_host_that_does_not_close_after_an_error_is_cut_off() {
    let mut scene = Scene::open("{}");
    scene.fake.set_now_ns(7);
    scene.host.write_all(&[0xff; 8]).unwrap();
    scene.rounds(|scene| scene.group.next_ns() <= 7 + END_WAIT_NS);
    scene.ends_at(7 + END_WAIT_NS);
}

#[test]
fn a_closing_connection_waits_only_so_long_for_a_host_that_does_not_read() {
    let mut scene = Scene::open(r#"{"max_io_size":4194304}"#);
    let cids = 0..8;
    for cid in cids.clone() {
        scene.host.write_all(&SAY.read(cid, 4 << 20)).unwrap();
    }
    scene.rounds(|scene| scene.lent() == 8);
    cids.for_each(|cid| scene.answer(cid, 4 << 20));
    scene.group.close(scene.key);
    scene.rounds(|scene| scene.group.next_ns() <= END_WAIT_NS);
    scene.ends_at(END_WAIT_NS);
}

#[test]
fn a_host_that_does_not_send_the_data_it_was_asked_for_loses_its_connection_and_the_memory() {
    let mut scene = Scene::open("{}");
    scene.fake.set_now_ns(5);
    scene.host.write_all(&SAY.write(1, 8192)).unwrap();
    scene.rounds(|scene| scene.group.data_ns != u64::MAX);
    scene.fake.set_now_ns(5 + HANDSHAKE_WAIT_NS);
    (0..3).for_each(|_| scene.round());
    assert_eq!(scene.target.gone.get(), 0, "it has as much time as hosts give a command");
    scene.fake.set_now_ns(HANDSHAKE_WAIT_NS + 2 * DATA_PERIOD_NS);
    (0..3).for_each(|_| scene.round());
    assert_eq!(scene.target.gone.get(), 1);
    assert!(scene.host_sees_the_end());
}

#[test]
fn a_peer_that_has_not_connected_has_no_memory() {
    let mut scene = Scene::new("{}");
    scene.fake.set_buf_limit(0);
    scene.host.write_all(&SAY.ic_req(0)).unwrap();
    for cid in 0..8 {
        scene.host.write_all(&SAY.write(cid, 131_072)).unwrap();
        scene.host.write_all(&SAY.read(cid, 131_072)).unwrap();
    }
    let mut answers = [0; IcResp::LEN + 16 * 24];
    scene.host.set_nonblocking(true).unwrap();
    let mut come = 0;
    scene.rounds(|scene| {
        come += scene.host.read(&mut answers[come..]).unwrap_or(0);
        come == answers.len()
    });
    let types: Vec<u8> = answers[IcResp::LEN..].chunks(24).map(|pdu| pdu[0]).collect();
    assert_eq!(types, [5; 16], "responses, and no R2T");
    assert_eq!(scene.lent(), 0);
}

#[test]
fn commands_without_memory_wait_in_the_pools_queue_and_the_thread_may_sleep() {
    let mut scene = Scene::open("{}");
    scene.fake.set_buf_limit(1);
    for cid in 1..=3 {
        scene.host.write_all(&SAY.read(cid, 4096)).unwrap();
    }
    scene.rounds(|scene| scene.lent() == 1 && !scene.group.prepare_sleep());
    assert!(scene.group.next_ns() >= HANDSHAKE_WAIT_NS, "it waits to be told");
    for cid in 1..=3 {
        scene.rounds(|scene| scene.lent() == 1);
        scene.answer(cid, 4096);
    }
    scene.rounds(|scene| !scene.group.prepare_sleep());
    let mut answers = [0; 3 * (24 + 4096 + 24)];
    scene.host.read_exact(&mut answers).unwrap();
}

#[test]
fn a_command_that_needs_more_pieces_than_there_are_looks_again_after_a_while() {
    let mut scene = Scene::open(r#"{"io_unit_size":4096}"#);
    scene.fake.set_buf_limit(1);
    scene.host.write_all(&SAY.read(1, 8192)).unwrap();
    scene.rounds(|scene| scene.group.next_ns() == PIECES_WAIT_NS);
    scene.fake.set_buf_limit(2);
    (0..3).for_each(|_| scene.round());
    assert_eq!(scene.lent(), 0, "not before its time");
    scene.fake.set_now_ns(PIECES_WAIT_NS);
    scene.rounds(|scene| scene.lent() == 1);
}

#[test]
fn a_connection_that_ends_gives_its_place_in_the_queue_up() {
    let mut scene = Scene::open("{}");
    scene.fake.set_buf_limit(0);
    scene.host.write_all(&SAY.read(1, 4096)).unwrap();
    scene.rounds(|scene| scene.group.served.iter().flatten().any(|served| served.waits.is_some()));
    scene.host.shutdown(std::net::Shutdown::Both).unwrap();
    scene.rounds(|scene| scene.target.gone.get() == 1);
    scene.group.free(scene.key);
    scene.fake.set_buf_limit(9);
    scene.round();
    assert_eq!(scene.lent(), 0);
}

#[test]
fn commands_without_data_need_no_memory() {
    let mut scene = Scene::open("{}");
    scene.fake.set_buf_limit(0);
    let flush = command(FLUSH, 4, SglDescriptor::Transport { length: 0 });
    scene.host.write_all(&SAY.capsule(flush, &[])).unwrap();
    scene.rounds(|scene| scene.lent() == 1);
}
