//! Poll groups: starts them, and sends work to all of them.

use crate::app::{AppState, app_handle};
use crate::group::{Group, Stats};
use crate::tasks::until;
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::{Error, Result, errno, thread};
use std::rc::Rc;

/// The missing answers of an operation of all groups.
#[derive(Debug)]
pub struct Wait {
    left: usize,
    result: Result<()>,
}

impl Wait {
    /// Whether all groups have answered.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }
}

/// A group's answer to the operation that waits for it. Dropping it unsent answers with an error.
#[derive(Debug)]
pub struct Reply {
    app: Resident<AppState>,
    wait: u64,
    is_sent: bool,
}

impl Reply {
    /// Sends the answer. `[any thread]`
    pub fn send(mut self, result: Result<()>) {
        self.deliver(result);
    }

    fn deliver(&mut self, result: Result<()>) {
        let wait = self.wait;
        self.is_sent = true;
        self.app.send(move |app| app.replied(wait, result));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.is_sent {
            self.deliver(Err(Error::new(errno::EIO, "a poll group gave no answer")));
        }
    }
}

impl AppState {
    fn replied(&self, wait: u64, result: Result<()>) {
        if let Some(wait) = self.waits.borrow_mut().get_mut(&wait) {
            wait.left = wait.left.saturating_sub(1);
            if wait.result.is_ok() {
                wait.result = result;
            }
        }
        self.tasks.run();
    }

    /// Creates `count` replies. Returns the operation's number for [`replies`](Self::replies), and the replies.
    pub(crate) fn expect(&self, count: usize) -> Result<(u64, Vec<Reply>)> {
        let number = self.last_wait.get() + 1;
        self.last_wait.set(number);
        self.waits.borrow_mut().insert(number, Wait { left: count, result: Ok(()) });
        let app = app_handle().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))?;
        let reply = || Reply { app: app.clone(), wait: number, is_sent: false };
        Ok((number, (0..count).map(|_| reply()).collect()))
    }

    /// Waits for the replies. Returns the first error, if there is one.
    pub(crate) async fn replies(&self, number: u64) -> Result<()> {
        until(|| self.waits.borrow().get(&number).is_none_or(|wait| wait.left == 0)).await;
        self.waits.borrow_mut().remove(&number).map_or(Ok(()), |wait| wait.result)
    }
}

/// Runs `each` in every poll group and waits for all answers.
///
/// # Errors
/// The first error of a group.
pub async fn on_groups(
    app: &Rc<AppState>,
    each: impl Fn(&Group, Reply) + Send + Clone + 'static,
) -> Result<()> {
    let groups = app.groups();
    let (number, replies) = app.expect(groups.len())?;
    for (group, reply) in groups.iter().zip(replies) {
        let each = each.clone();
        group.send(move |group| each(group.state(), reply));
    }
    app.replies(number).await
}

/// Returns the counters of every poll group.
///
/// # Errors
/// When a group gives no answer.
pub async fn collect_stats(app: &Rc<AppState>) -> Result<Vec<Stats>> {
    let groups = app.groups();
    let (number, replies) = app.expect(groups.len())?;
    for (group, reply) in groups.iter().zip(replies) {
        let app = app_handle();
        group.send(move |group| {
            let stats = group.state().stats();
            if let Some(app) = app {
                app.send(move |app| app.stats.borrow_mut().entry(number).or_default().push(stats));
            }
            reply.send(Ok(()));
        });
    }
    let result = app.replies(number).await;
    let stats = app.stats.borrow_mut().remove(&number).unwrap_or_default();
    result.map(|()| stats)
}

/// Starts the poll groups, one on each core of `poll_groups_mask`. Does nothing when they already run.
///
/// # Errors
/// `EINVAL` for a mask without a reactor's core, or the error of the host.
pub fn ensure_groups(app: &Rc<AppState>) -> Result<()> {
    let server = app.server().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))?;
    if !server.groups().is_empty() {
        return Ok(());
    }
    let mask = app.config.borrow().as_ref().and_then(|config| config.poll_groups_mask.clone());
    let is_chosen = |core: u32| mask.as_deref().is_none_or(|mask| is_in_mask(mask, core));
    let cores: Vec<u32> = thread::cores().filter(|core| is_chosen(*core)).collect();
    if cores.is_empty() {
        let mask = mask.unwrap_or_default();
        return Err(Error::invalid(
            "poll_groups_mask",
            mask,
            "a mask with at least one core that has a reactor",
        ));
    }
    let handle = app_handle().ok_or_else(|| Error::new(errno::EIO, "the target has ended"))?;
    let make = move |index| Group::new(index, handle.clone());
    server.start_groups("nvmf_tgt_poll_group", cores, make)
}

/// Whether a core is in a mask such as `0x3` or `[0,2-3]`. Other text has no core.
fn is_in_mask(mask: &str, core: u32) -> bool {
    if let Some(list) = mask.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return list.split(',').any(|part| is_in_range(part.trim(), core));
    }
    let digits = mask.trim().trim_start_matches("0x").trim_start_matches("0X");
    let digit = digits.chars().rev().nth((core / 4) as usize).and_then(|c| c.to_digit(16));
    digit.is_some_and(|digit| digit >> (core % 4) & 1 == 1)
}

fn is_in_range(part: &str, core: u32) -> bool {
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    match (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&core),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_cores() {
        for (mask, cores) in [
            ("0x5", vec![0, 2]),
            ("13", vec![0, 1, 4]),
            ("[1, 3-4]", vec![1, 3, 4]),
            ("0x", vec![]),
            ("all", vec![]),
        ] {
            let found: Vec<u32> = (0..70).filter(|core| is_in_mask(mask, *core)).collect();
            if mask == "all" {
                assert!(!found.contains(&0), "{mask}");
            } else {
                assert_eq!(found, cores, "{mask}");
            }
        }
    }
}
