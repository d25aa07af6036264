//! Listening sockets, and connections that log in or discover targets. Everything here is on the app thread.

use crate::group::socket::Socket;
use crate::login::{Context, Login, Progress, Registry};
use crate::model::Model;
use crate::node::Established;
use drivebay_sdk::throttle::Throttle;
use drivebay_sdk::{Error, Result, errno, thread};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Maximum number of connections that a portal accepts in one round.
const BURST: usize = 16;
/// Maximum number of connections that log in at once, including discovery sessions.
const LOGINS_MAX: usize = 1024;
/// Longest time of a login, in nanoseconds.
const LOGIN_NS: u64 = 30_000_000_000;
/// Longest silence of a discovery session, in nanoseconds.
const DISCOVERY_NS: u64 = 300_000_000_000;
/// Time without accepting after descriptors or memory have run out, in nanoseconds.
const REST_NS: u64 = 250_000_000;
/// Time between two checks of the deadlines, in nanoseconds.
const TICK_NS: u64 = 1_000_000_000;

/// Listening sockets and connections that have not moved to a target.
#[derive(Debug)]
pub(super) struct Doors {
    epoll: OwnedFd,
    listeners: Vec<Listener>,
    guests: Vec<Guest>,
    tick_ns: u64,
    /// The end of a pause in accepting, after descriptors or memory have run out.
    rests_until_ns: Option<u64>,
    /// Whether the log already reports that descriptors or memory have run out.
    is_exhausted: bool,
}

#[derive(Debug)]
struct Listener {
    pg_tag: i32,
    socket: TcpListener,
    is_open: bool,
}

/// A connection that logs in, or a discovery session.
#[derive(Debug)]
struct Guest {
    socket: Socket,
    login: Login,
    /// The connection is closed at this time, on the host's clock.
    deadline_ns: u64,
    /// Whether the connection ends once its outbox is sent.
    is_over: bool,
    /// The events that the epoll reports.
    watched: EventFlags,
}

/// A connection that has not moved to a target, as `iscsi_get_connections` shows it.
#[derive(Clone, Debug)]
pub struct GuestInfo {
    /// Its login phase.
    pub phase: &'static str,
    /// TSIH and CID, once it has a session.
    pub session: Option<(u16, u16)>,
    /// The initiator's address.
    pub peer: String,
    /// The target's address.
    pub local: String,
}

/// A connection that moves to its target.
pub(super) struct Move {
    pub(super) stream: TcpStream,
    pub(super) new: Box<Established>,
    pub(super) target: String,
    pub(super) replaced: Option<u16>,
}

