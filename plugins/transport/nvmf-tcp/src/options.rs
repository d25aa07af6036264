//! Options of `nvmf_create_transport -t TCP`, with SPDK's names.

use crate::connection::{Limits, SLOTS_MAX};
use crate::places::Places;
use drivebay_sdk::buf::Pool;
use drivebay_sdk::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;

/// Longest data of one H2CData PDU that a host may send, in bytes.
const H2C_DATA_LEN: u32 = 128 << 10;

/// How long a peer may acknowledge nothing of the sent data before its connection ends, in milliseconds. Until then the
/// peer may hold buffers that others wait for.
const PATIENCE_MS: u32 = 30_000;

/// The default limit of connections: for an address, a listener and a host. It is far more than one large host needs,
/// with 128 queues for each of several hundred controllers.
const CONNECTIONS_MAX: u32 = 65_536;

/// The maximum number of pieces of one command's data.
const PIECES_MAX: u32 = 128;

/// The options in force. They are serialized as `nvmf_get_transports` shows them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    trtype: String,
    /// Commands outstanding on a queue.
    max_queue_depth: u16,
    max_io_qpairs_per_ctrlr: u16,
    /// Longest in-capsule data of an I/O command, in bytes.
    in_capsule_data_size: u32,
    /// Longest data of a command, in bytes.
    max_io_size: u32,
    max_aq_depth: u16,
    iobuf_small_cache_size: u32,
    iobuf_large_cache_size: u32,
    dif_insert_or_strip: bool,
    zcopy: bool,
    /// Whether reads succeed without a response capsule, if the host permits it.
    c2h_success: bool,
    sock_priority: u32,
    abort_timeout_sec: u32,
    /// How long a peer may acknowledge nothing of the sent data, in milliseconds. 0 means [`PATIENCE_MS`].
    ack_timeout: u32,
    data_wr_pool_size: u32,
    disable_command_passthru: bool,
    kas: u16,
    min_kato: u32,
    /// The maximum number of connections from one address.
    max_connections_per_address: u32,
    /// The maximum number of connections of one listener.
    max_connections_per_listener: u32,
    /// The maximum number of queues of one host, by its name. The target counts them.
    max_connections_per_host: u32,
    /// Length of one piece of data, in bytes.
    #[serde(skip_serializing)]
    io_unit_size: u32,
    /// How often to check for new connections while the reactor does not sleep, in microseconds.
    #[serde(skip_serializing)]
    acceptor_poll_rate: u32,
    /// The maximum number of connections that wait to be accepted.
    #[serde(skip_serializing)]
    acceptor_backlog: i32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trtype: "TCP".into(),
            max_queue_depth: 128,
            max_io_qpairs_per_ctrlr: 127,
            in_capsule_data_size: 4096,
            max_io_size: 128 << 10,
            max_aq_depth: 128,
            iobuf_small_cache_size: u32::MAX,
            iobuf_large_cache_size: u32::MAX,
            dif_insert_or_strip: false,
            zcopy: false,
            c2h_success: true,
            sock_priority: 0,
            abort_timeout_sec: 1,
            ack_timeout: 0,
            data_wr_pool_size: 0,
            disable_command_passthru: false,
            kas: 100,
            min_kato: 10_000,
            max_connections_per_address: CONNECTIONS_MAX,
            max_connections_per_listener: CONNECTIONS_MAX,
            max_connections_per_host: CONNECTIONS_MAX,
            io_unit_size: 128 << 10,
            acceptor_poll_rate: 10_000,
            acceptor_backlog: 512,
        }
    }
}

/// Options of other fabrics, of the target, or of the host's pools. TCP does not use them.
const NOT_OURS: &[&str] = &[
    "tgt_name",
    "num_shared_buffers",
    "buf_cache_size",
    "control_msg_num",
    "num_cqe",
    "max_srq_depth",
    "no_srq",
    "no_wr_batching",
    "disable_mappable_bar0",
    "disable_adaptive_irq",
    "disable_shadow_doorbells",
    "masked_oncs",
    "masked_fuses",
    "association_timeout",
    "transport_specific",
];

