//! Connect commands. A Connect may wait until earlier requests of its host have ended; then it is admitted or refused.

use super::hosts::Owner;
use super::{AppState, ConnectedQueue};
use crate::controller::connect::{self, Admitted, Attempt, Refused};
use crate::controller::io_counts::IoCounts;
use crate::group::ConnectRequest;
use drivebay_sdk::thread;
use drivebay_sdk::throttle::Throttle;
use drivebay_spec_nvme::Status;
use drivebay_spec_nvme::fabrics::{Connect, ConnectData};
use std::sync::Arc;

/// How long a Connect waits for requests of its host's ended queues, in nanoseconds. Linux gives up a Connect after 60 s.
const DRAIN_WAIT_NS: u64 = 15_000_000_000;

/// A waiting Connect.
#[derive(Debug)]
pub(super) struct Waiting {
    request: ConnectRequest,
    deadline_ns: u64,
}

/// The fields of a Connect.
struct Claims {
    connect: Connect,
    data: ConnectData,
}

impl Claims {
    fn parse(request: &ConnectRequest) -> Result<Self, Refused> {
        let wrong = Refused::for_now(Status::DATA_SGL_LENGTH_INVALID, "its data is too short");
        let data: &[u8; ConnectData::LEN] =
            request.data.as_slice().try_into().map_err(|_| wrong)?;
        let connect = Connect::from_command(&request.command);
        Ok(Self { connect, data: ConnectData::parse(data) })
    }

    fn subnqn(&self) -> &str {
        self.data.subnqn.as_str().unwrap_or_default()
    }

    fn hostnqn(&self) -> &str {
        self.data.hostnqn.as_str().unwrap_or_default()
    }

    /// The owners of requests that must have ended before the Connect is admitted.
    fn owners(&self) -> Vec<Owner> {
        match self.connect.qid {
            0 => vec![Owner::Name(self.hostnqn().to_owned()), Owner::Id(self.data.hostid)],
            _ => vec![Owner::Controller(self.data.cntlid)],
        }
    }
}

impl AppState {
    /// Handles a Connect command.
    pub(crate) fn connect(&self, request: ConnectRequest) {
        let claims = match Claims::parse(&request) {
            Ok(claims) => claims,
            Err(refused) => return self.refuse(&request, refused),
        };
        // Wait for a round of the poll groups first. The host may just have closed the connections of its last controller, and their ends
        // may still be in the sockets.
        let groups = match claims.connect.qid {
            0 => self.hosts.borrow().live_groups(claims.subnqn(), &claims.owners()),
            _ => Vec::new(),
        };
        let deadline_ns = thread::now_ns().saturating_add(DRAIN_WAIT_NS);
        self.after_rounds(&groups, move |app| app.admit(Waiting { request, deadline_ns }));
    }

    /// Admits a queue, or lets its Connect wait while requests of the host's ended queues may still execute.
    pub(super) fn admit(&self, waiting: Waiting) {
        let request = &waiting.request;
        let outcome = Claims::parse(request).and_then(|claims| {
            let draining = self.hosts.borrow().find_draining(claims.subnqn(), &claims.owners());
            match draining {
                Some(owner) => Ok(Some((claims.subnqn().to_owned(), owner))),
                None => self.try_connect(request, &claims).map(|admitted| {
                    self.welcome(request, admitted);
                    None
                }),
            }
        });
        match outcome {
            Ok(Some((nqn, owner))) => {
                self.hosts.borrow_mut().wait(&nqn, owner, waiting);
                self.watch_time();
            }
            Ok(None) => {}
            Err(refused) => self.refuse(request, refused),
        }
    }

