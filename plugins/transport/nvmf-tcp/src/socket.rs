//! A connection's socket: receives what has arrived, and sends as much as the socket takes, within limits.

use crate::connection::{Carrier, Connection, Inbox, PLACES, SLICES, Target};
use rustix::net::sockopt;
use std::cmp::Ordering;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;

/// The maximum number of writes of one connection in a round.
const WRITES: usize = 16;

/// A host that has sent nothing for this long has paused.
const PAUSE_NS: u64 = 1_000_000;

/// From this many sent bytes for each command on, copying takes most of the time.
const LARGE: usize = 16 << 10;

/// A host with fewer commands in flight waits for each of them.
const DEEP: usize = 8;

/// The longest pause.
const PAUSE_MAX_NS: u64 = 100_000;

/// A nonblocking socket that is watched edge-triggered, and its connection.
#[derive(Debug)]
pub(crate) struct Socket<R> {
    /// `None` once it is closed. The target may still have requests then.
    stream: Option<TcpStream>,
    pub(crate) connection: Connection<R>,
    readable: bool,
    writable: bool,
    /// Whether the peer has closed its side.
    half_closed: bool,
    /// The time of the last received bytes.
    received_ns: u64,
    /// The group does not check the socket before this time.
    look_ns: u64,
    /// How long the group does not check the socket after a burst.
    pause_ns: u64,
}

impl<R: Carrier> Socket<R> {
    pub(crate) fn new(stream: TcpStream, connection: Connection<R>) -> Self {
        Self {
            stream: Some(stream),
            connection,
            readable: true,
            writable: true,
            half_closed: false,
            received_ns: 0,
            look_ns: 0,
            pause_ns: 0,
        }
    }

