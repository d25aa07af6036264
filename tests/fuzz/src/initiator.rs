//! The initiator's queue pair with any input from a target.
//!
//! A script says which digests are on, then has steps. A step submits a read or a write, sends, or receives the bytes that follow.
//! The queue pair must return each request once, and must touch the request's memory only within its length.

use crate::script::Script;
use drivebay_nvme_driver::qpair::{Agreed, Payload, Qpair, Segment, Transfer};
use drivebay_spec_nvme::Command;
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme_tcp::{Alignment, Digests, IcResp};

/// Commands outstanding at once.
const DEPTH: u16 = 4;

struct Memory {
    name: usize,
    bytes: Vec<u8>,
}

impl Payload for Memory {
    fn put(&mut self, offset: u32, bytes: &[u8]) {
        let offset = offset as usize;
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn look(&self, offset: u32, len: u32, see: &mut dyn FnMut(&[u8])) {
        see(&self.bytes[offset as usize..][..len as usize]);
    }
}

pub(crate) fn script(bytes: &[u8]) {
    let mut script = Script(bytes);
    let bits = script.number();
    let digests = Digests { header: bits & 1 != 0, data: bits & 2 != 0 };
    let ic = IcResp { pfv: 0, cpda: Alignment::DWORD, digests, maxh2cdata: 4096 };
    let mut qpair =
        Qpair::new(Agreed { ic, hpda: Alignment::DWORD, depth: DEPTH, in_capsule_len: 512 });
    let mut out = Vec::new();
    let mut is_over = false;
    while let Some(step) = script.byte() {
        match step % 4 {
            0 | 1 => {
                let len = (u32::from(script.number()) + 1) * 64;
                let (opcode, transfer) = match step % 4 {
                    0 => (nvm::READ, Transfer::In(len)),
                    _ => (nvm::WRITE, Transfer::Out(len)),
                };
                let memory = Memory { name: out.len(), bytes: vec![7; len as usize] };
                if qpair.submit(&Command::new(opcode), transfer, memory).is_ok() {
                    out.push(false);
                }
            }
            2 => {
                let mut len = 0;
                qpair.output(|segment| {
                    match segment {
                        Segment::Bytes(bytes) => len += bytes.len(),
                        Segment::Data { request, offset, len: data_len } => {
                            request.look(offset, data_len, &mut |data| len += data.len());
                        }
                    }
                    true
                });
                qpair.sent(len.min(usize::from(script.number()) * 64));
            }
            _ => {
                let len = usize::from(script.number()) + 1;
                let bytes = script.bytes(len);
                qpair.inbox()[..bytes.len()].copy_from_slice(bytes);
                let result = qpair.received(bytes.len());
                assert!(!is_over || result.is_err(), "a closed connection accepted more");
                is_over |= result.is_err();
            }
        }
        while let Some(done) = qpair.completed() {
            assert!(done.received as usize <= done.request.bytes.len());
            let was_out = std::mem::replace(&mut out[done.request.name], true);
            assert!(!was_out, "a request came back twice");
        }
    }
    let outstanding = qpair.outstanding();
    let rest = qpair.into_outstanding().count();
    assert_eq!(rest, outstanding);
    assert_eq!(rest, out.iter().filter(|was_out| !**was_out).count());
}
