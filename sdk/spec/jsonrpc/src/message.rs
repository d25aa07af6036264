//! Messages: reads requests from frames, and writes answers.

use crate::RpcError;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Maximum length of a string id, in characters.
pub const ID_MAX_CHARS: usize = 128;
/// Maximum number of requests in one batch.
pub const BATCH_MAX: usize = 1024;

/// The id of a request, a number or a string, spelled as received.
#[derive(Debug, Clone)]
pub struct Id(Box<RawValue>);

impl Id {
    /// The id as JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

/// One call.
#[derive(Debug)]
pub struct Request {
    /// `None` in a notification, which is executed without an answer.
    pub id: Option<Id>,
    /// Name of the method.
    pub method: String,
    /// An object or an array, as received; `None` when absent or null.
    pub params: Option<Box<RawValue>>,
}

/// The contents of one frame.
#[derive(Debug)]
pub enum Incoming {
    /// One request, or the error why it is not a request. The answer to an error has a null id.
    Single(Result<Request, RpcError>),
    /// Several requests, at least one. Their answers go into one array.
    Batch(Vec<Result<Request, RpcError>>),
}

impl Incoming {
    /// Reads one frame.
    ///
    /// # Errors
    /// The frame is not JSON: a parse error, after which the connection closes.
    pub fn parse(frame: &[u8]) -> Result<Self, RpcError> {
        let frame: &RawValue = serde_json::from_slice(frame).map_err(RpcError::parse)?;
        if !frame.get().starts_with('[') {
            return Ok(Self::Single(Request::parse(frame)));
        }
        let requests: Vec<&RawValue> =
            serde_json::from_str(frame.get()).map_err(RpcError::parse)?;
        Ok(match requests.len() {
            0 => Self::Single(Err(RpcError::invalid_request("the batch is empty"))),
            1..=BATCH_MAX => Self::Batch(requests.into_iter().map(Request::parse).collect()),
            _ => Self::Single(Err(RpcError::invalid_request(format!(
                "the batch holds more than {BATCH_MAX} requests"
            )))),
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    method: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
}

impl Request {
    fn parse(text: &RawValue) -> Result<Self, RpcError> {
        // Without this check the derived decoder would also accept a JSON array.
        if !text.get().starts_with('{') {
            return Err(RpcError::invalid_request("a request must be an object"));
        }
        let members: Members<'_> =
            serde_json::from_str(text.get()).map_err(RpcError::invalid_request)?;
        let invalid = |why: &str| Err(RpcError::invalid_request(why));
        if members.jsonrpc.is_some_and(|version| string(version).as_deref() != Some("2.0")) {
            return invalid("jsonrpc must be \"2.0\" or absent");
        }
        let Some(method) = members.method.and_then(string) else {
            return invalid("method must be a string");
        };
        if members.params.is_some_and(|params| !params.get().starts_with(['{', '['])) {
            return invalid("params must be an object or absent");
        }
        Ok(Self {
            id: members.id.map(Id::parse).transpose()?,
            method,
            params: members.params.map(ToOwned::to_owned),
        })
    }
}

impl Id {
    fn parse(text: &RawValue) -> Result<Self, RpcError> {
        let json = text.get();
        let is_allowed = match json.as_bytes().first() {
            Some(b'"') => string(text).is_some_and(|id| id.chars().count() <= ID_MAX_CHARS),
            Some(b'-' | b'0'..=b'9') => json.len() <= ID_MAX_CHARS,
            _ => false,
        };
        if !is_allowed {
            return Err(RpcError::invalid_request(format!(
                "id must be a number or a string of at most {ID_MAX_CHARS} characters"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

fn string(text: &RawValue) -> Option<String> {
    serde_json::from_str(text.get()).ok()
}

/// Writes the answer to a successful call. `result` is JSON text.
pub fn encode_result(id: &Id, result: &RawValue) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{}}}"#, id.as_json(), result.get())
}

/// Writes the answer to a failed call. `id` is `None` when the request had no readable id.
pub fn encode_error(id: Option<&Id>, error: &RpcError) -> String {
    let id = id.map_or("null", Id::as_json);
    // A struct of an integer, a string and a `Value` can always be encoded.
    let error = serde_json::to_string(error).unwrap_or_else(|_| r#"{"code":-32603}"#.into());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// Writes the answer to a batch; `None` when it had notifications only.
pub fn encode_batch(answers: &[String]) -> Option<String> {
    (!answers.is_empty()).then(|| format!("[{}]", answers.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code;

    fn single(frame: &str) -> Result<Request, RpcError> {
        match Incoming::parse(frame.as_bytes()).unwrap() {
            Incoming::Single(request) => request,
            Incoming::Batch(_) => panic!("{frame} is a batch"),
        }
    }

    #[test]
    fn a_request_without_version_is_accepted() {
        let request = single(r#"{"method":"m","id":7,"params":{"a":1}}"#).unwrap();
        assert_eq!(request.method, "m");
        assert_eq!(request.id.unwrap().as_json(), "7");
        assert_eq!(request.params.unwrap().get(), r#"{"a":1}"#);
    }

    #[test]
    fn absent_and_null_ids_make_notifications_and_null_params_are_absent() {
        assert!(single(r#"{"method":"m"}"#).unwrap().id.is_none());
        let request = single(r#"{"method":"m","id":null,"params":null}"#).unwrap();
        assert!(request.id.is_none() && request.params.is_none());
    }

    #[test]
    fn what_is_no_request_is_answered_as_invalid() {
        let with_id_of = |chars| format!(r#"{{"method":"m","id":"{}"}}"#, "é".repeat(chars));
        assert!(single(&with_id_of(128)).is_ok());
        for frame in [
            r#"{"jsonrpc":"1.0","method":"m","id":1}"#,
            r#"{"jsonrpc":2.0,"method":"m","id":1}"#,
            r#"{"id":1}"#,
            r#"{"method":1,"id":1}"#,
            r#"{"method":"m","id":true}"#,
            r#"{"method":"m","id":[]}"#,
            r#"{"method":"m","params":"x","id":1}"#,
            r#"{"method":"m","parms":{},"id":1}"#,
            r#"{"method":"m","method":"n","id":1}"#,
            r#"[]"#,
            &with_id_of(129),
        ] {
            assert_eq!(single(frame).unwrap_err().code, code::INVALID_REQUEST, "{frame}");
        }
    }

    #[test]
    fn broken_json_is_a_parse_error() {
        for frame in [&b"{\"method\":tru}"[..], b"{\"method\":\"\xff\"}", b"{01:1}"] {
            assert_eq!(Incoming::parse(frame).unwrap_err().code, code::PARSE_ERROR);
        }
    }

    #[test]
    fn a_batch_keeps_order_and_marks_what_is_no_request() {
        let Incoming::Batch(requests) = Incoming::parse(br#"[{"method":"a"},1,[]]"#).unwrap()
        else {
            panic!("a batch");
        };
        assert!(requests[0].is_ok() && requests[1].is_err() && requests[2].is_err());
    }

    #[test]
    fn answers_hold_nothing_but_version_id_and_outcome() {
        let id = single(r#"{"method":"m","id":"x\u0041"}"#).unwrap().id.unwrap();
        let result = RawValue::from_string("[1]".into()).unwrap();
        assert_eq!(encode_result(&id, &result), r#"{"jsonrpc":"2.0","id":"x\u0041","result":[1]}"#);
        let error = RpcError { code: -19, message: "No such device".into(), data: None };
        assert_eq!(
            encode_error(None, &error),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-19,"message":"No such device"}}"#
        );
    }
}
