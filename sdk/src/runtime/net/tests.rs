//! Real sockets, on a fake host.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "for tests")]

use super::*;
use crate::error::{Error, errno};
use crate::runtime::task;
use crate::testing::FakeHost;
use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(3600);

fn run<T: 'static>(host: &FakeHost, future: impl Future<Output = T> + 'static) -> T {
    let result = Rc::new(RefCell::new(None));
    let to = Rc::clone(&result);
    let run = async move {
        let output = future.await;
        *to.borrow_mut() = Some(output);
    };
    task::spawn("test", run).unwrap().detach();
    host.wait(|| result.take())
}

fn any_port() -> Address {
    Address::ip("traddr", "127.0.0.1", 0).unwrap()
}

fn accept(host: &FakeHost, listener: &mut Listener) -> Stream {
    let listener = RefCell::new(listener);
    host.wait(|| {
        let mut accepted = Vec::new();
        listener.borrow_mut().accept(0, &mut accepted);
        accepted.pop()
    })
}

/// Opens a connection and returns both ends.
fn pair(host: &FakeHost) -> (Stream, TcpStream) {
    let mut listener = Listener::bind(&any_port(), &ListenOptions::default()).unwrap();
    let peer = TcpStream::connect(listener.address().as_ip().unwrap()).unwrap();
    (accept(host, &mut listener), peer)
}

#[test]
fn what_is_written_in_pieces_is_read_at_the_other_end_and_counted() {
    let host = FakeHost::new();
    let (mut stream, mut peer) = pair(&host);
    let sent = stream.write(&[IoSlice::new(b"ab"), IoSlice::new(b"cd")], false).unwrap();
    let mut four = [0; 4];
    peer.read_exact(&mut four).unwrap();
    assert_eq!((sent, &four), (4, b"abcd"));
    peer.write_all(b"efg").unwrap();
    let (mut first, mut second) = ([0; 2], [0; 2]);
    let mut pieces = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    let mut read = None;
    while read.is_none() {
        read = stream.read(&mut pieces).unwrap();
    }
    assert_eq!((read, &first, second[0]), (Some(3), b"ef", b'g'));
    assert!(!stream.is_readable(), "a short read has emptied it");
    assert_eq!(stream.bytes(), (3, 4));
}

#[test]
fn a_peer_that_does_not_read_stops_the_writer_until_it_does() {
    let host = FakeHost::new();
    let (stream, mut peer) = pair(&host);
    let mut sockets = Sockets::new(4).unwrap();
    let key = sockets.add(stream, ()).unwrap();
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    let (stream, ()) = sockets.get_mut(key).unwrap();
    while stream.is_writable() {
        sent += stream.write(&[IoSlice::new(&block)], false).unwrap();
        assert!(sent < 1 << 30, "the kernel accepts everything");
    }
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; sent];
        peer.read_exact(&mut all).map(|()| peer)
    });
    let sockets = RefCell::new(sockets);
    host.wait(|| {
        let mut sockets = sockets.borrow_mut();
        sockets.look();
        sockets.get_mut(key).unwrap().0.is_writable().then_some(())
    });
    reader.join().unwrap().unwrap();
}

#[test]
fn a_round_serves_those_that_have_something_to_do_and_drops_those_that_have_ended() {
    let host = FakeHost::new();
    let mut sockets = Sockets::new(2).unwrap();
    let (first, mut peer) = pair(&host);
    let (second, _quiet) = pair(&host);
    let (first, second) = (sockets.add(first, 0).unwrap(), sockets.add(second, 0).unwrap());
    let (third, _) = pair(&host);
    assert_eq!(sockets.add(third, 0).unwrap_err().errno(), errno::EAGAIN);
    sockets.look();
    sockets.round(|_, _, _| Next::Wait);
    assert!(!sockets.has_work());
    peer.write_all(b"x").unwrap();
    let sockets = RefCell::new(sockets);
    host.wait(|| sockets.borrow_mut().look().then_some(()));
    let mut sockets = sockets.into_inner();
    sockets.round(|key, stream, turns| {
        let mut byte = [0];
        assert_eq!(stream.read(&mut [IoSliceMut::new(&mut byte)]).unwrap(), Some(1));
        *turns += 1;
        assert_eq!(key, first);
        Next::Work
    });
    assert!(sockets.has_work());
    sockets.round(|_, _, turns| if *turns == 1 { Next::End } else { Next::Wait });
    assert_eq!((sockets.len(), sockets.has_work()), (1, false));
    assert_eq!(peer.read(&mut [0]).unwrap(), 0, "the connection was closed");
    sockets.activate(second);
    assert!(sockets.has_work());
    assert!(sockets.remove(second).is_some() && !sockets.has_work() && sockets.is_empty());
}

#[test]
fn a_half_closed_connection_is_read_to_its_end() {
    let host = FakeHost::new();
    let (mut stream, mut peer) = pair(&host);
    stream.shutdown_write();
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    peer.write_all(b"last words").unwrap();
    drop(peer);
    let words = run(&host, async move {
        let mut words = [0; 10];
        stream.read_exact(&mut words).await?;
        let end = stream.read_exact(&mut [0]).await.unwrap_err();
        Ok::<_, Error>((words, end.errno()))
    });
    assert_eq!(words, Ok((*b"last words", 32)));
}

