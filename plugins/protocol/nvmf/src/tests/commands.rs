//! Commands on the way to a disk and back: reads, unmaps and copies.

use super::*;

#[test]
fn a_host_connects_identifies_and_reads() {
    let target = Target::start();
    let (admin, io) = target.controller();
    assert_eq!(io.ends().connected, Some((1, 4, true)));
    admin.read(&Identify { cns: 1, ..Identify::default() }.to_command().with_cid(5), 4096);
    let (completion, data) = target.response(&admin);
    assert_eq!((completion.cid, completion.status, data.len()), (5, Status::SUCCESS, 4096));
    io.read(&blocks(8, 1).to_command(nvm::READ).with_cid(6), 1024);
    let (completion, data) = target.response(&io);
    assert_eq!((completion.cid, completion.status), (6, Status::SUCCESS));
    assert_eq!(data, [7; 1024]);
    assert_eq!(disk::ops(), [Op::Read(Range::new(8, 2))]);
}

#[test]
fn what_a_disk_leaves_in_the_memory_of_a_read_is_not_sent() {
    let target = Target::start();
    disk::make_empty("empty");
    assert_eq!(target.add_ns("empty"), 2);
    let (_admin, io) = target.controller();
    let read = BlockCommand { nsid: 2, ..blocks(8, 1) }.to_command(nvm::READ);
    io.read_over(&read, &[9; 1024]);
    assert_eq!(target.response(&io).1, [0; 1024]);
    // The same memory is sent as it is when the disk fills it.
    io.read_over(&blocks(8, 1).to_command(nvm::READ), &[9; 1024]);
    assert_eq!(target.response(&io).1, [7; 1024]);
}

#[test]
fn the_head_of_a_queue_goes_round_with_its_size() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let heads: Vec<u16> = (0..5)
        .map(|_| {
            io.command(&Command::new(nvm::FLUSH).with_nsid(1));
            target.response(&io).0.sqhd
        })
        .collect();
    // Connect was the first command.
    assert_eq!(heads, [2, 3, 0, 1, 2]);
}

#[test]
fn before_connect_everything_else_is_out_of_sequence() {
    let target = Target::start();
    let wire = fabric::connect("1");
    let early = Status::COMMAND_SEQUENCE_ERROR.with_dnr();
    for command in [Command::new(admin::KEEP_ALIVE), fabrics::disconnect()] {
        wire.command(&command);
        assert_eq!(target.status(&wire), early);
    }
}

#[test]
fn ranges_are_unmapped_one_after_the_other() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let range = |slba, nlb| DsmRange { cattr: 0, nlb, slba }.encode();
    let data = [range(0, 8), range(9, 0), range(56, 8)].concat();
    let dsm = DatasetManagement { nsid: 1, nr: 2, deallocate: true, ..Default::default() };
    io.write(&dsm.to_command(), &data);
    assert_eq!(target.status(&io), Status::SUCCESS);
    assert_eq!(disk::ops(), [Op::Unmap(Range::new(0, 8)), Op::Unmap(Range::new(56, 8))]);
}

#[test]
fn the_ranges_of_a_copy_are_read_and_written_one_after_the_other() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let (command, data) = copy_of(40, &[(0, 7), (20, 0)]);
    io.write(&command, &data);
    assert_eq!(target.status(&io), Status::SUCCESS);
    let expected = [
        Op::Read(Range::new(0, 8)),
        Op::Write(Range::new(40, 8)),
        Op::Read(Range::new(20, 1)),
        Op::Write(Range::new(48, 1)),
    ];
    assert_eq!(disk::ops(), expected);
    for (wrong, status) in [
        (copy_of(60, &[(0, 7)]), Status::LBA_OUT_OF_RANGE),
        (copy_of(0, &[(0, 7), (60, 7)]), Status::LBA_OUT_OF_RANGE),
        (copy_of(0, &[(0, 300)]), Status::COMMAND_SIZE_LIMIT_EXCEEDED),
    ] {
        let (command, data) = wrong;
        io.write(&command, &data);
        assert_eq!(target.status(&io), status.with_dnr());
    }
    assert_eq!(disk::ops(), []);
}

#[test]
fn copies_wait_for_each_other_and_end_with_their_namespace() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    disk::hold(true);
    for (cid, (command, data)) in [(1, copy_of(40, &[(0, 0), (1, 0)])), (2, copy_of(50, &[(2, 0)]))]
    {
        io.write(&command.with_cid(cid), &data);
    }
    target.run();
    assert_eq!(disk::ops(), [Op::Read(Range::new(0, 1))]);
    let app = crate::app::app().unwrap();
    let removing = std::rc::Rc::clone(&app);
    app.tasks.spawn(async move { crate::ops::remove_namespace(&removing, NQN, 1).await.unwrap() });
    target.run();
    disk::hold(false);
    disk::let_go();
    target.run();
    let ends: Vec<_> = io.ends().received.iter().map(|(c, _)| (c.cid, c.status)).collect();
    let gone = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    assert_eq!(ends, [(2, gone), (1, gone)], "the one that waits ends at once");
    assert_eq!(disk::ops(), [Op::Write(Range::new(40, 1))], "the range that had begun");
}

#[test]
fn a_copy_that_waits_ends_with_its_queue_and_does_not_wait_for_the_disk() {
    let target = Target::start();
    let (_admin, io) = target.controller();
    let (other, connected) = target.connect(2, 1);
    assert_eq!(connected.status, Status::SUCCESS);
    disk::hold(true);
    let (command, data) = copy_of(40, &[(0, 0)]);
    io.write(&command, &data);
    target.run();
    other.write(&command, &data);
    target.run();
    other.hang_up();
    target.run();
    assert!(other.ends().is_free, "the Copy of the first queue is in the bdev");
    disk::hold(false);
    disk::let_go();
    assert_eq!(target.status(&io), Status::SUCCESS);
}