impl Doors {
    pub(super) fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(std::io::Error::from)?;
        Ok(Self {
            epoll,
            listeners: Vec::new(),
            guests: Vec::new(),
            tick_ns: 0,
            rests_until_ns: None,
            is_exhausted: false,
        })
    }

    pub(super) fn wake_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// The next time at which a deadline must be checked or a pause ends, in nanoseconds of the host's clock.
    pub(super) fn next_ns(&self) -> u64 {
        let tick_ns = if self.guests.is_empty() { u64::MAX } else { self.tick_ns };
        tick_ns.min(self.rests_until_ns.unwrap_or(u64::MAX))
    }

    pub(super) fn listen(
        &mut self,
        pg_tag: i32,
        portals: &[SocketAddr],
        waits: bool,
    ) -> Result<()> {
        let mut opened = Vec::new();
        for address in portals {
            let socket = TcpListener::bind(address).map_err(|error| {
                let errno = error.raw_os_error().unwrap_or(errno::EIO);
                Error::new(errno, format!("listening on {address}: {error}"))
            })?;
            socket.set_nonblocking(true)?;
            opened.push(Listener { pg_tag, socket, is_open: !waits });
        }
        if !waits {
            opened.iter().try_for_each(|listener| self.watch(listener))?;
        }
        self.listeners.extend(opened);
        Ok(())
    }

    fn watch(&self, listener: &Listener) -> Result<()> {
        epoll::add(&self.epoll, &listener.socket, EventData::new_u64(0), EventFlags::IN)
            .map_err(|error| std::io::Error::from(error).into())
    }

    pub(super) fn open(&mut self, pg_tag: i32) {
        let mut listeners = std::mem::take(&mut self.listeners);
        for listener in listeners.iter_mut().filter(|one| one.pg_tag == pg_tag && !one.is_open) {
            listener.is_open = self.watch(listener).is_ok();
        }
        self.listeners = listeners;
    }

    pub(super) fn is_open(&self, pg_tag: i32) -> bool {
        self.listeners.iter().any(|listener| listener.pg_tag == pg_tag && listener.is_open)
    }

    pub(super) fn close(&mut self, pg_tag: i32, registry: &mut Registry) {
        self.listeners.retain(|listener| listener.pg_tag != pg_tag);
        self.guests.retain(|guest| {
            let stays = guest.login.pg_tag() != pg_tag;
            if !stays {
                guest.leave(registry);
            }
            stays
        });
    }

    pub(super) fn close_all(&mut self) {
        self.listeners.clear();
        self.guests.clear();
    }

    pub(super) fn guests(&self) -> Vec<GuestInfo> {
        let info = |guest: &Guest| GuestInfo {
            phase: guest.login.phase(),
            session: guest.login.session(),
            peer: guest.login.peer().ip().to_canonical().to_string(),
            local: guest.login.local().ip().to_canonical().to_string(),
        };
        self.guests.iter().map(info).collect()
    }

    pub(super) fn round(
        &mut self,
        model: &Model,
        registry: &mut Registry,
        moves: &mut Vec<Move>,
    ) -> bool {
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 1];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let has_events = epoll::wait(&self.epoll, &mut events, Some(&now))
            .is_ok_and(|(events, _)| !events.is_empty());
        let now_ns = thread::now_ns();
        let is_time = !self.guests.is_empty() && now_ns >= self.tick_ns;
        let is_rested = self.rests_until_ns.is_some_and(|until_ns| now_ns >= until_ns);
        if !has_events && !is_time && !is_rested {
            return false;
        }
        self.tick_ns = now_ns.saturating_add(TICK_NS);
        if is_rested {
            self.rests_until_ns = None;
            self.wake_by_listeners(true);
        }
        if self.rests_until_ns.is_none()
            && let Err(error) = self.accept(now_ns)
        {
            self.rest(&error, now_ns);
        }
        for guest in &mut self.guests {
            guest.socket.changed(true, true);
            guest.serve(model, registry, moves, &self.epoll, now_ns);
            guest.watch(&self.epoll);
        }
        self.guests.retain_mut(|guest| guest.stays(now_ns, registry));
        has_events
    }

    /// Pauses accepting. The listeners stay readable, so they must not wake the thread during the pause.
    fn rest(&mut self, error: &std::io::Error, now_ns: u64) {
        self.rests_until_ns = Some(now_ns.saturating_add(REST_NS));
        self.wake_by_listeners(false);
        if !std::mem::replace(&mut self.is_exhausted, true) {
            tracing::error!(
                "no connection can be accepted: {error}; initiators wait until descriptors are free or the limit is \
                 raised (ulimit -n, LimitNOFILE=)"
            );
        }
    }

    fn wake_by_listeners(&self, is_on: bool) {
        let flags = if is_on { EventFlags::IN } else { EventFlags::empty() };
        for listener in self.listeners.iter().filter(|listener| listener.is_open) {
            // This cannot fail, because the epoll watches the socket.
            let _ = epoll::modify(&self.epoll, &listener.socket, EventData::new_u64(0), flags);
        }
    }

    /// Accepts a few connections of each portal.
    ///
    /// # Errors
    /// The system's refusal when descriptors or memory have run out.
    fn accept(&mut self, now_ns: u64) -> std::io::Result<()> {
        static TOO_MANY: Throttle = Throttle::new();
        for listener in self.listeners.iter().filter(|listener| listener.is_open) {
            for _ in 0..BURST {
                let (stream, peer) = match listener.socket.accept() {
                    Ok(accepted) => accepted,
                    Err(error) if is_exhausted(&error) => return Err(error),
                    Err(_) => break,
                };
                self.is_exhausted = false;
                if self.guests.len() >= LOGINS_MAX {
                    if let Some(left_out) = TOO_MANY.admit() {
                        tracing::warn!(
                            "too many logins at once: the connection of {peer} is closed ({left_out} such lines left out)"
                        );
                    }
                    break;
                }
                let prepared = (|| {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&self.epoll, &stream, EventData::new_u64(1), EventFlags::IN)?;
                    stream.local_addr()
                })();
                let Ok(local) = prepared else { continue };
                self.guests.push(Guest {
                    login: Login::new(listener.pg_tag, local, peer),
                    socket: Socket::new(stream),
                    deadline_ns: now_ns.saturating_add(LOGIN_NS),
                    is_over: false,
                    watched: EventFlags::IN,
                });
            }
        }
        Ok(())
    }
}

