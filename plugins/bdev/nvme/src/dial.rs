//! Connects one queue: the socket, ICReq and ICResp, the Connect command. `[any lightweight thread]`

use std::time::Duration;

use drivebay_nvme_driver::handshake::{Handshake, Step, Wanted};
use drivebay_nvme_driver::qpair::Agreed;
use drivebay_nvme_driver::spec::fabrics::{Connect, ConnectData};
use drivebay_nvme_driver::spec::text::NulText;
use drivebay_nvme_driver::tcp::Digests;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::{self, Address, Stream};
use drivebay_sdk::runtime::task;

/// Maximum number of bytes read at once during a handshake: a header and what may follow it.
const PDU_LEN_MAX: usize = 256;

/// Where a controller is, and who connects.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) options: net::Options,
    pub(crate) subnqn: String,
    pub(crate) hostnqn: String,
    pub(crate) hostid: [u8; 16],
    pub(crate) digests: Digests,
    /// How long connecting a queue may take.
    pub(crate) limit: Duration,
}

/// A queue that is connected.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: Stream,
    pub(crate) agreed: Agreed,
    pub(crate) cntlid: u16,
}

impl Target {
    /// Connects a queue to the controller `cntlid`.
    pub(crate) async fn dial(&self, connect: Connect, cntlid: u16) -> Result<Dialed> {
        let name = |text: &str| {
            NulText::new(text)
                .ok_or_else(|| Error::invalid("NQN", format!("'{text}'"), "at most 223 bytes"))
        };
        let data = ConnectData {
            hostid: self.hostid,
            cntlid,
            subnqn: name(&self.subnqn)?,
            hostnqn: name(&self.hostnqn)?,
        };
        let wanted = Wanted { digests: self.digests, connect, data };
        let dialing = async {
            let stream = net::connect(&self.address, &self.options, self.limit).await?;
            shake_hands(stream, wanted).await
        };
        let timed = task::timeout(self.limit, dialing).await;
        timed.unwrap_or_else(|elapsed| Err(elapsed.into())).map_err(|error| {
            let message = format!("{} queue {}: {}", self.address, connect.qid, error.message());
            Error::new(error.errno(), message)
        })
    }
}

async fn shake_hands(mut stream: Stream, wanted: Wanted) -> Result<Dialed> {
    let (mut handshake, hello) = Handshake::begin(wanted);
    stream.write_all(&hello).await?;
    let mut bytes = [0; PDU_LEN_MAX];
    loop {
        let need = handshake.need();
        let place = bytes.get_mut(..need).ok_or_else(|| {
            Error::new(
                errno::EIO,
                format!("the target sent a PDU with {need} bytes that were not asked for"),
            )
        })?;
        stream.read_exact(place).await?;
        let step = handshake.received(place);
        match step.map_err(|refusal| Error::new(errno::EIO, refusal.to_string()))? {
            Step::Read => {}
            Step::Send(bytes) => stream.write_all(&bytes).await?,
            Step::Connected { agreed, cntlid } => return Ok(Dialed { stream, agreed, cntlid }),
        }
    }
}
