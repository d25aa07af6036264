//! The setup of most tests: a host with a subsystem and a listener on loopback.

use crate::host::Host;
use drivebay_nvme_driver::{Controller, Error, Namespace, Options, Queue};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;

/// The subsystem of [`Target`].
pub(crate) const NQN: &str = "nqn.2026-01.io.drivebay:test";
/// Blocks of each namespace of [`Target`], and their size in bytes.
pub(crate) const BLOCKS: u64 = 32_768;
pub(crate) const BLOCK: usize = 512;
pub(crate) const BLOCK_LEN: u32 = 512;

/// A host with the subsystem [`NQN`], two RAM disks as its namespaces 1 (`m1`) and 2 (`m2`), and a listener.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: Host,
    pub(crate) address: SocketAddr,
}

impl Deref for Target {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Target {
    pub(crate) fn start() -> Self {
        Self::with(&[], json!({}))
    }

    /// Starts the host with these flags and options of the transport.
    pub(crate) fn with(flags: &[&str], mut transport: Value) -> Self {
        let host = Host::start(flags);
        transport["trtype"] = "TCP".into();
        host.call("nvmf_create_transport", transport);
        host.add_subsystem(NQN);
        for name in ["m1", "m2"] {
            host.add_disk(name);
            host.add_namespace(NQN, name);
        }
        let address = host.listen(NQN, Ipv4Addr::LOCALHOST.into());
        Self { host, address }
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.address, NQN)
    }

    pub(crate) fn connect(&self) -> Controller {
        Controller::connect(self.options()).unwrap()
    }

    /// A controller, its I/O queue 1 with 128 entries, and namespace 1.
    pub(crate) fn connect_io(&self) -> (Controller, Queue, Namespace) {
        self.connect_io_with(self.options()).unwrap()
    }

    pub(crate) fn connect_io_with(
        &self,
        options: Options,
    ) -> Result<(Controller, Queue, Namespace), Error> {
        let mut controller = Controller::connect(options)?;
        let queue = controller.io_queue(1, 128)?;
        let namespace = controller.namespace(1)?;
        Ok((controller, queue, namespace))
    }

    /// The host names of all controllers.
    pub(crate) fn controllers(&self) -> Vec<Value> {
        let found = self.call("nvmf_subsystem_get_controllers", json!({"nqn": NQN}));
        found.as_array().unwrap().clone()
    }
}

impl Host {
    pub(crate) fn add_disk(&self, name: &str) {
        let disk = json!({"name": name, "num_blocks": BLOCKS, "block_size": BLOCK});
        self.call("bdev_malloc_create", disk);
    }

    pub(crate) fn add_subsystem(&self, nqn: &str) {
        self.call("nvmf_create_subsystem", json!({"nqn": nqn, "allow_any_host": true}));
    }

    /// Adds a bdev as a namespace. Returns its number.
    pub(crate) fn add_namespace(&self, nqn: &str, bdev: &str) -> u32 {
        let params = json!({"nqn": nqn, "namespace": {"bdev_name": bdev}});
        let nsid = self.call("nvmf_subsystem_add_ns", params).as_u64().unwrap();
        u32::try_from(nsid).unwrap()
    }

    /// Adds a listener at a free port.
    pub(crate) fn listen(&self, nqn: &str, ip: IpAddr) -> SocketAddr {
        for _ in 0..20 {
            let address = free_port(ip);
            let params = json!({"nqn": nqn, "listen_address": listen_address(address)});
            match self.try_call("nvmf_subsystem_add_listener", params) {
                Ok(_) => return address,
                Err(refused) if refused.message.contains("in use") => {}
                Err(refused) => panic!("{refused:?}"),
            }
        }
        panic!("no port stays free");
    }
}

/// A port without a listener at the moment.
pub(crate) fn free_port(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

pub(crate) fn listen_address(address: SocketAddr) -> Value {
    json!({
        "trtype": "TCP",
        "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "traddr": address.ip().to_string(),
        "trsvcid": address.port().to_string(),
    })
}

/// Data that depends on place and generation: no two places or generations have the same data.
pub(crate) fn pattern(slba: u64, generation: u64, blocks: usize) -> Vec<u8> {
    let mut data = vec![0; blocks * BLOCK];
    let mut state = slba.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.rotate_left(32) ^ 1;
    for chunk in data.chunks_exact_mut(8) {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    data
}
