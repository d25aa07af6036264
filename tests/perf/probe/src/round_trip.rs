//! Messages that go back and forth between two lightweight threads.

use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Call;
use drivebay_sdk::serde_json::json;
use drivebay_sdk::thread::{self, Message, Thread};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

params! {
    /// Parameters of `probe_round_trips`.
    pub struct RoundTrips {
        /// Core of the first thread.
        near: u32,
        /// Core of the second thread.
        far: u32,
        /// Messages at once, 1 to 1024.
        depth: u32 = 1,
        /// Round trips of each message, 1 to 1,000,000,000.
        round_trips: u64 = 1_000_000,
    }
}

/// State that all messages of a run share. Code touches it only when a run begins and ends.
#[derive(Debug)]
struct Run {
    near: Thread,
    far: Thread,
    depth: u32,
    /// Number of messages that still have round trips to make.
    left: AtomicU32,
    /// Round trips of each message.
    round_trips: u64,
    began: Instant,
    call: Mutex<Option<Call>>,
}

/// One message.
#[derive(Debug)]
struct Ball {
    near: Thread,
    far: Thread,
    left: u64,
    run: Arc<Run>,
}

pub(crate) fn measure(_: &App, call: Call, params: RoundTrips) {
    match threads(&params) {
        Ok((near, far)) => begin(call, &params, near, far),
        Err(error) => call.fail(error),
    }
}

fn threads(params: &RoundTrips) -> Result<(Thread, Thread)> {
    if !(1..=1024).contains(&params.depth) {
        return Err(Error::invalid("depth", params.depth, "1 to 1024"));
    }
    if !(1..=1_000_000_000).contains(&params.round_trips) {
        return Err(Error::invalid("round_trips", params.round_trips, "1 to 1000000000"));
    }
    let on = |name: &str, core: u32| thread::create(name, &format!("[{core}]"));
    let near = on("probe_near", params.near)?;
    let far = on("probe_far", params.far).inspect_err(|_| end(near))?;
    Ok((near, far))
}

fn begin(call: Call, params: &RoundTrips, near: Thread, far: Thread) {
    let run = Arc::new(Run {
        near,
        far,
        depth: params.depth,
        left: AtomicU32::new(params.depth),
        round_trips: params.round_trips,
        began: Instant::now(),
        call: Mutex::new(Some(call)),
    });
    for _ in 0..params.depth {
        let ball = Ball { near, far, left: params.round_trips, run: Arc::clone(&run) };
        Message::new(ball).send(near, at_near);
    }
}

fn at_near(mut ball: Message<Ball>) {
    if ball.left == 0 {
        if ball.run.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            ball.run.finish();
        }
        return;
    }
    ball.left -= 1;
    let far = ball.far;
    ball.send(far, at_far);
}

fn at_far(ball: Message<Ball>) {
    let near = ball.near;
    ball.send(near, at_near);
}

impl Run {
    fn finish(&self) {
        let ns = self.began.elapsed().as_secs_f64() * 1e9;
        let round_trips = self.round_trips * u64::from(self.depth);
        let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = call.take() {
            call.reply(json!({"round_trips": round_trips, "ns": ns / round_trips as f64}));
        }
        end(self.near);
        end(self.far);
    }
}

/// Ends a thread. Any thread may call this.
fn end(thread: Thread) {
    let ended = thread.send(move || {
        if let Err(error) = thread.exit() {
            warn!("probe: cannot end a thread: {error}");
        }
    });
    if let Err(error) = ended {
        warn!("probe: cannot end a thread: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_sdk::testing::FakeHost;

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let host = FakeHost::new();
        crate::start(host.app()).unwrap();
        for (params, field) in [
            (json!({"near": 0, "far": 0, "depth": 0}), "depth"),
            (json!({"near": 0, "far": 0, "round_trips": 0}), "round_trips"),
        ] {
            let error = host.call("probe_round_trips", &params).unwrap_err();
            assert!(error.message.starts_with(field), "{}", error.message);
        }
    }
}
