//! JSON-RPC over a socket, to either side.

use serde_json::{Deserializer, Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest time of a call: one call may create 10,000 disks.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that makes one call at a time.
pub(super) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
}

impl Client {
    pub(super) fn connect(socket: &Path) -> Result<Self, String> {
        let context = |error| format!("{}: {error}", socket.display());
        let stream = UnixStream::connect(socket).map_err(context)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(context)?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Makes a call and returns its result.
    pub(super) fn call(&mut self, method: &str, params: &Value) -> Result<Value, String> {
        let context = |error: std::io::Error| format!("{method}: {error}");
        let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
        if let (Some(request), false) = (request.as_object_mut(), params.is_null()) {
            request.insert("params".to_owned(), params.clone());
        }
        self.stream.write_all(request.to_string().as_bytes()).map_err(context)?;
        loop {
            if let Some(answer) = self.answer() {
                let result = answer.get("result").cloned();
                return result.ok_or_else(|| format!("{method} {params}: {answer}"));
            }
            let mut bytes = [0; 65536];
            let len = self.stream.read(&mut bytes).map_err(context)?;
            if len == 0 {
                return Err(format!("{method}: the server closed the connection"));
            }
            self.input.extend(bytes.iter().take(len));
        }
    }

    /// The answer, once all of it has arrived.
    fn answer(&mut self) -> Option<Value> {
        let mut values = Deserializer::from_slice(&self.input).into_iter::<Value>();
        let answer = values.next()?.ok()?;
        let used = values.byte_offset();
        self.input.drain(..used);
        Some(answer)
    }
}
