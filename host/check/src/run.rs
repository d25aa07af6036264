//! Runs checks one after another.

use crate::breach;
use crate::rig::{Maker, Rig};
use crate::suite::{CHECKS, Check, Kind};
use crate::verdict::{Line, Outcome};
use drivebay_spec_jsonrpc::Method;
use std::sync::Arc;
use std::time::Instant;

/// A check of one plugin.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name in the report.
    pub name: String,
    /// The check.
    pub check: Check,
    /// The method that creates the disks, if the manifest lists one.
    pub create: Option<String>,
}

/// The checks of a plugin: those of its kind, once for each method that creates disks.
#[must_use]
pub fn plan(manifest_kind: &str, provides: &[String]) -> Vec<Planned> {
    let kind = Kind::of(manifest_kind);
    let is_create = |name: &&str| name.starts_with("bdev_") && name.ends_with("_create");
    let creates: Vec<&str> =
        provides.iter().filter_map(|name| name.strip_prefix("rpc:")).filter(is_create).collect();
    let mut all = Vec::new();
    for check in CHECKS.iter().filter(|check| check.kinds.contains(&kind)) {
        let once = check.name.starts_with("plugin::") || creates.len() < 2;
        if once {
            let create = creates.first().map(|&name| name.to_owned());
            all.push(Planned { name: check.name.to_owned(), check: *check, create });
            continue;
        }
        all.extend(creates.iter().map(|create| Planned {
            name: format!("{} [{create}]", check.name),
            check: *check,
            create: Some((*create).to_owned()),
        }));
    }
    all
}

/// Runs one check and returns its result.
pub fn run(rig: &mut Rig<'_>, planned: &Planned) -> Line {
    let began = Instant::now();
    rig.maker = Some(maker(&rig.host.methods(), planned.create.as_deref()));
    // Drops earlier breaches, which this check did not cause.
    let _ = breach::take();
    let verdict = (planned.check.run)(rig);
    crate::guard::check_retired();
    let outcome = with_breaches(verdict.into(), &breach::take());
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Line { name: planned.name.clone(), outcome, ms }
}

fn maker(methods: &[Arc<Method>], create: Option<&str>) -> Maker {
    let find = |name: &str| methods.iter().find(|method| method.name == name).cloned();
    let delete = create.and_then(|create| find(&create.replace("_create", "_delete")));
    Maker { create: create.and_then(find), delete: delete.map(|method| method.name.clone()) }
}

/// A broken rule is a failure, whatever the check itself found.
fn with_breaches(outcome: Outcome, breaches: &[breach::Breach]) -> Outcome {
    let reported: Vec<String> = breaches
        .iter()
        .map(|breach| match breach.times {
            1 => breach.seen.clone(),
            times => format!("{} ({times} times)", breach.seen),
        })
        .collect();
    match (outcome, breaches.first()) {
        (outcome, None) => outcome,
        (Outcome::Failed { expected, seen }, Some(_)) => {
            Outcome::Failed { expected, seen: format!("{seen}; besides: {}", reported.join("; ")) }
        }
        (_, Some(first)) => {
            Outcome::Failed { expected: first.rule.to_owned(), seen: reported.join("; ") }
        }
    }
}