fn is_exhausted(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

impl Guest {
    /// Sends what is left, then reads and answers while the peer takes the answers.
    fn serve(
        &mut self,
        model: &Model,
        registry: &mut Registry,
        moves: &mut Vec<Move>,
        epoll: &OwnedFd,
        now_ns: u64,
    ) {
        self.socket.send(self.login.outbox());
        if self.is_over || self.login.is_full() {
            return;
        }
        let len = self.socket.read(self.login.inbox());
        self.login.inbox().received(len);
        loop {
            self.work(model, registry, moves, epoll);
            let was_full = self.login.is_full();
            self.socket.send(self.login.outbox());
            if self.is_over || !was_full || self.login.is_full() {
                break;
            }
        }
        if len > 0 && self.login.is_discovery() {
            self.deadline_ns = now_ns.saturating_add(DISCOVERY_NS);
        }
    }

    fn work(
        &mut self,
        model: &Model,
        registry: &mut Registry,
        moves: &mut Vec<Move>,
        epoll: &OwnedFd,
    ) {
        let mut context = Context { model, registry };
        match self.login.work(&mut context) {
            Progress::Waits => {}
            Progress::Over => self.is_over = true,
            Progress::Ready(new, target, replaced) => {
                self.socket.send(self.login.outbox());
                self.is_over = true;
                let _ = epoll::delete(epoll, self.socket.stream());
                if let Ok(stream) = self.socket.stream().try_clone()
                    && self.login.outbox().is_empty()
                {
                    moves.push(Move { stream, new, target, replaced });
                } else {
                    registry.leave(new.session, new.cid);
                }
                self.login.forget_session();
            }
        }
    }

    /// Tells the epoll which events can make progress. It is level-triggered: any other event would wake the thread again and again.
    fn watch(&mut self, epoll: &OwnedFd) {
        let mut wanted = EventFlags::empty();
        if !self.is_over && !self.login.is_full() {
            wanted |= EventFlags::IN;
        }
        if !self.login.outbox().is_empty() {
            wanted |= EventFlags::OUT;
        }
        let stream = self.socket.stream();
        if wanted != self.watched
            && epoll::modify(epoll, stream, EventData::new_u64(1), wanted).is_ok()
        {
            self.watched = wanted;
        }
    }

    /// Whether the connection stays open. If not, its session ends.
    fn stays(&mut self, now_ns: u64, registry: &mut Registry) -> bool {
        let is_done = self.is_over && self.login.outbox().is_empty();
        let stays = !self.socket.is_broken() && now_ns < self.deadline_ns && !is_done;
        if !stays {
            self.leave(registry);
        }
        stays
    }

    fn leave(&self, registry: &mut Registry) {
        if let Some((tsih, cid)) = self.login.session() {
            registry.leave(tsih, cid);
        }
    }
}
