//! The order of the calls in a configuration. Calls that let clients in come last, because a client
//! that connects before its disks exist may give up for good.

use super::document::Entry;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Calls that let clients in at once unless their parameter `wait` is true. With `wait`, the second
/// call lets them in. Both calls have the same `tag`.
const OPENING: [(&str, &str); 1] = [("iscsi_create_portal_group", "iscsi_start_portal_group")];

/// Moves the calls for which `lets_clients_in` returns true to the end. A call that both creates
/// and opens something is split into two calls.
pub(super) fn put_clients_last(
    entries: &mut Vec<(String, Entry)>,
    lets_clients_in: impl Fn(&str) -> bool,
) {
    let mut known = BTreeMap::new();
    let mut is_last = |method: &str| match known.get(method) {
        Some(is_last) => *is_last,
        None => *known.entry(method.to_owned()).or_insert(lets_clients_in(method)),
    };
    let opened: Vec<_> = entries
        .iter_mut()
        .filter_map(|(subsystem, entry)| {
            let (_, open) = OPENING.into_iter().find(|(create, _)| *create == entry.method)?;
            let tag = is_last(open).then(|| make_wait(entry)).flatten()?;
            let open = Entry { method: open.to_owned(), params: Some(json!({"tag": tag})) };
            Some((subsystem.clone(), open))
        })
        .collect();
    entries.extend(opened);
    entries.sort_by_cached_key(|(_, entry)| is_last(&entry.method));
}

/// Sets `wait` in a call. Returns its tag, or `None` when `wait` was already set.
fn make_wait(entry: &mut Entry) -> Option<Value> {
    let params = entry.params.as_mut()?.as_object_mut()?;
    let tag = params.get("tag")?.clone();
    let waits = params.insert("wait".to_owned(), true.into());
    (waits != Some(true.into())).then_some(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(calls: Value) -> Value {
        let calls: Vec<Entry> = serde_json::from_value(calls).unwrap();
        let mut entries = calls.into_iter().map(|call| ("s".to_owned(), call)).collect();
        put_clients_last(&mut entries, |method| {
            ["nvmf_subsystem_add_listener", "iscsi_start_portal_group"].contains(&method)
        });
        json!(entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>())
    }

    #[test]
    fn calls_that_let_clients_in_keep_their_order_behind_all_others() {
        let [first, second] =
            [1, 2].map(|at| json!({"method": "nvmf_subsystem_add_listener", "params": at}));
        let other = json!({"method": "bdev_null_create"});
        assert_eq!(ordered(json!([first, other, second])), json!([other, first, second]));
    }

    #[test]
    fn a_portal_group_that_would_open_at_once_is_created_closed_and_started_last() {
        let create = |wait: Value| json!({"method": "iscsi_create_portal_group", "params": {"tag": 7, "wait": wait}});
        let target = json!({"method": "iscsi_create_target_node"});
        let start = json!({"method": "iscsi_start_portal_group", "params": {"tag": 7}});
        for wait in [json!(false), Value::Null] {
            let expected = json!([create(json!(true)), target, start]);
            assert_eq!(ordered(json!([create(wait), target])), expected);
        }
        let saved = json!([create(json!(true)), start, target]);
        assert_eq!(ordered(saved), json!([create(json!(true)), target, start]));
    }
}
