//! Receiving the data of capsules directly into the memory of predicted requests.

use super::*;

/// One command of a burst, with its data. `Some` if the capsule has the data.
fn spoken(kind: u8, cid: u16) -> (Command, Vec<u8>, Vec<u8>) {
    let data = |len| (0..len).map(|i| at(i + 7 * usize::from(cid))).collect::<Vec<u8>>();
    match kind {
        0 => (read(cid, 512), Vec::new(), Vec::new()),
        1 => (Command::new(FLUSH).with_cid(cid), Vec::new(), Vec::new()),
        2 => (in_capsule(cid, 0, 512), data(512), data(512)),
        3 => (in_capsule(cid, 0, 2048), data(2048), data(2048)),
        4 => (in_capsule(cid, 96, 4000), data(4096), data(4096)[96..].to_vec()),
        5 => (in_capsule(cid, 0, 4000), data(4096), data(4096)[..4000].to_vec()),
        _ => (in_capsule(cid, 0, 4096), data(4096), data(4096)),
    }
}

#[test]
fn as_many_capsules_as_came_are_foreseen_and_one_in_four_more() {
    const EACH: usize = 72 + 4096;
    let mut wire = Wire::open_with(Limits { depth: 64, ..LIMITS }, Digests::default(), 0, 0);
    let capsules = |wire: &Wire, kinds: &[u8]| -> Vec<u8> {
        kinds
            .iter()
            .flat_map(|kind| {
                let (command, data, _) = spoken(*kind, 1);
                wire.capsule(command, &data)
            })
            .collect()
    };
    let foreseen = |count: usize| {
        let mut lens = [72, 4096].repeat(count);
        lens.push(INBOX - count * EACH);
        lens
    };
    wire.send(&capsules(&wire, &[9; 4]));
    assert_eq!(wire.place_lens(), foreseen(5));
    // A header and some data of the next capsule have arrived.
    wire.send(&capsules(&wire, &[9; 9]));
    wire.send(&capsules(&wire, &[9; 8])[..7 * EACH + 100]);
    let lens = wire.place_lens();
    assert_eq!(lens[..5], [4096 - 28, 72, 4096, 72, 4096]);
    wire.send(&capsules(&wire, &[9; 8])[7 * EACH + 100..]);
    // Half of a header has arrived.
    wire.send(&capsules(&wire, &[9; 5])[..4 * EACH + 30]);
    let mut lens = foreseen(5);
    (lens[0], lens[10]) = (42, lens[10] - 30);
    assert_eq!(wire.place_lens(), lens);
    wire.send(&capsules(&wire, &[9])[30..]);
    assert_eq!(wire.place_lens(), [INBOX], "few came");
    wire.send(&capsules(&wire, &[9, 9, 9, 9, 0]));
    assert_eq!(wire.place_lens(), [INBOX], "it went on with something else");
    // After a wrong prediction, the next receive has none.
    wire.send(&capsules(&wire, &[9, 9, 9, 9]));
    wire.send(&capsules(&wire, &[3, 9, 9, 9, 9]));
    assert_eq!(wire.place_lens(), [INBOX], "it came otherwise");
}

proptest! {
    #[test]
    fn the_target_gets_what_the_host_sent_whether_it_was_foreseen_or_not(
        pool in 1..40_usize,
        bursts in prop::collection::vec(
            (
                prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6]), 1..12),
                prop::sample::select(vec![1000, 4096, 4168, 4200, 9000, usize::MAX, usize::MAX, usize::MAX]),
            ),
            1..16,
        ),
    ) {
        let mut wire = Wire::open_with(Limits { depth: 64, ..LIMITS }, Digests::default(), 0, 0);
        wire.keeper.pool.set(pool);
        let (mut sent, mut got) = (Vec::new(), Vec::new());
        for (kinds, chunk) in bursts {
            wire.chunk = chunk;
            let mut burst = Vec::new();
            for kind in kinds {
                let cid = u16::try_from(sent.len()).unwrap();
                let (command, in_capsule, data) = spoken(kind, cid);
                burst.extend_from_slice(&wire.capsule(command, &in_capsule));
                sent.push((cid, data));
            }
            wire.send(&burst);
            while !wire.keeper.lent.is_empty() {
                let request = &wire.keeper.lent[0];
                let data = if request.is_from_host() { request.bytes() } else { Vec::new() };
                got.push((Command::parse(&request.command).cid(), data));
                wire.answer(Status::SUCCESS, 0);
                wire.take();
                wire.resume();
            }
        }
        // A read waits for memory while later commands do not.
        got.sort_by_key(|(cid, _)| *cid);
        prop_assert_eq!(got, sent);
        wire.keeper.pool.set(wire.keeper.pool.get() + POOL - pool);
        wire.end();
    }

    #[test]
    fn arbitrary_bytes_end_in_progress_or_termination(
        digests in 0..4u8,
        chunk in 1..300_usize,
        pdus in prop::collection::vec(
            (prop::sample::select(vec![0u8, 2, 4, 4, 4, 6, 6, 7, 255]), any::<[u8; 64]>(), 0..600_usize, any::<bool>()),
            1..20,
        ),
    ) {
        let digests = Digests { header: digests & 1 != 0, data: digests & 2 != 0 };
        let mut wire = Wire::open_with(LIMITS, digests, 3, 0);
        wire.chunk = chunk;
        for (kind, content, len, broken) in pdus {
            let mut bytes = match kind {
                4 => {
                    let mut command = Command::parse(&content);
                    command.dw[9] = if len % 2 == 0 { 0x5a00_0000 } else { 0x0100_0000 };
                    command.dw[8] &= 0xfff;
                    (command.dw[6], command.dw[7]) = (command.dw[6] & 0xff, 0);
                    wire.capsule(command, &pattern(len))
                }
                6 => {
                    let r2t = R2t { cccid: 0, ttag: u16::from(content[0] & 31), r2to: 0, r2tl: 1 };
                    wire.h2c(r2t, u32::from(content[1]), &pattern(len + 1), content[2] & 1 != 0)
                }
                _ => {
                    let mut bytes = content.to_vec();
                    bytes[0] = kind;
                    bytes
                }
            };
            if broken {
                let at = usize::from(content[3]) % bytes.len();
                bytes[at] ^= content[4];
            }
            wire.send(&bytes);
            if content[5] & 1 != 0 && !wire.keeper.lent.is_empty() {
                wire.answer(Status::SUCCESS, 1);
            }
            wire.take();
            wire.resume();
        }
        prop_assert!(wire.connection.can_receive() || wire.connection.is_stalled() || wire.connection.phase() == Phase::Ended);
        wire.end();
    }
}
