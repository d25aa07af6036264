//! Requests to a namespace. NVM Command Set 1.0, section 3.2.

use crate::{Data, Error, Request};
use drivebay_spec_nvme::nvm::{BlockCommand, DatasetManagement, DsmRange};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::{Command, identify};

/// The properties of a namespace that requests need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its identifier.
    pub nsid: u32,
    /// Size of a logical block, in bytes.
    pub block_size: u32,
    /// Size, in blocks.
    pub num_blocks: u64,
}

impl Namespace {
    /// Creates it from the data of [`identify::Namespace`].
    ///
    /// # Errors
    /// The format in use is not available, or has metadata.
    pub fn new(nsid: u32, data: &identify::Namespace) -> Result<Self, Error> {
        let metadata = data.lbaf.get(data.format_index()).is_some_and(|format| format.ms > 0);
        match data.block_size() {
            Some(block_size) if !metadata => Ok(Self { nsid, block_size, num_blocks: data.nsze }),
            _ => Err(Error::Unexpected(format!(
                "namespace {nsid}: its format is not available or has metadata, which is not supported"
            ))),
        }
    }

    /// Reads `blocks` (1 to 65536) from `slba` on.
    ///
    /// # Errors
    /// The number of blocks is out of range.
    pub fn read(&self, slba: u64, blocks: u32) -> Result<Request, Error> {
        let command = self.range(slba, blocks)?.to_command(nvm::READ);
        let len = blocks.checked_mul(self.block_size).ok_or_else(too_long)?;
        Ok(Request::new("Read", command).with_data(Data::In(len)))
    }

    /// Writes `data` (1 to 65536 blocks) at `slba`.
    ///
    /// # Errors
    /// The data is not a whole number of blocks, or too long.
    pub fn write(&self, slba: u64, data: Vec<u8>) -> Result<Request, Error> {
        let command = self.data_range(slba, &data)?.to_command(nvm::WRITE);
        Ok(Request::new("Write", command).with_data(Data::Out(data)))
    }

    /// Writes with force unit access: the data is durable before the command completes.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_fua(&self, slba: u64, data: Vec<u8>) -> Result<Request, Error> {
        let range = BlockCommand { fua: true, ..self.data_range(slba, &data)? };
        Ok(Request::new("Write", range.to_command(nvm::WRITE)).with_data(Data::Out(data)))
    }

    /// Compares `data` (1 to 65536 blocks) with the blocks from `slba` on.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn compare(&self, slba: u64, data: Vec<u8>) -> Result<Request, Error> {
        let command = self.data_range(slba, &data)?.to_command(nvm::COMPARE);
        Ok(Request::new("Compare", command).with_data(Data::Out(data)))
    }

    /// Writes zeroes to `blocks` (1 to 65536) from `slba` on. With `deallocate`, the controller may
    /// deallocate them if they then read as zeroes.
    ///
    /// # Errors
    /// The number of blocks is out of range.
    pub fn write_zeroes(&self, slba: u64, blocks: u32, deallocate: bool) -> Result<Request, Error> {
        let range = BlockCommand { deac: deallocate, ..self.range(slba, blocks)? };
        Ok(Request::new("Write Zeroes", range.to_command(nvm::WRITE_ZEROES)))
    }

    /// Deallocates 1 to 256 ranges: the first block and the number of blocks of each.
    ///
    /// # Errors
    /// No range, or too many.
    pub fn deallocate(&self, ranges: &[(u64, u32)]) -> Result<Request, Error> {
        let nr = ranges.len().checked_sub(1).and_then(|nr| u8::try_from(nr).ok());
        let nr =
            nr.ok_or_else(|| Error::Argument("Dataset Management takes 1 to 256 ranges".into()))?;
        let nsid = self.nsid;
        let command = DatasetManagement { nsid, nr, deallocate: true, ..Default::default() };
        let data = ranges
            .iter()
            .flat_map(|&(slba, nlb)| DsmRange { cattr: 0, nlb, slba }.encode())
            .collect();
        Ok(Request::new("Dataset Management", command.to_command()).with_data(Data::Out(data)))
    }

    /// Makes all completed writes to the namespace durable.
    #[must_use]
    pub const fn flush(&self) -> Request {
        Request::new("Flush", Command::new(nvm::FLUSH).with_nsid(self.nsid))
    }

    fn range(&self, slba: u64, blocks: u32) -> Result<BlockCommand, Error> {
        let nlb = blocks.checked_sub(1).and_then(|nlb| u16::try_from(nlb).ok());
        let nlb = nlb.ok_or_else(too_long)?;
        Ok(BlockCommand { nsid: self.nsid, slba, nlb, ..BlockCommand::default() })
    }

    fn data_range(&self, slba: u64, data: &[u8]) -> Result<BlockCommand, Error> {
        let len = u32::try_from(data.len()).map_err(|_| too_long())?;
        if len % self.block_size != 0 {
            return Err(Error::Argument(format!(
                "{len} bytes of data are not a multiple of the block size {}",
                self.block_size
            )));
        }
        self.range(slba, len / self.block_size)
    }
}

fn too_long() -> Error {
    Error::Argument("a command takes 1 to 65536 blocks and at most 4 GiB - 1".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMESPACE: Namespace = Namespace { nsid: 1, block_size: 512, num_blocks: 100 };

    #[test]
    fn requests_out_of_range_are_refused_here() {
        assert!(NAMESPACE.read(0, 0).is_err());
        assert!(NAMESPACE.read(0, 65_537).is_err());
        assert!(NAMESPACE.write(0, vec![0; 511]).is_err());
        assert!(NAMESPACE.write(0, Vec::new()).is_err());
        assert!(NAMESPACE.deallocate(&[]).is_err());
        assert!(NAMESPACE.deallocate(&[(0, 1); 257]).is_err());
    }

    #[test]
    fn requests_past_the_end_are_for_the_controller_to_refuse() {
        let request = NAMESPACE.read(u64::MAX, 65_536).unwrap();
        assert_eq!(request.data, Data::In(65_536 * 512));
        assert_eq!(BlockCommand::from_command(&request.command).slba, u64::MAX);
    }
}
