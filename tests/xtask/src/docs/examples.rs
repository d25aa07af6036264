//! The examples of the RPC reference: calls that build on each other, made on a host in this order.
//!
//! An entry with `needs` is not called, because not every machine has what it needs.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;

use drivebay_spec_jsonrpc::Method;
use serde_json::{Map, Value, json};

use crate::host::Host;

/// A call and its answer.
pub(super) struct Example {
    pub(super) params: Map<String, Value>,
    /// The answer. `None` if it differs from run to run, or if the call was not made.
    pub(super) answer: Option<Value>,
    /// What the call needs that not every machine has. Then the call was not made.
    pub(super) needs: Option<String>,
}

/// Paths and ports in the examples, and those that replace them in the real calls.
struct Places(Vec<(&'static str, String)>);

impl Places {
    fn new(host: &Host, built: &Path) -> Result<Self, String> {
        let context = |error: std::io::Error| format!("examples: {error}");
        for name in ["disk0.img", "disk1.img"] {
            let file = File::create_new(host.folder.join(name)).map_err(context)?;
            file.set_len(8 << 20).map_err(context)?;
        }
        let free = || TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr());
        let iscsi = free().map_err(context)?.port();
        Ok(Self(vec![
            ("/usr/lib/drivebay/plugins/", format!("{}/", built.display())),
            ("/srv/", format!("{}/", host.folder.display())),
            ("\"4420\"", format!("\"{}\"", free().map_err(context)?.port())),
            ("\"port\":10809", format!("\"port\":{}", free().map_err(context)?.port())),
            ("\"3260\"", format!("\"{iscsi}\"")),
            (":3260/", format!(":{iscsi}/")),
        ]))
    }

    fn here(&self, value: &Value) -> Result<Value, String> {
        let text = value.to_string();
        replaced(self.0.iter().fold(text, |text, (shown, here)| text.replace(shown, here)))
    }

    fn shown(&self, value: &Value) -> Result<Value, String> {
        let text = value.to_string();
        replaced(self.0.iter().fold(text, |text, (shown, here)| text.replace(here, shown)))
    }
}

fn replaced(text: String) -> Result<Value, String> {
    serde_json::from_str(&text).map_err(|error| format!("{text}: {error}"))
}

/// Makes all calls and holds each answer against the result that its method declares. The last call ends the host.
pub(super) fn call_all(
    host: &Host,
    built: &Path,
    methods: &[Method],
) -> Result<BTreeMap<String, Example>, String> {
    let list: Vec<Value> = serde_json::from_str(include_str!("examples.json"))
        .map_err(|error| format!("examples.json: {error}"))?;
    let places = Places::new(host, built)?;
    let mut examples = BTreeMap::new();
    for example in list {
        let method = example.get("method").and_then(Value::as_str);
        let method = method.ok_or("examples.json: an entry has no method")?;
        let params = example.get("params").cloned().unwrap_or_else(|| json!({}));
        let varies = example.get("varies") == Some(&Value::Bool(true));
        let needs = example.get("needs").and_then(Value::as_str).map(str::to_owned);
        let answer = match needs {
            Some(_) => None,
            None => Some(places.shown(&host.answer(method, &places.here(&params)?)?)?),
        };
        let declared = methods.iter().find(|declared| declared.name == method);
        if let (Some(declared), Some(answer)) = (declared, &answer) {
            declared.check_result(answer).map_err(|why| format!("{method}: {why}"))?;
        }
        let Value::Object(params) = params else {
            return Err(format!("examples.json: {method}: params must be an object"));
        };
        let example = Example { params, answer: answer.filter(|_| !varies), needs };
        if examples.insert(method.to_owned(), example).is_some() {
            return Err(format!("examples.json: {method} has two examples"));
        }
    }
    Ok(examples)
}