    /// Refuses the Connects that have waited too long.
    pub(super) fn refuse_overdue(&self, now_ns: u64) -> bool {
        let overdue = self.hosts.borrow_mut().take_overdue(|waiting| waiting.deadline_ns <= now_ns);
        for waiting in &overdue {
            let busy = Refused::for_now(
                Status::CONNECT_CONTROLLER_BUSY,
                "requests of the host's last controller are still executing",
            );
            self.refuse(&waiting.request, busy);
        }
        if !overdue.is_empty() {
            self.watch_time();
        }
        !overdue.is_empty()
    }

    fn try_connect(
        &self,
        request: &ConnectRequest,
        claims: &Claims,
    ) -> Result<(Admitted, u32), Refused> {
        let gone = Refused::for_now(Status::COMMAND_SEQUENCE_ERROR, "the connection is ending");
        let id = request.ticket.queue;
        let mut queues = self.queues.borrow_mut();
        let connection = queues.get_mut(&id).ok_or(gone)?;
        if connection.is_ending {
            return Err(gone);
        }
        let transports = self.transports.borrow();
        let entry = transports.values().find(|entry| entry.transport.id() == request.transport_id);
        let limits = &entry.ok_or(gone)?.limits;
        let mut hosts = self.hosts.borrow_mut();
        if hosts.count(claims.hostnqn()) >= limits.max_connections_per_host as usize {
            let status = Status::CONNECT_CONTROLLER_BUSY;
            return Err(Refused::for_now(status, "max_connections_per_host is reached"));
        }
        let attempt = Attempt {
            connect: claims.connect,
            data: &claims.data,
            queue: id,
            local: &request.local,
            limits,
            now_ns: thread::now_ns(),
        };
        let admitted = connect::connect(&mut self.model.borrow_mut(), &attempt)?;
        let queue = ConnectedQueue {
            nqn: admitted.nqn.clone(),
            cntlid: admitted.cntlid,
            qid: admitted.qid,
            hostnqn: claims.hostnqn().to_owned(),
            hostid: claims.data.hostid,
            local: request.local.clone(),
            peer: request.peer.clone(),
        };
        hosts.add(id, &queue);
        connection.queue = Some(queue);
        Ok((admitted, limits.max_io_size))
    }

    fn welcome(&self, request: &ConnectRequest, (admitted, max_io_size): (Admitted, u32)) {
        let counts = self.counts_of(&admitted);
        let ticket = request.ticket;
        self.in_group(ticket.queue.group, move |group| {
            group.admit(ticket, &admitted, counts, max_io_size);
        });
        self.watch_time();
    }

    /// The counters of an admitted queue.
    fn counts_of(&self, admitted: &Admitted) -> Arc<IoCounts> {
        let mut model = self.model.borrow_mut();
        let subsystem = model.subsystems.get_mut(&admitted.nqn);
        let controller = subsystem.and_then(|s| s.controllers.get_mut(&admitted.cntlid));
        controller.map(|controller| controller.io_counts_of(admitted.qid)).unwrap_or_default()
    }

    fn refuse(&self, request: &ConnectRequest, refused: Refused) {
        static REFUSED: Throttle = Throttle::new();
        let Refused { status, dw0, why } = refused;
        if let Some(left_out) = REFUSED.admit() {
            let claims = Claims::parse(request).ok();
            // Peers choose the names, so control characters are escaped.
            let shown = |name: fn(&Claims) -> &str| {
                let name = claims.as_ref().map(name).unwrap_or_default();
                name.escape_debug().to_string()
            };
            tracing::warn!(
                "host {} at {} was refused by subsystem {}: {why} (status {status}; {left_out} such lines left out)",
                shown(Claims::hostnqn),
                request.peer.traddr,
                shown(Claims::subnqn),
            );
        }
        let ticket = request.ticket;
        self.in_group(ticket.queue.group, move |group| group.refuse(ticket, status, dw0));
    }

    /// Continues Connects that waited for a queue to drain.
    pub(super) fn admit_freed(&self, freed: Vec<Waiting>) {
        for waiting in freed {
            self.admit(waiting);
        }
    }
}
