use super::*;
use drivebay_sdk::bdev::find;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::testing::{FakeDisk, FakeHost};
use std::time::Duration;

fn params(name: &str, read: [u64; 2], write: [u64; 2]) -> Value {
    json!({
        "name": name, "base_bdev_name": format!("{name}_base"),
        "avg_read_latency": read[0], "p99_read_latency": read[1],
        "avg_write_latency": write[0], "p99_write_latency": write[1],
    })
}

/// Registers a base that completes I/O at once.
fn add_base(host: &FakeHost, name: &str) {
    host.add_disk(name, OpSet::READ_WRITE.with(OpSet::FLUSH), |_, _| {});
}

/// A host with a delay bdev of that name.
fn host(params: &Value) -> FakeHost {
    let host = FakeHost::load(&bay_door::bay_plugin_v1);
    let base = params["base_bdev_name"].as_str().unwrap();
    add_base(&host, base);
    assert_eq!(host.call("bdev_delay_create", params).unwrap(), params["name"]);
    host
}

thread_local! {
    static ENDED: Cell<u32> = const { Cell::new(0) };
}

fn begin(channel: &Channel, op: Op) {
    ENDED.set(0);
    let buf = drivebay_sdk::buf::get(512).unwrap();
    channel.submit(op, IoFlags::NONE, Box::new(buf), |_, result| {
        assert!(result.status.is_success());
        ENDED.set(ENDED.get() + 1);
    });
}

#[test]
fn reads_and_writes_end_after_their_latency_and_the_rest_at_once() {
    let host = host(&params("fixed", [1000, 1000], [3000, 3000]));
    let (channel, _desc) = host.open("fixed");
    for (op, us) in [(Op::Read(Range::new(0, 1)), 1000), (Op::Write(Range::new(0, 1)), 3000)] {
        begin(&channel, op);
        host.run();
        host.advance(Duration::from_micros(us - 1));
        host.run();
        assert_eq!(ENDED.get(), 0, "it ended too early");
        host.advance(Duration::from_micros(1));
        host.wait(|| (ENDED.get() == 1).then_some(()));
    }
    let flush = host.io(&channel, Op::Flush, IoFlags::NONE, &mut Vec::new());
    assert_eq!(flush.status, Status::SUCCESS);
}

#[test]
fn a_latency_can_be_changed_and_is_saved() {
    let host = host(&params("changed", [0, 0], [0, 0]));
    let update = |name: &str, us: u64| {
        let params = json!({"delay_bdev_name": name, "latency_type": "avg_read", "latency_us": us});
        host.call("bdev_delay_update_latency", &params)
    };
    assert_eq!(update("changed", 500).unwrap(), true);
    assert_eq!(update("no such", 500).unwrap_err().code, INVALID_PARAMS);
    let saved = host.config();
    let saved = saved.iter().find(|call| call["params"]["name"] == "changed").unwrap();
    assert_eq!(saved["params"]["avg_read_latency"], 500);
    let error = host.call("bdev_delay_create", &params("bad", [2, 1], [0, 0])).unwrap_err();
    assert_eq!(error.code, -22);
}

#[test]
fn a_latency_above_its_p99_is_saved_so_that_the_bdev_can_be_made_again() {
    let host = host(&params("raised", [1, 2], [0, 0]));
    let params =
        json!({"delay_bdev_name": "raised", "latency_type": "avg_read", "latency_us": 500});
    host.call("bdev_delay_update_latency", &params).unwrap();
    let saved = host.config();
    let saved = saved.iter().find(|call| call["params"]["name"] == "raised").unwrap();
    assert_eq!(saved["params"]["p99_read_latency"], 500);
}

#[test]
fn a_base_that_goes_ends_delayed_io_and_its_return_keeps_the_latencies() {
    let host = host(&params("leaving", [60_000_000; 2], [0, 0]));
    let (channel, desc) = host.open("leaving");
    begin(&channel, Op::Read(Range::new(0, 1)));
    host.run();
    assert_eq!(ENDED.get(), 0, "it was not delayed");
    let params = json!({"delay_bdev_name": "leaving", "latency_type": "avg_read", "latency_us": 7});
    host.call("bdev_delay_update_latency", &params).unwrap();
    find::<FakeDisk>("leaving_base").unwrap().unregister(host.app(), |_, _| {});
    host.wait(|| (ENDED.get() == 1).then_some(()));
    begin(&channel, Op::Read(Range::new(0, 1)));
    host.wait(|| (ENDED.get() == 1).then_some(()));
    drop(channel);
    drop(desc);
    host.wait(|| host.registered("leaving_base").is_none().then_some(()));
    add_base(&host, "leaving_base");
    let saved = host.config();
    let saved = saved.iter().find(|call| call["params"]["name"] == "leaving").unwrap();
    assert_eq!(saved["params"]["avg_read_latency"], 7);
}

#[test]
fn latencies_follow_their_distribution() {
    let state = Cell::new(1);
    let draw_many = |is_random, percentiles: &[Percentile]| -> Vec<u64> {
        (0..100_000)
            .map(|_| draw(latency::next(&state), 100, 900, is_random, percentiles))
            .collect()
    };
    let fixed = draw_many(false, &[]);
    let p99 = fixed.iter().filter(|us| **us == 900).count();
    assert!((700..1300).contains(&p99), "{p99}");
    assert!(fixed.iter().all(|us| *us == 100 || *us == 900));
    let random = draw_many(true, &[]);
    assert!(random.iter().all(|us| *us <= 200 || *us == 900));
    let mean = random.iter().filter(|us| **us <= 200).sum::<u64>() / 99_000;
    assert!((95..105).contains(&mean), "{mean}");
    let point = |percentile, latency| Percentile { percentile, latency };
    let points = draw_many(false, &[point(50, 10), point(90, 20), point(100, 50)]);
    let share = |us| points.iter().filter(|drawn| **drawn == us).count();
    assert!((49_000..51_000).contains(&share(10)), "{}", share(10));
    assert!((39_000..41_000).contains(&share(20)), "{}", share(20));
    assert!((9_000..11_000).contains(&share(50)), "{}", share(50));
    assert!(latency::check(&[point(90, 1), point(50, 2)]).is_err());
}
