//! Panics: no call of a method causes one.

use crate::client::DEADLINE;
use crate::rig::Rig;
use crate::verdict::{Stop, Verdict, failed};
use serde_json::{Value, json};

/// Calls every method with bad parameters. Each call must be answered, and none may make the plugin
/// panic.
pub(super) fn methods_bear_anything(rig: &mut Rig<'_>) -> Verdict {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\0"),
        json!("x".repeat(100_000)),
        json!([]),
        json!([[]]),
        json!({}),
    ];
    for method in rig.host.methods() {
        let named = method.params.iter().flat_map(|param| {
            values.iter().map(|value| {
                Value::Object([(param.name.to_string(), value.clone())].into_iter().collect())
            })
        });
        for params in named.chain([json!([]), json!({ "no such parameter": 1 })]) {
            // An error is an answer, too.
            let answer = rig.host.begin(&method.name, &params).recv_timeout(DEADLINE);
            if answer.is_err() {
                let seen = format!("{} did not answer a call with {params:.200}", method.name);
                return failed("every call is answered", seen);
            }
        }
    }
    none(rig)
}

/// Checks that the plugin has not panicked.
fn none(rig: &Rig<'_>) -> Verdict {
    let why = |why| Stop::failed("plugin_list answers", why);
    let list = rig.call("plugin_list", &json!({})).map_err(why)?;
    let plugins = list.as_array().into_iter().flatten();
    let failures = plugins.filter(|plugin| plugin.get("state") == Some(&json!("failed")));
    let mut reasons = failures.filter_map(|plugin| plugin.get("reason")?.as_str());
    match reasons.find(|reason| reason.starts_with("it panicked")) {
        Some(reason) => failed("no call of a method makes the plugin panic", reason),
        None => Ok(()),
    }
}