impl Options {
    /// Reads the parameters of the call, as JSON text.
    ///
    /// # Errors
    /// `EINVAL` naming the option and what is allowed.
    pub(crate) fn parse(json: &str) -> Result<Self> {
        let refused = |error: serde_json::Error| Error::new(22, error.to_string());
        let json = if json.trim().is_empty() { "{}" } else { json };
        let mut given: serde_json::Map<String, Value> =
            serde_json::from_str(json).map_err(refused)?;
        given.retain(|name, value| !value.is_null() && !NOT_OURS.contains(&name.as_str()));
        let options: Self = serde_json::from_value(Value::Object(given)).map_err(refused)?;
        options.check()?;
        Ok(options)
    }

    fn check(&self) -> Result<()> {
        let range = |field, given: u32, least: u32, most: u32| {
            if (least..=most).contains(&given) {
                Ok(())
            } else {
                Err(Error::invalid(field, given, format_args!("{least} to {most}")))
            }
        };
        range("max_queue_depth", self.max_queue_depth.into(), 2, SLOTS_MAX.into())?;
        range("max_aq_depth", self.max_aq_depth.into(), 2, 4096)?;
        range("max_io_qpairs_per_ctrlr", self.max_io_qpairs_per_ctrlr.into(), 1, 65_535)?;
        range("max_connections_per_address", self.max_connections_per_address, 1, u32::MAX)?;
        range("max_connections_per_listener", self.max_connections_per_listener, 1, u32::MAX)?;
        range("max_connections_per_host", self.max_connections_per_host, 1, u32::MAX)?;
        range("max_io_size", self.max_io_size, 4096, 16 << 20)?;
        range("in_capsule_data_size", self.in_capsule_data_size, 0, self.max_io_size)?;
        range("io_unit_size", self.io_unit_size, 4096, 128 << 10)?;
        range("sock_priority", self.sock_priority, 0, 0)?;
        if !self.io_unit_size.is_multiple_of(4096) {
            return Err(Error::invalid("io_unit_size", self.io_unit_size, "multiples of 4096"));
        }
        if self.max_io_size.div_ceil(self.io_unit_size) > PIECES_MAX {
            let allowed = format!("up to {PIECES_MAX} times io_unit_size {}", self.io_unit_size);
            return Err(Error::invalid("max_io_size", self.max_io_size, allowed));
        }
        if self.dif_insert_or_strip {
            return Err(Error::invalid("dif_insert_or_strip", true, false));
        }
        Ok(())
    }

    /// Refuses sizes for which the host's pools can never have enough buffers, because such a command would wait
    /// forever. `pool_for` returns the pool for a buffer length.
    ///
    /// # Errors
    /// `EINVAL` naming the option, and what to change.
    pub(crate) fn check_pools(&self, pool_for: impl Fn(u32) -> Option<Pool>) -> Result<()> {
        let unit = self.io_unit_size;
        let Some(pool) = pool_for(unit) else {
            let allowed =
                "sizes up to iobuf_set_options large_bufsize: lower this one or raise that one";
            return Err(Error::invalid("io_unit_size", unit, allowed));
        };
        let needed = self.max_io_size.div_ceil(unit);
        if u64::from(needed) > pool.count {
            let name = if pool_for(1) == Some(pool) { "small" } else { "large" };
            let allowed = format!(
                "up to {} times io_unit_size {unit}, because a thread gets that many buffers of {} bytes: lower max_io_size or raise \
                 iobuf_set_options {name}_pool_count",
                pool.count, pool.size
            );
            return Err(Error::invalid("max_io_size", self.max_io_size, allowed));
        }
        Ok(())
    }

    pub(crate) fn places(&self) -> Arc<Places> {
        Places::new(self.max_connections_per_address, self.max_connections_per_listener)
    }

    pub(crate) fn acceptor_backlog(&self) -> i32 {
        self.acceptor_backlog.clamp(1, 4096)
    }

    pub(crate) fn patience_ms(&self) -> u32 {
        if self.ack_timeout == 0 { PATIENCE_MS } else { self.ack_timeout }
    }

    pub(crate) fn acceptor_poll_ns(&self) -> u64 {
        u64::from(self.acceptor_poll_rate) * 1000
    }

