//! A connection that sends any bytes, for tests of how a target handles invalid ones.

use crate::Error;
use crate::wire::Wire;
use drivebay_spec_nvme_tcp::{CommonHeader, IcReq, IcResp, PduType, Role, TermReq};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest PDU that can be read, in bytes.
const MAX_PLEN: usize = 4 << 20;

/// A connection that knows nothing about the bytes on it.
#[derive(Debug)]
pub struct RawConnection {
    wire: Wire,
    timeout: Duration,
}

/// A PDU as received, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPdu {
    /// Its common header.
    pub header: CommonHeader,
    /// All its bytes, common header included.
    pub bytes: Vec<u8>,
}

impl RawPdu {
    /// The bytes as a terminate connection request of the controller; `None` if it is another PDU or too short.
    #[must_use]
    pub fn term_req(&self) -> Option<TermReq> {
        let bytes = self.bytes.first_chunk()?;
        (self.header.pdu_type == PduType::C2hTermReq as u8)
            .then(|| TermReq::parse(bytes, Role::Controller))
    }
}

impl RawConnection {
    /// Opens a connection. `timeout`: how long each method waits.
    ///
    /// # Errors
    /// The connection failed.
    pub fn connect(address: SocketAddr, timeout: Duration) -> Result<Self, Error> {
        Ok(Self { wire: Wire::connect(address, timeout)?, timeout })
    }

    /// Sets how long each method waits from now on.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection failed, or accepted no bytes for as long as the timeout.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.wire.out.extend_from_slice(bytes);
        self.wire.flush(Instant::now() + self.timeout)
    }

    /// Reads a PDU of any type.
    ///
    /// # Errors
    /// The connection failed or was closed, nothing arrived in time, or PLEN is below 8 or above 4 MiB.
    pub fn read_pdu(&mut self) -> Result<RawPdu, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut need = CommonHeader::LEN;
        loop {
            if let Some(common) = self.wire.input().first_chunk() {
                let header = CommonHeader::parse(common);
                need = usize::try_from(header.plen).unwrap_or(usize::MAX);
                if !(CommonHeader::LEN..=MAX_PLEN).contains(&need) {
                    return Err(Error::Unexpected(format!("a PDU claims to have {need} bytes")));
                }
                if let Some(bytes) = self.wire.input().get(..need) {
                    let bytes = bytes.to_vec();
                    self.wire.consume(need);
                    return Ok(RawPdu { header, bytes });
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { what: "a PDU" });
            }
            self.wire.step(need)?;
        }
    }

    /// Sends an ICReq and reads the ICResp.
    ///
    /// # Errors
    /// The connection failed, or something else arrived.
    pub fn initialize(&mut self, request: IcReq) -> Result<IcResp, Error> {
        let mut bytes = [0; IcReq::LEN];
        request.encode(&mut bytes);
        self.send(&bytes)?;
        let pdu = self.read_pdu()?;
        match pdu.bytes.first_chunk() {
            Some(bytes) if pdu.header.pdu_type == PduType::IcResp as u8 => {
                Ok(IcResp::parse(bytes, request.digests)?)
            }
            _ => Err(Error::Unexpected(format!(
                "ICResp was expected, PDU type {} arrived",
                pdu.header.pdu_type
            ))),
        }
    }

    /// Waits until the controller closes the connection, and returns whether it did within the timeout. Drops all bytes that
    /// it sends.
    ///
    /// # Errors
    /// The connection failed in another way.
    pub fn wait_closed(&mut self) -> Result<bool, Error> {
        let deadline = Instant::now() + self.timeout;
        while Instant::now() < deadline {
            self.wire.consume(usize::MAX);
            match self.wire.step(CommonHeader::LEN) {
                Ok(()) => {}
                Err(Error::Io(error))
                    if matches!(
                        error.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