#[test]
fn a_connect_ends_with_a_stream_or_with_why_not() {
    let host = FakeHost::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Ip(listener.local_addr().unwrap());
    let to = address.clone();
    let stream = run(&host, async move { connect(&to, &Options::default(), LONG).await }).unwrap();
    assert_eq!(stream.peer_address().unwrap(), address);
    drop(listener);
    let error = run(&host, async move { connect(&address, &Options::default(), LONG).await });
    let error = error.unwrap_err();
    assert!(error.message().starts_with("connecting to 127.0.0.1:"), "{error}");
    assert_eq!(error.errno(), 111);
}

#[test]
fn a_connect_that_nobody_answers_ends_in_time() {
    let host = FakeHost::new();
    // The queue of connections is full, so the system does not answer any more.
    let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
    let listener = Listener::bind(&any_port(), &options).unwrap();
    let at = listener.address().as_ip().unwrap();
    let mut held = Vec::new();
    let stuck = loop {
        let address = Address::Ip(at);
        let attempt = async move { connect(&address, &Options::default(), LONG).await };
        let result = Rc::new(RefCell::new(None));
        let to = Rc::clone(&result);
        let task = task::spawn("connect", async move {
            let output = attempt.await;
            *to.borrow_mut() = Some(output);
        });
        task.unwrap().detach();
        for _ in 0..100 {
            host.run();
        }
        match result.take() {
            Some(connected) => held.push(connected.unwrap()),
            None => break result,
        }
        assert!(held.len() < 64, "the queue does not fill");
    };
    host.advance(LONG);
    let error = host.wait(|| stuck.take()).unwrap_err();
    assert_eq!(error.errno(), errno::ETIMEDOUT);
}

#[test]
fn a_socket_that_a_killed_process_left_is_replaced_and_any_other_file_stays() {
    let path = std::env::temp_dir().join(format!("drivebay-stale-{}.sock", std::process::id()));
    let address = Address::unix("path", path.clone()).unwrap();
    let bind = || Listener::bind(&address, &ListenOptions::default());
    let in_use = rustix::io::Errno::ADDRINUSE.raw_os_error();
    // The standard library leaves the path behind, as a killed process does.
    let used = UnixListener::bind(&path).unwrap();
    assert_eq!(bind().unwrap_err().errno(), in_use);
    drop(used);
    drop(bind().unwrap());

    std::fs::write(&path, "kept").unwrap();
    assert_eq!(bind().unwrap_err().errno(), in_use);
    assert_eq!(std::fs::read(&path).unwrap(), b"kept");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_unix_socket_serves_and_its_path_goes_with_it() {
    let host = FakeHost::new();
    let name = format!("drivebay-net-{}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let address = Address::unix("path", path.clone()).unwrap();
    let mut listener = Listener::bind(&address, &ListenOptions::default()).unwrap();
    assert!(Listener::bind(&address, &ListenOptions::default()).is_err());
    let mut peer = UnixStream::connect(&path).unwrap();
    let mut stream = accept(&host, &mut listener);
    peer.write_all(b"hi").unwrap();
    let heard = run(&host, async move {
        let mut two = [0; 2];
        stream.read_exact(&mut two).await.map(|()| two)
    });
    assert_eq!(heard, Ok(*b"hi"));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn an_address_that_is_none_is_named() {
    assert_eq!(Address::ip("traddr", "[::1]", 3260).unwrap().to_string(), "[::1]:3260");
    let error = Address::ip("traddr", "localhost", 1).unwrap_err();
    assert!(error.message().starts_with("traddr 'localhost' is not allowed"), "{error}");
    assert!(Address::unix("path", "x".repeat(108)).is_err());
}

#[test]
fn a_name_is_looked_up_on_a_worker() {
    let host = FakeHost::new();
    let digits = run(&host, async { Address::resolve("192.0.2.1", 1).await });
    assert_eq!(digits, Ok(vec![Address::ip("", "192.0.2.1", 1).unwrap()]));
    let none = run(&host, async { Address::resolve("name.invalid", 1).await });
    assert!(none.is_err());
}

/// Inverts the bits of every byte, and sends nothing before it is flushed.
#[derive(Debug, Default)]
struct Mirror {
    held: Vec<u8>,
}

impl Layer for Mirror {
    fn read(
        &mut self,
        socket: &mut Socket,
        pieces: &mut [IoSliceMut<'_>],
    ) -> std::io::Result<usize> {
        let len = socket.read(pieces)?;
        for piece in pieces {
            piece.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(len)
    }
    fn write(&mut self, _: &mut Socket, pieces: &[IoSlice<'_>], _: bool) -> std::io::Result<usize> {
        let before = self.held.len();
        self.held.extend(pieces.iter().flat_map(|piece| piece.iter()).map(|byte| !byte));
        Ok(self.held.len() - before)
    }
    fn flush(&mut self, socket: &mut Socket) -> std::io::Result<bool> {
        let sent = socket.write(&[IoSlice::new(&self.held)], false)?;
        self.held.drain(..sent);
        Ok(self.held.is_empty())
    }
    fn has_input(&self) -> bool {
        false
    }
    fn end(&mut self, _: &mut Socket) {}
}

#[test]
fn a_layer_stands_between_user_and_wire() {
    let host = FakeHost::new();
    let (mut stream, mut peer) = pair(&host);
    stream.set_layer(Box::new(Mirror::default()));
    peer.write_all(&[!1, !2]).unwrap();
    let seen = run(&host, async move {
        let mut two = [0; 2];
        stream.read_exact(&mut two).await?;
        stream.write_all(&two).await?;
        Ok::<_, Error>((two, stream))
    });
    let (two, _stream) = seen.unwrap();
    let mut back = [0; 2];
    peer.read_exact(&mut back).unwrap();
    assert_eq!((two, back), ([1, 2], [!1, !2]));
}