    /// The options that a group needs.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            limits: Limits {
                depth: self.max_queue_depth.max(self.max_aq_depth),
                in_capsule_len: self.in_capsule_data_size,
                io_len: self.max_io_size.max(crate::connection::ADMIN_CAPSULE_DATA),
                h2c_data_len: H2C_DATA_LEN,
                c2h_success: self.c2h_success,
            },
            piece_len: self.io_unit_size,
            receive_room: crate::listen::receive_room(),
        }
    }
}

/// The options that a group needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    /// Length of one piece of data, in bytes.
    pub(crate) piece_len: u32,
    /// Receive buffer of an I/O queue, in bytes. `None` leaves the size to the system.
    pub(crate) receive_room: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_options_the_references_defaults_are_in_force() {
        let options = Options::parse(r#"{"trtype":"TCP","max_io_size":null}"#).unwrap();
        let shown = serde_json::to_value(&options).unwrap();
        assert_eq!(shown["max_queue_depth"], 128);
        assert_eq!(shown["in_capsule_data_size"], 4096);
        assert_eq!(shown["c2h_success"], true);
        assert!(shown.get("io_unit_size").is_none());
    }

    #[test]
    fn an_option_that_cannot_be_had_is_refused_by_its_name() {
        for (json, name) in [
            (r#"{"max_io_qpairs_per_ctrlr":0}"#, "max_io_qpairs_per_ctrlr"),
            (r#"{"max_connections_per_address":0}"#, "max_connections_per_address"),
            (r#"{"dif_insert_or_strip":true}"#, "dif_insert_or_strip"),
            (r#"{"max_queue_depth":1}"#, "max_queue_depth"),
            (r#"{"sock_priority":3}"#, "sock_priority"),
            (r#"{"in_capsule_data_size":200000}"#, "in_capsule_data_size"),
            (r#"{"io_unit_size":5000}"#, "io_unit_size"),
            (r#"{"max_io_size":1048576,"io_unit_size":4096}"#, "max_io_size"),
            (r#"{"bogus":1}"#, "bogus"),
        ] {
            let error = Options::parse(json).unwrap_err();
            assert_eq!(error.errno(), 22);
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn a_command_for_which_the_pools_can_never_have_the_buffers_is_refused_with_what_to_change() {
        let pools = |small, large| {
            move |len| {
                let pools =
                    [Pool { size: 8192, count: small }, Pool { size: 135_168, count: large }];
                pools.into_iter().find(|pool| len <= pool.size)
            }
        };
        let large = Options::parse(r#"{"max_io_size":1048576}"#).unwrap();
        large.check_pools(pools(1, 8)).unwrap();
        let error = large.check_pools(pools(8192, 7)).unwrap_err();
        assert_eq!(error.errno(), 22);
        assert!(error.message().contains("max_io_size"), "{error}");
        assert!(error.message().contains("large_pool_count"), "{error}");
        let small = Options::parse(r#"{"io_unit_size":8192}"#).unwrap();
        small.check_pools(pools(16, 1)).unwrap();
        let error = small.check_pools(pools(15, 1024)).unwrap_err();
        assert!(error.message().contains("small_pool_count"), "{error}");
        let error = large.check_pools(|_| None).unwrap_err();
        assert!(error.message().contains("large_bufsize"), "{error}");
    }

    #[test]
    fn zero_copy_is_taken_since_guides_ask_for_it() {
        assert!(Options::parse(r#"{"zcopy":true}"#).unwrap().zcopy);
    }

    #[test]
    fn as_many_io_queues_as_there_are_numbers_for_are_taken() {
        let options = Options::parse(r#"{"max_io_qpairs_per_ctrlr":65535}"#).unwrap();
        assert_eq!(options.max_io_qpairs_per_ctrlr, 65_535);
    }

    #[test]
    fn options_of_other_fabrics_are_accepted_as_the_reference_does() {
        let json = r#"{"no_srq":true,"num_cqe":4096,"buf_cache_size":32,"control_msg_num":8}"#;
        assert!(Options::parse(json).is_ok());
    }
}
