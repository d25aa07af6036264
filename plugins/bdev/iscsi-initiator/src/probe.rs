//! Logs in and asks the unit what it is: identity, size and limits. `[any lightweight thread]`

use std::time::Duration;

use drivebay_scsi::initiator::{self, Answer, Transfer, Unit};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::runtime::task;
use drivebay_spec_iscsi::{BHS_LEN, DIGEST_LEN, Header, pad_len};
use drivebay_spec_scsi::CDB_LEN;

use crate::disk::Place;
use crate::login::login;
use crate::session::{Done, Payload, Session};

/// Time limit of the questions when the operator sets none.
const LIMIT: Duration = Duration::from_secs(30);

/// Logs in, asks, and disconnects.
///
/// # Errors
/// The errors of [`login`] and [`initiator::probe`]; `ETIMEDOUT`.
pub(crate) async fn probe(place: &Place, isid: [u8; 6]) -> Result<Unit> {
    let (_, unit) = Talk::begin(place, isid).await?;
    Ok(unit)
}

/// Logs in for I/O, and checks that the unit is `expected`. Returns its current number of blocks too.
///
/// # Errors
/// As [`probe`]; `ENODEV` for another unit.
pub(crate) async fn connect<R: Payload>(
    place: &Place,
    isid: [u8; 6],
    expected: &Unit,
) -> Result<(Stream, Session<R>, u64)> {
    let (Talk { stream, session }, unit) = Talk::begin(place, isid).await?;
    if !expected.is_same(&unit) {
        let why = format!("{:?}: the unit is not the same as before", place.url);
        return Err(Error::new(errno::ENODEV, why));
    }
    Ok((stream, session.with_payload(), unit.num_blocks))
}

/// A session in which one command runs at a time.
struct Talk {
    stream: Stream,
    session: Session<Vec<u8>>,
}

impl Talk {
    /// Logs in, and asks the unit what it is.
    async fn begin(place: &Place, isid: [u8; 6]) -> Result<(Self, Unit)> {
        let (stream, session) = login(place, isid).await?;
        let mut talk = Self { stream, session };
        let asking = initiator::probe(async |cdb, len| talk.execute(cdb, len).await);
        let asked = task::timeout(place.timeout.unwrap_or(LIMIT), asking).await;
        let unit = asked.unwrap_or_else(|elapsed| Err(elapsed.into()))?;
        Ok((talk, unit))
    }

    /// Executes a command that reads at most `len` bytes.
    async fn execute(&mut self, cdb: [u8; CDB_LEN], len: u32) -> Result<Answer> {
        let memory = vec![0; usize::try_from(len).unwrap_or(0)];
        if self.session.submit(cdb, Transfer::In(len), memory).is_err() {
            return Err(Error::new(errno::EBUSY, "the target accepts no commands"));
        }
        loop {
            let bytes = self.session.output().to_vec();
            self.session.sent(bytes.len());
            self.stream.write_all(&bytes).await?;
            if let Some(Done { request: data, status, sense, .. }) = self.session.done() {
                return Ok(Answer { status, data, sense });
            }
            self.receive_pdu().await?;
        }
    }

    /// Reads one PDU with its digests.
    async fn receive_pdu(&mut self) -> Result<()> {
        let mut bhs = [0; BHS_LEN];
        self.stream.read_exact(&mut bhs).await?;
        let header = Header::parse(&bhs);
        let data_len = usize::try_from(header.data_len).unwrap_or(0);
        let (header_digest, data_digest) = self.session.digests();
        let mut left = usize::from(header.ahs_len) + data_len + pad_len(data_len);
        left += if header_digest { DIGEST_LEN } else { 0 };
        left += if data_digest && data_len > 0 { DIGEST_LEN } else { 0 };
        self.take(&bhs)?;
        let mut bytes = [0; 4096];
        while left > 0 {
            let len = left.min(bytes.len());
            let piece = bytes.get_mut(..len).unwrap_or_default();
            self.stream.read_exact(piece).await?;
            self.take(piece)?;
            left -= len;
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = self.session.room();
            let len = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(len);
            if let Some(place) = room.get_mut(..len) {
                place.copy_from_slice(now);
            }
            let taken = self.session.received(len);
            taken.map_err(|fault| Error::new(errno::EIO, fault.to_string()))?;
            bytes = later;
        }
        Ok(())
    }
}
