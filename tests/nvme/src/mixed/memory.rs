//! The host's resident memory over time.

use crate::host::Host;
use std::sync::Mutex;
use std::time::Duration;

/// The part of the run in which plugins are loaded and everything is used for the first time. After that, memory must
/// not grow.
pub(crate) const LOADS_UNTIL: f64 = 0.3;
/// The number of samples.
const LOOKS: u32 = 180;
/// How much more the last third may have than the second third, in KiB and in percent.
const MORE_KIB: u64 = 1024;
const MORE_PERCENT: u64 = 2;
/// A run that is shorter than this is still filling its disks when it ends. For such a run, memory has only the bound
/// below, in KiB.
const SHORT: Duration = Duration::from_secs(60);
const SHORT_MAX_KIB: u64 = 128 << 10;

/// The samples so far.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Vec<Sample>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    resident_kib: u64,
}

impl Memory {
    /// Takes a sample if it is time to.
    pub(crate) fn look(&self, host: &Host, at: Duration, length: Duration) {
        let mut samples = self.0.lock().unwrap();
        let due = samples.last().map_or(Duration::ZERO, |last| last.at + length / LOOKS);
        if at >= due {
            let resident_kib = host.footprint().resident_kib;
            samples.push(Sample { at, resident_kib });
            if samples.len() % 18 == 1 {
                eprintln!("after {:.0} s: {resident_kib} KiB resident", at.as_secs_f64());
            }
        }
    }

    /// Prints the figures and checks that memory did not grow.
    pub(crate) fn check_flat(&self, length: Duration) -> Result<(), String> {
        let samples = self.0.lock().unwrap();
        let third = |n: u32| {
            samples.iter().filter(move |sample| {
                sample.at >= length / 3 * n && sample.at < length / 3 * (n + 1)
            })
        };
        let most = |n| third(n).map(|sample| sample.resident_kib).max();
        let at = |i: usize| samples[i].resident_kib;
        eprintln!(
            "resident: {} KiB in the beginning, {} in the middle, {} in the end",
            at(0),
            at(samples.len() / 2),
            at(samples.len() - 1),
        );
        if length < SHORT {
            let most = samples.iter().map(|sample| sample.resident_kib).max().unwrap();
            return if most <= SHORT_MAX_KIB { Ok(()) } else { Err(format!("{most} KiB")) };
        }
        let (Some(second), Some(last)) = (most(1), most(2)) else {
            return Err("memory was not looked at often enough".to_owned());
        };
        let slope = slope(third(1).chain(third(2)));
        eprintln!(
            "at most {second} KiB in the second third, {last} in the last; slope there {slope:.1} KiB a minute"
        );
        if last <= second + second * MORE_PERCENT / 100 + MORE_KIB {
            Ok(())
        } else {
            Err(format!("memory grows: {second} KiB, then {last}"))
        }
    }
}

/// The slope of the regression line through the samples, in KiB a minute.
fn slope<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    let points = samples.map(|sample| (sample.at.as_secs_f64() / 60.0, sample.resident_kib as f64));
    let count = points.clone().map(|_| 1.0).sum::<f64>();
    let mean = |value: fn((f64, f64)) -> f64| points.clone().map(value).sum::<f64>() / count;
    let (x, y) = (mean(|(x, _)| x), mean(|(_, y)| y));
    let above: f64 = points.clone().map(|(px, py)| (px - x) * (py - y)).sum();
    let below: f64 = points.clone().map(|(px, _)| (px - x).powi(2)).sum();
    if below > 0.0 { above / below } else { 0.0 }
}

#[test]
fn growth_in_the_last_third_is_noticed() {
    let length = Duration::from_secs(180);
    let grown = |kib_a_second: u64| {
        let sample =
            |s| Sample { at: Duration::from_secs(s), resident_kib: 50_000 + s * kib_a_second };
        Memory(Mutex::new((0..180).map(sample).collect()))
    };
    grown(0).check_flat(length).unwrap();
    grown(30).check_flat(length).unwrap();
    assert!(grown(60).check_flat(length).is_err());
    let samples = grown(3);
    assert!((slope(samples.0.lock().unwrap().iter()) - 180.0).abs() < 0.1);
}