    /// Makes the receive buffer larger, because the peer has connected. Before that it is small.
    pub(crate) fn widen(&self, room: Option<usize>) {
        if let (Some(stream), Some(room)) = (&self.stream, room)
            && let Err(error) = sockopt::set_socket_recv_buffer_size(stream, room)
        {
            tracing::debug!("a connection keeps its small receive buffer: {error}");
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Notes that the socket became readable or writable, or that the peer closed.
    pub(crate) fn changed(&mut self, readable: bool, writable: bool, closed: bool) {
        self.readable |= readable || closed;
        self.writable |= writable;
        self.half_closed |= closed;
    }

    /// Continues with the received bytes, then receives once, so that these bytes are answered before the next receive.
    /// Returns whether bytes arrived or were waiting.
    pub(crate) fn receive(
        &mut self,
        inbox: &mut Inbox,
        now_ns: u64,
        target: &mut impl Target<R>,
    ) -> bool {
        self.connection.begin_turn(inbox);
        self.connection.set_time(now_ns);
        let did = self.turn(now_ns, target);
        self.connection.end_turn(inbox);
        did
    }

    fn turn(&mut self, now_ns: u64, target: &mut impl Target<R>) -> bool {
        if self.half_closed && self.is_open() {
            // The host does not wait for answers any more, and may send these commands again on another connection. So
            // unread commands must not execute: docs/retries.md.
            self.connection.end();
            return true;
        }
        let did = self.connection.is_paused();
        if did || self.connection.is_stalled() || self.connection.is_starving() {
            self.connection.resume(target);
        }
        let Some(stream) = &mut self.stream else { return did };
        if now_ns < self.look_ns {
            return did;
        }
        if !self.readable || self.connection.is_paused() || !self.connection.can_receive() {
            return did;
        }
        let mut places = std::array::from_fn::<_, PLACES, _>(|_| IoSliceMut::new(&mut []));
        let filled = self.connection.receive_slices(target, &mut places);
        let places = places.get_mut(..filled).unwrap_or_default();
        let room: usize = places.iter().map(|place| place.len()).sum();
        let read = match places {
            [place] => stream.read(place),
            places => stream.read_vectored(places),
        };
        match read {
            Ok(0) => self.connection.end(),
            Ok(n) => {
                // A short read has emptied the socket. epoll reports later data again.
                self.readable = n == room;
                if now_ns.saturating_sub(self.received_ns) > PAUSE_NS {
                    self.connection.host_paused();
                    self.pause_ns = 0;
                }
                self.received_ns = now_ns;
                self.connection.received(n, target);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                self.connection.release_unused();
                return did;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.connection.release_unused()
            }
            Err(error) => {
                tracing::debug!("connection lost: {error}");
                self.connection.end();
            }
        }
        true
    }

    /// Sends as much of the output as the socket takes. Returns whether it took any.
    pub(crate) fn send(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let (mut did, mut sent) = (false, 0);
        for _ in 0..WRITES {
            if !self.writable || !self.connection.has_output() {
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let n = self.connection.send_slices(&mut slices);
            match stream.write_vectored(slices.get(..n).unwrap_or_default()) {
                Ok(n) => {
                    self.connection.sent(n);
                    sent += n;
                    did = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!("connection lost: {error}");
                    self.connection.end();
                }
            }
        }
        if did {
            self.pause(sent);
        }
        did
    }

    /// Stops checking the socket for a short time when all requested data was sent (`sent` bytes) and was large. The
    /// host is busy with this data. If half of its commands arrive at once, they need fewer packets and system calls
    /// than one after another.
    fn pause(&mut self, sent: usize) {
        let Some((taken, depth)) = self.connection.burst_over() else { return self.pause_ns = 0 };
        if taken == 0 || sent < taken * LARGE || depth < DEEP {
            return self.pause_ns = 0;
        }
        self.pause_ns = match taken.cmp(&(depth / 2)) {
            Ordering::Less => (self.pause_ns + self.pause_ns / 4 + 1000).min(PAUSE_MAX_NS),
            Ordering::Equal => self.pause_ns,
            Ordering::Greater => self.pause_ns - self.pause_ns / 4,
        };
        self.look_ns = self.received_ns + self.pause_ns;
    }

    /// Whether the next round has work without an event. `sent`: this round has sent something.
    pub(crate) fn has_work(&self, sent: bool) -> bool {
        self.is_open()
            && (self.readable && self.connection.can_receive()
                || self.writable && self.connection.has_output()
                || self.connection.is_paused()
                || sent && self.connection.is_stalled())
    }

    /// Gives all memory back. To close the socket, shut down and drop the returned stream. `None` if the socket was
    /// closed before.
    pub(crate) fn close(&mut self) -> Option<TcpStream> {
        let stream = self.stream.take()?;
        self.connection.end();
        Some(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::doubles::{Host, Keeper, LIMITS, Memo, POOL, in_capsule, pattern};
    use crate::connection::{Limits, Phase};
    use drivebay_spec_nvme::Status;
    use drivebay_spec_nvme_tcp::Digests;
    use std::net::{Shutdown, TcpListener};
    use std::time::{Duration, Instant};

    /// A target's socket, and the host's end of it.
    fn pair() -> (Socket<Memo>, Keeper, TcpStream) {
        pair_with(LIMITS)
    }

    fn pair_with(limits: Limits) -> (Socket<Memo>, Keeper, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        host.set_nodelay(true).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(limits);
        connection.connected(1, 128, true);
        (Socket::new(stream, connection), Keeper::new(), host)
    }

    /// Runs rounds until `done`, like a group.
    fn rounds(
        socket: &mut Socket<Memo>,
        keeper: &mut Keeper,
        mut done: impl FnMut(&Connection<Memo>, &mut Keeper) -> bool,
    ) {
        let (end, mut inbox) = (Instant::now() + Duration::from_secs(20), Inbox::new());
        while !done(&socket.connection, keeper) {
            assert!(Instant::now() < end, "no progress");
            socket.changed(true, true, false);
            socket.receive(&mut inbox, 0, keeper);
            socket.send();
        }
    }

    #[test]
    fn a_write_of_many_pieces_crosses_a_real_socket() {
        let (mut socket, mut keeper, mut host) = pair();
        let digests = Digests { header: true, data: true };
        let say = Host { digests };
        host.write_all(&say.ic_req(3)).unwrap();
        rounds(&mut socket, &mut keeper, |connection, _| connection.phase() == Phase::Open);
        let mut answer = [0; 128];
        rounds(&mut socket, &mut keeper, |connection, _| !connection.has_output());
        host.read_exact(&mut answer).unwrap();

        let data = pattern(60_000);
        host.write_all(&say.write(5, 60_000)).unwrap();
        let peer = std::thread::spawn(move || {
            let mut left = 60_000;
            while left > 0 {
                let mut r2t = [0; 28];
                host.read_exact(&mut r2t).unwrap();
                let (bytes, len) = say.answer_r2t(&r2t, &data);
                host.write_all(&bytes).unwrap();
                left -= len;
            }
            host
        });
        rounds(&mut socket, &mut keeper, |_, keeper| !keeper.lent.is_empty());
        assert_eq!(keeper.lent[0].bytes(), pattern(60_000));
        socket.connection.complete(keeper.answered(Status::SUCCESS));
        let mut host = peer.join().unwrap();
        rounds(&mut socket, &mut keeper, |connection, _| !connection.has_output());
        let mut response = [0; 28];
        host.read_exact(&mut response).unwrap();
        assert_eq!((response[0], keeper.pool.get()), (5, POOL));
    }

    #[test]
    fn a_peer_that_stops_reading_stops_the_answers_until_it_reads_again() {
        // This is more than the system buffers for a peer: 26 MB.
        const READS: usize = 400;
        let (mut socket, mut keeper, mut host) = pair();
        let say = Host { digests: Digests::default() };
        host.write_all(&say.ic_req(0)).unwrap();
        host.write_all(&say.read(1, 65_536).repeat(READS)).unwrap();
        let (mut answered, mut inbox) = (0, Inbox::new());
        let mut round = |socket: &mut Socket<Memo>, keeper: &mut Keeper| {
            socket.receive(&mut inbox, 0, keeper);
            while !keeper.lent.is_empty() {
                answered += 1;
                socket.connection.complete(keeper.answered(Status::SUCCESS));
            }
            let sent = socket.send();
            (socket.has_work(sent), answered)
        };

        let (mut has_work, mut answered) = (true, 0);
        while has_work || answered == 0 {
            socket.changed(answered == 0, false, false);
            (has_work, answered) = round(&mut socket, &mut keeper);
        }
        assert!(answered < READS, "the host was served on and on");
        assert!(socket.connection.has_output());

        let reader = std::thread::spawn(move || std::io::copy(&mut host, &mut std::io::sink()));
        let end = Instant::now() + Duration::from_secs(20);
        while answered < READS || socket.connection.has_output() {
            assert!(Instant::now() < end, "no progress");
            socket.changed(false, true, false);
            (_, answered) = round(&mut socket, &mut keeper);
        }
        drop(socket.close());
        let read = reader.join().unwrap().unwrap();
        let each = 24 + 65_536 + 24;
        assert_eq!(read, 128 + each * u64::try_from(READS).unwrap());
        assert_eq!(keeper.pool.get(), POOL);
    }

    #[test]
    fn a_host_that_is_busy_with_much_data_is_let_alone_until_half_of_its_commands_may_have_come() {
        const LEN: u32 = 16 << 10;
        let (mut socket, mut keeper, mut host) = pair_with(Limits { depth: 16, ..LIMITS });
        let (say, mut inbox) = (Host { digests: Digests::default() }, Inbox::new());
        host.write_all(&say.ic_req(0)).unwrap();
        rounds(&mut socket, &mut keeper, |connection, _| connection.phase() == Phase::Open);
        rounds(&mut socket, &mut keeper, |connection, _| !connection.has_output());
        let (mut ask, mut ask_in) = (host.try_clone().unwrap(), host.try_clone().unwrap());
        let reader = std::thread::spawn(move || std::io::copy(&mut host, &mut std::io::sink()));
        // Sends `count` more commands, then returns how many commands a round answers.
        let mut round = |now_ns: u64, count: usize| {
            ask.write_all(&say.read(1, LEN).repeat(count)).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            socket.changed(true, true, false);
            socket.receive(&mut inbox, now_ns, &mut keeper);
            let taken = keeper.lent.len();
            while !keeper.lent.is_empty() {
                socket.connection.complete(keeper.answered(Status::SUCCESS));
            }
            socket.send();
            assert!(!socket.connection.has_output());
            taken
        };
        assert_eq!(round(10_000, 4), 4);
        assert_eq!(round(10_001, 4), 4, "so few that each of them is waited for");
        assert_eq!(round(20_000, 8), 8);
        assert_eq!(round(20_001, 3), 3, "more than half has come at once");
        assert_eq!([round(20_002, 5), round(21_000, 0), round(21_001, 0)], [0, 0, 5]);
        assert_eq!([round(21_700, 1), round(21_750, 0), round(21_751, 0)], [0, 0, 1], "less again");
        assert_eq!([round(5_000_000, 1), round(5_000_001, 1)], [1, 1], "it had paused");
        // A capsule with data is as long as many commands, but it is one command.
        ask_in.write_all(&say.capsule(in_capsule(2, 0, 4096), &pattern(4096))).unwrap();
        assert_eq!([5_000_002, 5_000_003, 5_000_004].map(|now_ns| round(now_ns, 1)), [2, 1, 1]);
        drop(socket.close());
        drop((ask, ask_in));
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn commands_that_were_not_read_when_the_peer_had_closed_do_not_execute() {
        let (mut socket, mut keeper, mut host) = pair();
        let say = Host { digests: Digests::default() };
        host.write_all(&say.ic_req(0)).unwrap();
        rounds(&mut socket, &mut keeper, |connection, _| connection.phase() == Phase::Open);
        host.write_all(&say.read(1, 4096)).unwrap();
        drop(host);
        socket.changed(true, true, true);
        socket.receive(&mut Inbox::new(), 0, &mut keeper);
        assert!(keeper.lent.is_empty());
        assert_eq!(socket.connection.phase(), Phase::Ended);
    }

    #[test]
    fn a_half_open_socket_ends_when_the_peer_closes_its_side() {
        let (mut socket, mut keeper, mut host) = pair();
        let say = Host { digests: Digests::default() };
        host.write_all(&say.ic_req(0)).unwrap();
        host.write_all(&say.read(1, 4096)).unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        rounds(&mut socket, &mut keeper, |connection, _| connection.phase() == Phase::Ended);
        assert!(socket.close().is_some() && socket.close().is_none());
        while !keeper.lent.is_empty() {
            socket.connection.complete(keeper.answered(Status::SUCCESS));
        }
        assert_eq!(keeper.pool.get(), POOL);
    }
}
