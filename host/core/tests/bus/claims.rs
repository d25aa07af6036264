//! Claims: the right to write.

use crate::abi::{self, claim, open};
use crate::fixture::*;
use drivebay_plugin_api::*;

fn close(desc: u64) {
    assert_eq!(abi::close(desc), 0);
}

/// The status of a write through a new channel of the descriptor.
fn write(desc: u64) -> i32 {
    let chan = abi::chan_get(desc);
    let mut data = vec![1; BLOCK];
    let piece = list(&mut data);
    let ended = Fixture::submit_on(chan, |io| {
        (io.op, io.lba, io.nblocks) = (BAY_OP_WRITE, 0, 1);
        (io.iov, io.iovcnt) = (piece.as_ptr(), 1);
    });
    abi::chan_put(chan);
    ended.get().unwrap().0
}

/// Closes the fixture's own descriptor, which may write.
fn without_writer(f: &Fixture) {
    abi::chan_put(f.chan);
    close(f.desc);
}

#[test]
fn a_claim_to_write_makes_a_reader_the_only_writer_until_it_is_given_back() {
    for (name, kind) in [
        ("claimed exclusively", BAY_CLAIM_EXCL_WRITE),
        ("claimed to write", BAY_CLAIM_READ_MANY_WRITE_ONE),
    ] {
        let kind = move |f: &Fixture| {
            without_writer(f);
            let holder = open(name, 0).unwrap();
            assert_eq!(write(holder), -libc::EBADF);
            assert_eq!(claim(holder, kind, 7), -libc::EINVAL); // this kind takes no key
            assert_eq!(claim(holder, kind, 0), 0);
            assert_eq!(claim(holder, kind, 0), -libc::EPERM); // it is already claimed
            assert_eq!(write(holder), 0);
            assert_eq!(open(name, BAY_OPEN_WRITE), Err(-libc::EPERM));
            let reader = open(name, 0).unwrap();
            assert_eq!(write(reader), -libc::EBADF);
            for other in 1..=4 {
                assert_eq!(claim(reader, other, u64::from(other / 4)), -libc::EPERM);
            }
            assert_eq!(abi::unclaim(holder), 0);
            assert_eq!(write(holder), -libc::EBADF);
            close(open(name, BAY_OPEN_WRITE).unwrap());
            close(reader);
            close(holder);
        };
        let step: Step<Fixture> = Box::new(move |fixture| {
            kind(fixture);
            true
        });
        on_app(move || Fixture::new(name, |_| {}), vec![step]);
    }
}

#[test]
fn a_claim_that_nobody_writes_is_for_readers_and_they_may_be_many() {
    once(
        "claimed none",
        |_| {},
        |f| {
            let kind = BAY_CLAIM_READ_MANY_WRITE_NONE;
            assert_eq!(claim(f.desc, kind, 0), -libc::EINVAL); // the descriptor may write
            let first = open("claimed none", 0).unwrap();
            assert_eq!(claim(first, kind, 0), -libc::EPERM); // another descriptor may write
            without_writer(f);
            let second = open("claimed none", 0).unwrap();
            assert_eq!([claim(first, kind, 0), claim(second, kind, 0)], [0, 0]);
            assert_eq!([write(first), write(second)], [-libc::EBADF; 2]);
            close(first);
            assert_eq!(open("claimed none", BAY_OPEN_WRITE), Err(-libc::EPERM));
            close(second);
            close(open("claimed none", BAY_OPEN_WRITE).unwrap());
        },
    );
}

#[test]
fn holders_of_one_key_write_together_and_others_do_not() {
    once(
        "claimed shared",
        |_| {},
        |f| {
            let kind = BAY_CLAIM_READ_MANY_WRITE_SHARED;
            without_writer(f);
            let [one, two, other] = [(); 3].map(|()| open("claimed shared", 0).unwrap());
            assert_eq!(claim(one, kind, 0), -libc::EINVAL);
            assert_eq!([claim(one, kind, 5), claim(two, kind, 5)], [0, 0]);
            assert_eq!(claim(other, kind, 6), -libc::EPERM);
            assert_eq!([one, two, other].map(write), [0, 0, -libc::EBADF]);
            assert_eq!(open("claimed shared", BAY_OPEN_WRITE), Err(-libc::EPERM));
            [one, two, other].into_iter().for_each(close);
        },
    );
}

#[test]
fn the_only_holder_of_a_shared_claim_may_make_it_exclusive_and_shared_again() {
    once(
        "claimed alone",
        |_| {},
        |f| {
            without_writer(f);
            let (shared, exclusive) = (BAY_CLAIM_READ_MANY_WRITE_SHARED, BAY_CLAIM_EXCL_WRITE);
            let [one, two] = [(); 2].map(|()| open("claimed alone", 0).unwrap());
            assert_eq!([claim(one, shared, 5), claim(two, shared, 5)], [0, 0]);
            assert_eq!(claim(one, exclusive, 0), -libc::EPERM); // another holds it, too
            assert_eq!(abi::unclaim(two), 0);
            assert_eq!(claim(one, exclusive, 0), 0);
            assert_eq!(claim(two, shared, 5), -libc::EPERM);
            assert_eq!(claim(one, shared, 5), 0);
            assert_eq!(claim(two, shared, 5), 0);
            [one, two].into_iter().for_each(close);
        },
    );
}

#[test]
fn a_channel_that_was_there_before_the_claim_may_write_after_it() {
    let make = || {
        let fixture = Fixture::new("claimed before", |_| {});
        without_writer(&fixture);
        let desc = open("claimed before", 0).unwrap();
        let chan = abi::chan_get(desc);
        assert_eq!(claim(desc, BAY_CLAIM_EXCL_WRITE, 0), 0);
        (fixture, chan)
    };
    let writes: Step<(Fixture, u64)> = Box::new(|(_, chan)| {
        let outcome = Fixture::submit_on(*chan, |io| {
            (io.op, io.lba, io.nblocks) = (BAY_OP_UNMAP, 0, 1);
        });
        outcome.get() == Some((0, 0))
    });
    on_app(make, vec![writes]);
}

#[test]
fn an_alias_finds_the_bdev_until_it_is_taken_away() {
    once(
        "claimed alias",
        |_| {},
        |f| {
            let alias = |name, add| abi::alias(f.id, name, add);
            assert_eq!(alias("store/volume", 1), 0);
            assert_eq!(alias("store/volume", 1), -libc::EEXIST);
            close(open("store/volume", 0).unwrap());
            assert_eq!(alias("store/volume", 0), 0);
            assert_eq!(alias("store/volume", 0), -libc::ENOENT);
            assert_eq!(open("store/volume", 0), Err(-libc::ENODEV));
        },
    );
}

#[test]
fn who_has_a_bdev_open_hears_which_blocks_lost_their_data() {
    let make = || {
        let fixture = Fixture::new("claimed lost", |_| {});
        assert_eq!(abi::media(fixture.id, 60, 5), -libc::EINVAL);
        assert_eq!(abi::media(fixture.id, 8, 2), 0);
        fixture
    };
    let reported: Step<Fixture> = Box::new(|f| {
        if !f.events.borrow().contains(&(BAY_EVENT_MEDIA, 1)) {
            return false;
        }
        assert_eq!(abi::media_next(f.desc), Ok((8, 2)));
        assert_eq!(abi::media_next(f.desc), Err(-libc::ENOENT));
        true
    });
    on_app(make, vec![reported]);
}
