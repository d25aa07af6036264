//! The client's side: one call at a time on one connection.

use drivebay_spec_jsonrpc::{FrameLimits, Framer, RpcError};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The limits of an answer, which may be longer and deeper than a request.
const ANSWER: FrameLimits = FrameLimits { len_bytes: 33 * 1024 * 1024, depth: 120 };

/// Why a call returned no result.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens at the socket.
    Connect(io::Error),
    /// The connection was lost.
    Io(io::Error),
    /// There was no answer in time.
    Timeout(Duration),
    /// The data that arrived is not an answer to this call.
    Protocol(String),
    /// The server answered with an error.
    Rpc(RpcError),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "cannot connect: {error}"),
            Self::Io(error) => write!(f, "connection lost: {error}"),
            Self::Timeout(limit) => write!(f, "no answer within {} ms", limit.as_millis()),
            Self::Protocol(what) => write!(f, "the server answered {what}"),
            Self::Rpc(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) | Self::Io(error) => Some(error),
            Self::Rpc(error) => Some(error),
            Self::Timeout(_) | Self::Protocol(_) => None,
        }
    }
}

/// A connection to a server. It cannot be used any more after any error except
/// [`ClientError::Rpc`].
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    framer: Framer,
    timeout: Duration,
    last_id: u64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: Value,
    /// A `null` that is present is a result, too.
    #[serde(default, deserialize_with = "present")]
    result: Option<Value>,
    error: Option<RpcError>,
}

fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

impl Client {
    /// Connects to the socket at `path`. Each call may take at most `timeout`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(ClientError::Connect)?;
        Ok(Self { stream, framer: Framer::new(ANSWER), timeout, last_id: 0 })
    }

    /// Calls `method` and waits for its result. `params` that are null are not sent.
    ///
    /// # Errors
    /// The server's error, or why there is no answer.
    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, ClientError> {
        let deadline = Instant::now() + self.timeout;
        self.last_id += 1;
        let mut request = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method});
        if let (Some(request), false) = (request.as_object_mut(), params.is_null()) {
            request.insert("params".into(), params.clone());
        }
        self.stream.set_write_timeout(Some(self.remaining(deadline)?)).map_err(ClientError::Io)?;
        let sent = self.stream.write_all(request.to_string().as_bytes());
        // A server that refuses the request closes the connection, but its answer may still be
        // readable.
        sent.or_else(|error| match error.kind() {
            ErrorKind::BrokenPipe => Ok(()),
            _ => Err(self.failed(error)),
        })?;
        let answer = self.receive(deadline)?;
        let is_ours = answer.id == self.last_id;
        match answer {
            // An error with a null id is about a request that the server could not read.
            Answer { error: Some(error), id, .. } if is_ours || id.is_null() => {
                Err(ClientError::Rpc(error))
            }
            Answer { result: Some(result), .. } if is_ours => Ok(result),
            Answer { id, .. } => {
                Err(ClientError::Protocol(format!("call {id}, not {}", self.last_id)))
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Answer, ClientError> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let broken = |error: &dyn fmt::Display| ClientError::Protocol(error.to_string());
            if let Some(frame) = self.framer.next_frame().map_err(|error| broken(&error))? {
                return serde_json::from_slice(frame).map_err(|error| broken(&error));
            }
            self.stream
                .set_read_timeout(Some(self.remaining(deadline)?))
                .map_err(ClientError::Io)?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ClientError::Io(ErrorKind::UnexpectedEof.into())),
                Ok(len) => self.framer.push(buffer.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// The time until `deadline`. Never zero, because a socket would take zero as no limit.
    fn remaining(&self, deadline: Instant) -> Result<Duration, ClientError> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(ClientError::Timeout(self.timeout)) } else { Ok(remaining) }
    }

    fn failed(&self, error: io::Error) -> ClientError {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Timeout(self.timeout),
            _ => ClientError::Io(error),
        }
    }
}
