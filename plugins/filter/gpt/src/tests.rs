#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use super::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::testing::FakeHost;
use table::{crc32, has_protective_mbr};

const NUM_BLOCKS: usize = 2048;
const NEW: u128 = 0x6527994e_2c5a_4eec_9613_8f5944074e8b;
const OLD: u128 = 0x7c5222bd_8f5d_4087_9c00_bf9843c7b58c;
const LINUX: u128 = 0x0fc63daf_8483_4772_8e79_3d69d8477de4;

/// A disk with its own bytes. The tests only read it.
struct Image(String, u32, Mutex<Vec<u8>>);

impl Bdev for Image {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "image";
    const OPS: OpSet = OpSet::READ_WRITE;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0
    }
    fn geometry(&self) -> Geometry {
        let len = self.2.lock().unwrap().len() as u64;
        Geometry::new_any(self.1, len / u64::from(self.1)).unwrap()
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        if let Op::Read(range) = io.op() {
            let at = range.lba as usize * self.1 as usize;
            io.buffers().fill_from(&self.2.lock().unwrap()[at..]);
        }
        io.complete(Status::SUCCESS);
    }
}

/// A GUID in the byte order of the disk.
fn stored(guid: u128) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid.to_be_bytes();
    let mut bytes = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes[8..].copy_from_slice(&rest);
    bytes
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A disk with a table: type, first and last block of each partition.
fn image(size: usize, parts: &[(u128, u64, u64)]) -> Vec<u8> {
    let mut disk = vec![0; NUM_BLOCKS * size];
    put(&mut disk, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    put(&mut disk, 458, &(NUM_BLOCKS as u32 - 1).to_le_bytes());
    put(&mut disk, 510, &[0x55, 0xaa]);
    let mut entries = vec![0; 128 * 128];
    for (number, (kind, first, last)) in parts.iter().enumerate() {
        let entry = &mut entries[number * 128..][..128];
        put(entry, 0, &stored(*kind));
        put(entry, 16, &stored(0xa0 + number as u128));
        put(entry, 32, &first.to_le_bytes());
        put(entry, 40, &last.to_le_bytes());
        put(entry, 56, &[b'd', 0, b'a' + number as u8, 0]);
    }
    let entries_blocks = entries.len().div_ceil(size) as u64;
    let last = NUM_BLOCKS as u64 - 1;
    for (lba, entries_lba) in [(1, 2), (last, last - entries_blocks)] {
        let mut header = vec![0; 92];
        put(&mut header, 0, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        put(&mut header, 24, &u64::to_le_bytes(lba));
        put(&mut header, 40, &(2 + entries_blocks).to_le_bytes());
        put(&mut header, 48, &(last - entries_blocks - 1).to_le_bytes());
        put(&mut header, 56, &stored(0xd15c));
        put(&mut header, 72, &u64::to_le_bytes(entries_lba));
        put(&mut header, 80, &128_u32.to_le_bytes());
        put(&mut header, 84, &128_u32.to_le_bytes());
        put(&mut header, 88, &crc32(&entries).to_le_bytes());
        let crc = crc32(&header);
        put(&mut header, 16, &crc.to_le_bytes());
        put(&mut disk, lba as usize * size, &header);
        put(&mut disk, entries_lba as usize * size, &entries);
    }
    disk
}

/// A host that has examined the disk.
fn shown(name: &str, size: u32, disk: Vec<u8>) -> FakeHost {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    bdev::register(host.app(), Image(name.into(), size, Mutex::new(disk)), "none", Value::Null)
        .unwrap();
    (0..40).for_each(|_| host.run());
    host
}

#[test]
fn partitions_of_both_types_become_disks_and_the_old_type_is_a_block_shorter() {
    for size in [512, 4096] {
        let name = format!("of{size}");
        let parts = [(NEW, 100, 199), (LINUX, 200, 299), (OLD, 300, 399)];
        let host = shown(&name, size, image(size as usize, &parts));
        let first = host.registered(&format!("{name}p1")).unwrap();
        assert_eq!((first.num_blocks, first.block_size), (100, size));
        assert_eq!(u128::from_be_bytes(first.uuid), 0xa0);
        assert!(host.registered(&format!("{name}p2")).is_none());
        assert_eq!(host.registered(&format!("{name}p3")).unwrap().num_blocks, 99);
    }
}

#[test]
fn a_broken_primary_table_is_replaced_by_the_backup() {
    for at in [520, 1024] {
        let name = format!("broken{at}");
        let mut disk = image(512, &[(NEW, 100, 199)]);
        disk[at] ^= 1;
        let host = shown(&name, 512, disk);
        assert_eq!(host.registered(&format!("{name}p1")).unwrap().num_blocks, 100);
        assert!(host.log().iter().any(|line| line.contains("the backup is used")));
    }
}

#[test]
fn entries_outside_of_the_usable_blocks_are_left_out() {
    let parts = [(NEW, 1, 50), (NEW, 200, 100), (NEW, 100, 5000), (NEW, 0, 0), (NEW, 500, 500)];
    let host = shown("odd", 512, image(512, &parts));
    for number in 1..5 {
        assert!(host.registered(&format!("oddp{number}")).is_none(), "{number}");
    }
    assert_eq!(host.registered("oddp5").unwrap().num_blocks, 1);
}

#[test]
fn a_disk_without_a_protective_mbr_is_left_alone() {
    let mut disk = image(512, &[(NEW, 100, 199)]);
    disk[450] = 0x83;
    assert!(!has_protective_mbr(&disk[..512], NUM_BLOCKS as u64));
    assert!(shown("mbr", 512, disk).registered("mbrp1").is_none());
}

#[test]
fn no_byte_of_a_table_can_make_the_parser_panic() {
    let disk = image(512, &[(NEW, 100, 199)]);
    for at in 512..512 + 92 {
        for value in [0, 0x7f, 0xff] {
            let mut block = disk[512..1024].to_vec();
            block[at - 512] = value;
            block[16..20].fill(0);
            let len = u32::from_le_bytes(block[12..16].try_into().unwrap()) as usize;
            let crc = block.get(..len).map_or(0, crc32);
            block[16..20].copy_from_slice(&crc.to_le_bytes());
            if let Ok(header) = Header::parse(&block, 1, NUM_BLOCKS as u64) {
                assert!(header.entries_len() <= 128 * 128);
                let _ = header.table(&disk[1024..]);
            }
        }
    }
}
