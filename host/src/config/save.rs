//! The calls that make the present state again.

use super::document::{Document, Section};
use crate::app::Host;
use crate::methods::{bdev_options, iobuf};
use crate::subsystems::OWN;
use drivebay_core::bdev::{self, Bdev, examine};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The whole configuration. App thread.
pub fn document(host: &Host) -> Document {
    let own = OWN.iter().map(|(name, _)| (*name).to_owned());
    let names = own.chain(host.subsystems.of_plugins(&host.manager));
    let section = |name: String| Section { config: subsystem(host, &name), subsystem: name };
    Document { subsystems: names.map(section).collect() }
}

/// The calls of one subsystem; `None` when there is none of that name. App thread.
pub fn subsystem(host: &Host, name: &str) -> Option<Vec<Value>> {
    let mut calls = match name {
        "iobuf" => vec![iobuf::config()],
        "bdev" => bdevs(),
        _ if host.subsystems.of_plugins(&host.manager).iter().any(|known| known == name) => {
            Vec::new()
        }
        _ => return None,
    };
    for text in host.subsystems.configs(name) {
        calls.extend(parse(&text, name));
    }
    if name == "bdev" {
        calls.push(json!({"method": "bdev_wait_for_examine"}));
    }
    Some(calls)
}

fn bdevs() -> Vec<Value> {
    let mut calls = vec![bdev_options::config()];
    calls.extend(examine::module_configs().iter().flat_map(|text| parse(text, "bdev")));
    for bdev in bases_first(bdev::all()) {
        let text = bdev.config().unwrap_or_default();
        calls.extend(parse(&text, &bdev.name));
    }
    calls
}

/// A filter comes after its base; otherwise the order of names.
fn bases_first(bdevs: Vec<Arc<Bdev>>) -> Vec<Arc<Bdev>> {
    let names: Vec<(String, Option<String>)> =
        bdevs.iter().map(|bdev| (bdev.name.clone(), bdev.base.clone())).collect();
    let order = sort(&names);
    order.into_iter().filter_map(|place| bdevs.get(place).cloned()).collect()
}

/// Places of (name, base) such that a base comes before what stands on it.
fn sort(names: &[(String, Option<String>)]) -> Vec<usize> {
    let mut order = Vec::new();
    let mut done = BTreeSet::new();
    let known: BTreeSet<&str> = names.iter().map(|(name, _)| name.as_str()).collect();
    while order.len() < names.len() {
        let before = order.len();
        for (place, (name, base)) in names.iter().enumerate() {
            let is_ready = match base.as_deref() {
                Some(base) => done.contains(base) || !known.contains(base),
                None => true,
            };
            if is_ready && done.insert(name.as_str()) {
                order.push(place);
            }
        }
        if order.len() == before {
            // Bases in a circle: their order is of no use, but none is left out.
            order.extend((0..names.len()).filter(|place| {
                names.get(*place).is_some_and(|(name, _)| !done.contains(name.as_str()))
            }));
        }
    }
    order
}

/// Reads JSON objects separated by commas, as a module writes them.
fn parse(text: &str, of: &str) -> Vec<Value> {
    serde_json::from_str(&format!("[{text}]")).unwrap_or_else(|error| {
        tracing::error!(of, "its configuration is left out: {error}");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_come_before_what_stands_on_them_and_circles_end() {
        let named = |list: &[(&str, Option<&str>)]| {
            let owned =
                |(name, base): &(&str, Option<&str>)| ((*name).to_owned(), base.map(str::to_owned));
            list.iter().map(owned).collect::<Vec<_>>()
        };
        let names = named(&[("a", Some("b")), ("b", Some("c")), ("c", None), ("d", Some("gone"))]);
        assert_eq!(sort(&names), [2, 3, 1, 0]);
        assert_eq!(sort(&named(&[("a", Some("b")), ("b", Some("a"))])), [0, 1]);
    }

    #[test]
    fn what_modules_write_is_a_list_without_brackets() {
        assert_eq!(parse(r#"{"method":"a"},{"method":"b"}"#, "x").len(), 2);
        assert!(parse("", "x").is_empty());
        assert!(parse("{", "x").is_empty());
    }
}
