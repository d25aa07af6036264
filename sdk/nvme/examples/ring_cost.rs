//! Reads one page many times from the model of a PCIe controller, in bursts. `cargo xtask bench --ring` counts the instructions of
//! `submit_all` and `reap_all`, which are the driver's part.
//!
//! Arguments: `registers` or `shadow`, and the length of a burst, 1 to 63. Prints the number of I/O and of writes to doorbells.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use drivebay_nvme_driver::pcie::model::{Registers32, Shared, pair};
use drivebay_nvme_driver::pcie::{Controller, Payload, Ring, Sgl};
use drivebay_nvme_driver::spec::{Command, opcode::nvm};
use std::rc::Rc;

const IOS: u64 = 64_000;

struct Page(u64);

impl Payload for Page {
    #[inline]
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> {
        std::iter::once(Some((self.0, 4096)))
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has_shadow = args.first().is_some_and(|doorbells| doorbells == "shadow");
    let depth = args.get(1).and_then(|depth| depth.parse().ok()).unwrap_or(32_u64).clamp(1, 63);
    let (mut ring, controller, mut model) = pair(64, Sgl::Unsupported, has_shadow);
    let mut count = 0;
    for _ in 0..IOS / depth {
        submit_all(&mut ring, &controller, depth);
        for words in model.fetch() {
            model.complete(u16::try_from(words[0] >> 16 & 0xffff).unwrap_or(u16::MAX));
        }
        count += reap_all(&mut ring);
    }
    println!("{count} I/O {} writes", model.num_doorbells());
}

#[inline(never)]
fn submit_all(ring: &mut Ring<Shared, Page>, controller: &Controller<Rc<Registers32>>, depth: u64) {
    let command = Command::new(nvm::READ).with_nsid(1);
    for page in 1..=depth {
        if ring.submit(&command, Page(page << 12)).is_err() {
            return;
        }
    }
    ring.ring(controller);
}

#[inline(never)]
fn reap_all(ring: &mut Ring<Shared, Page>) -> usize {
    let see = |page: Page, completion| {
        std::hint::black_box((page.0, completion));
    };
    ring.reap(see).unwrap_or(0)
}
