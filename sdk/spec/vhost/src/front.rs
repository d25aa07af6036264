//! The front end's side: encodes requests and parses answers.

use crate::bytes::Reader;
use crate::message::{Config, MemoryRegion, Request, RingFd, RingState};

/// Bit of the number that says that no descriptor comes with the message.
const NO_FD: u64 = 0x100;

impl Request {
    /// Returns number and payload of the request. Its descriptors are sent beside the payload (`SCM_RIGHTS`).
    #[must_use]
    pub fn to_bytes(&self) -> (u32, Vec<u8>) {
        match self {
            Self::GetFeatures => (1, Vec::new()),
            Self::SetFeatures(features) => (2, number(*features)),
            Self::SetOwner => (3, Vec::new()),
            Self::ResetOwner => (4, Vec::new()),
            Self::SetMemTable(regions) => (5, memory_table(regions)),
            Self::SetLogBase(len, offset) => (6, numbers(&[*len, *offset])),
            Self::SetLogFd => (7, Vec::new()),
            Self::SetVringNum(state) => (8, ring_state(*state)),
            Self::SetVringAddr(ring) => {
                let mut bytes = [ring.index, ring.flags].map(u32::to_le_bytes).concat();
                bytes.extend(numbers(&[ring.descriptors, ring.used, ring.available, ring.log]));
                (9, bytes)
            }
            Self::SetVringBase(state) => (10, ring_state(*state)),
            Self::GetVringBase(state) => (11, ring_state(*state)),
            Self::SetVringKick(ring) => (12, ring_fd(*ring)),
            Self::SetVringCall(ring) => (13, ring_fd(*ring)),
            Self::SetVringErr(ring) => (14, ring_fd(*ring)),
            Self::GetProtocolFeatures => (15, Vec::new()),
            Self::SetProtocolFeatures(features) => (16, number(*features)),
            Self::GetQueueNum => (17, Vec::new()),
            Self::SetVringEnable(state) => (18, ring_state(*state)),
            Self::SetBackendReqFd => (21, Vec::new()),
            Self::GetConfig(config) => (24, config_bytes(config)),
            Self::SetConfig(config) => (25, config_bytes(config)),
            Self::GetInflightFd(inflight) => (31, crate::message::reply::inflight(inflight)),
            Self::SetInflightFd(inflight) => (32, crate::message::reply::inflight(inflight)),
            Self::ResetDevice => (34, Vec::new()),
            Self::GetMaxMemSlots => (36, Vec::new()),
            Self::AddMemReg(region) => (37, one_region(region)),
            Self::RemMemReg(region) => (38, one_region(region)),
            Self::SetStatus(status) => (39, number(*status)),
            Self::GetStatus => (40, Vec::new()),
        }
    }
}

fn number(number: u64) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn ring_state(state: RingState) -> Vec<u8> {
    crate::message::reply::ring_state(state)
}

fn ring_fd(ring: RingFd) -> Vec<u8> {
    number(u64::from(ring.index) | if ring.has_fd { 0 } else { NO_FD })
}

fn config_bytes(config: &Config) -> Vec<u8> {
    crate::message::reply::config(config)
}

fn region(region: &MemoryRegion) -> Vec<u8> {
    numbers(&[region.guest_addr, region.len, region.user_addr, region.mmap_offset])
}

fn one_region(part: &MemoryRegion) -> Vec<u8> {
    [vec![0; 8], region(part)].concat()
}

fn memory_table(regions: &[MemoryRegion]) -> Vec<u8> {
    let count = u32::try_from(regions.len()).unwrap_or(u32::MAX);
    let mut bytes = [count, 0].map(u32::to_le_bytes).concat();
    bytes.extend(regions.iter().flat_map(region));
    bytes
}

/// The payloads of answers. `None` when a payload is too short or too long.
pub mod answer {
    use super::Reader;

    /// A number: features, numbers of queues, or the result that `REPLY_ACK` wants (0 = done).
    #[must_use]
    pub fn number(payload: &[u8]) -> Option<u64> {
        payload.try_into().map(u64::from_le_bytes).ok()
    }

    /// The requested bytes of the configuration space; empty when the back end refuses the request.
    #[must_use]
    pub fn config(payload: &[u8]) -> Option<Vec<u8>> {
        let mut r = Reader(payload);
        let (_offset, len, _flags) = (r.u32()?, r.u32()?, r.u32()?);
        // Some back ends refuse with no bytes, but repeat the length of the request.
        (r.0.is_empty() || r.0.len() == len as usize).then(|| r.0.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Inflight, RingAddresses};

    #[test]
    fn every_request_is_read_as_it_was_written() {
        let part = MemoryRegion { guest_addr: 1 << 32, len: 4096, user_addr: 9, mmap_offset: 8192 };
        let state = RingState { index: 3, num: 512 };
        let (with, without) =
            (RingFd { index: 7, has_fd: true }, RingFd { index: 7, has_fd: false });
        let config = Config { offset: 0, flags: 0, bytes: vec![1, 2, 3] };
        let inflight = Inflight { mmap_size: 4096, mmap_offset: 0, num_queues: 2, queue_size: 64 };
        let addresses =
            RingAddresses { index: 1, flags: 1, descriptors: 2, used: 3, available: 4, log: 5 };
        for request in [
            Request::GetFeatures,
            Request::SetFeatures(1 << 34),
            Request::SetOwner,
            Request::ResetOwner,
            Request::SetMemTable(vec![part, part]),
            Request::SetLogBase(4096, 8),
            Request::SetLogFd,
            Request::SetVringNum(state),
            Request::SetVringAddr(addresses),
            Request::SetVringBase(state),
            Request::GetVringBase(state),
            Request::SetVringKick(with),
            Request::SetVringCall(without),
            Request::SetVringErr(with),
            Request::GetProtocolFeatures,
            Request::SetProtocolFeatures(9),
            Request::GetQueueNum,
            Request::SetVringEnable(state),
            Request::SetBackendReqFd,
            Request::GetConfig(config.clone()),
            Request::SetConfig(config),
            Request::GetInflightFd(inflight),
            Request::SetInflightFd(inflight),
            Request::ResetDevice,
            Request::GetMaxMemSlots,
            Request::AddMemReg(part),
            Request::RemMemReg(part),
            Request::SetStatus(1),
            Request::GetStatus,
        ] {
            let (number, payload) = request.to_bytes();
            assert_eq!(Request::parse(number, &payload), Ok(request));
        }
    }

    #[test]
    fn answers_of_a_wrong_length_are_refused() {
        assert_eq!(answer::number(&7_u64.to_le_bytes()), Some(7));
        assert_eq!(answer::number(&[0; 7]), None);
        assert_eq!(answer::number(&[0; 9]), None);
        let config = [0_u32, 2, 0].map(u32::to_le_bytes).concat();
        assert_eq!(answer::config(&[&config[..], &[5, 6]].concat()), Some(vec![5, 6]));
        assert_eq!(answer::config(&[&config[..], &[5]].concat()), None);
        assert_eq!(answer::config(&config), Some(Vec::new()));
        assert_eq!(answer::config(&config[..11]), None);
    }
}
