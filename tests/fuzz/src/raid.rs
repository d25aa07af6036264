//! The superblock and the row log on the members of a RAID array.

use drivebay_spec_raid::{Layout, LogEntry, Superblock, seal};

/// A superblock, to which this adds a valid CRC. A layout made from it never has blocks outside of the members. Headers of log entries
/// that can be read can be written again.
pub(crate) fn superblock(data: &[u8]) {
    if let Some(entry) = LogEntry::parse(data) {
        let mut again = [0; 128];
        entry.write(&mut again, &[]);
        assert_eq!(LogEntry::parse(&again), Some(entry));
    }
    let mut bytes = data.to_vec();
    seal(&mut bytes);
    let Ok(read) = Superblock::parse(&bytes) else { return };
    assert_eq!(Superblock::parse(&read.to_bytes()), Ok(read.clone()));
    let mut sizes = vec![0; read.num_members.into()];
    for member in &read.members {
        sizes[usize::from(member.slot)] = member.data_size;
    }
    let Ok(layout) = Layout::new(read.level, read.strip_blocks, &sizes) else { return };
    let last = layout.num_blocks() - 1;
    for lba in [0, last / 2, last] {
        for place in layout.copies(lba) {
            assert!(place.lba < layout.used_blocks(place.member), "{lba} lies at {place:?}");
            assert!(layout.piece(place).is_some(), "{place:?} of {lba} is nothing");
        }
        assert!((1..=last + 1 - lba).contains(&layout.run(lba, last + 1 - lba)));
    }
}
