//! Tests of the server through its socket, as clients use it.

use super::*;
use drivebay_spec_jsonrpc::{FrameLimits, Method, NoParams, Params, Role, State, code, params};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

params! {
    /// Parameters of `echo`.
    struct Echo {
        /// Given back.
        text: String,
    }
    /// Parameters of `fill`.
    struct Fill {
        /// Length of the result, in bytes.
        len_bytes: u32,
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    registry: Arc<Registry>,
    /// The responders of `hold`, in the order of their calls.
    held: Receiver<Responder>,
    /// The number of calls of `count`.
    counted: Arc<AtomicUsize>,
    server: Option<Server>,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rpc.sock");
        let registry = Arc::new(Registry::new());
        registry.set_state(State::Runtime);
        register_builtin(&registry).unwrap();
        let (sender, held) = mpsc::channel();
        let sender = Mutex::new(sender);
        let counted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&counted);
        add::<Echo>(&registry, "echo", handler(|Echo { text }| Ok(text)));
        add::<Fill>(
            &registry,
            "fill",
            handler(|Fill { len_bytes }| Ok("x".repeat(len_bytes as usize))),
        );
        add::<NoParams>(
            &registry,
            "hold",
            async_handler(move |NoParams {}, responder| {
                sender.lock().unwrap().send(responder).unwrap();
            }),
        );
        add::<NoParams>(
            &registry,
            "count",
            handler(move |NoParams {}| Ok(counter.fetch_add(1, Ordering::SeqCst))),
        );
        let mut config = Config::new(&path);
        change(&mut config);
        let server = Some(Server::start(config, Arc::clone(&registry) as _).unwrap());
        Self { _dir: dir, path, registry, held, counted, server }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the server sends until it closes the connection, after the client has sent `bytes` and
    /// ended its side.
    fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        read_to_end(&mut stream)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path, PATIENCE).unwrap()
    }

    fn next_held(&self) -> Responder {
        self.held.recv_timeout(PATIENCE).unwrap()
    }
}

fn add<P: Params>(registry: &Registry, name: &str, handler: Handler) {
    let method = Method::new::<P>(name, Role::Read, "For tests.");
    registry.register(&Owner::host(), method, handler).unwrap();
}

fn read_to_end(stream: &mut UnixStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn code_of(answer: &str) -> i64 {
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!(answer["id"], Value::Null);
    answer["error"]["code"].as_i64().unwrap()
}

#[test]
fn a_call_is_answered_with_a_newline_and_nothing_more() {
    assert_eq!(
        Fixture::new().exchange(r#"{"method":"echo","params":{"text":"a\nb"},"id":"x"}"#),
        "{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"result\":\"a\\nb\"}\n"
    );
}

#[test]
fn a_request_that_arrives_byte_by_byte_is_answered_while_the_connection_stays_open() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    for byte in b"{ \"method\": \"echo\",\n \"params\": {\"text\": \"}\"}, \"id\": 1 }" {
        stream.write_all(&[*byte]).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
    let expected = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"}\"}\n";
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), expected);
}

#[test]
fn requests_back_to_back_are_answered_one_by_one() {
    let answers = Fixture::new()
        .exchange(r#"{"method":"echo","params":{"text":"1"},"id":1}{"method":"nothing","id":2}"#);
    let answers: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0], json!({"jsonrpc": "2.0", "id": 1, "result": "1"}));
    assert_eq!(answers[1]["error"]["code"], code::METHOD_NOT_FOUND);
    assert!(answers[1]["error"]["message"].as_str().unwrap().starts_with("Method not found"));
}

#[test]
fn a_notification_is_executed_and_not_answered() {
    let fixture = Fixture::new();
    assert_eq!(fixture.exchange(r#"{"method":"count"}{"method":"count","id":null}"#), "");
    assert_eq!(fixture.counted.load(Ordering::SeqCst), 2);
}

#[test]
fn what_a_client_sends_before_it_closes_is_executed() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream.write_all(br#"{"method":"hold"}"#).unwrap();
    drop(stream);
    fixture.next_held().ok(&());
}

#[test]
fn a_batch_is_answered_in_its_order_by_one_array_when_its_last_call_is() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream
        .write_all(br#"[{"method":"hold","id":1},{"method":"count"},{"method":"echo","params":{"text":"x"},"id":2},7]"#)
        .unwrap();
    let held = fixture.next_held();
    assert_eq!(fixture.client().call("echo", &json!({"text": "y"})).unwrap(), "y");
    held.ok("held");
    stream.shutdown(Shutdown::Write).unwrap();
    let answer: Value = serde_json::from_str(&read_to_end(&mut stream)).unwrap();
    assert_eq!(answer.as_array().unwrap().len(), 3);
    assert_eq!(answer[0]["result"], "held");
    assert_eq!(answer[1]["result"], "x");
    assert_eq!(answer[2]["error"]["code"], code::INVALID_REQUEST);
}

#[test]
fn an_empty_batch_is_invalid_and_one_of_notifications_is_silent() {
    let fixture = Fixture::new();
    assert_eq!(code_of(&fixture.exchange("[]")), code::INVALID_REQUEST);
    assert_eq!(fixture.exchange(r#"[{"method":"count"}]"#), "");
}

#[test]
fn an_invalid_request_leaves_the_connection_open() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream
        .write_all(br#"{"jsonrpc":"1.0","method":"count","id":1}{"method":"count","id":2}"#)
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answers = read_to_end(&mut stream);
    let (first, second) = answers.split_once('\n').unwrap();
    assert_eq!(code_of(first), code::INVALID_REQUEST);
    assert!(second.contains(r#""id":2,"result":0"#), "{second}");
}

#[test]
fn broken_json_is_answered_and_the_connection_closed() {
    let fixture = Fixture::new();
    for broken in ["hello", "{]", "{\"method\":tru}", &"[".repeat(65)] {
        let mut stream = fixture.connect();
        stream.write_all(broken.as_bytes()).unwrap();
        // The client has not ended its side: the server closes.
        assert_eq!(code_of(&read_to_end(&mut stream)), code::PARSE_ERROR, "{broken}");
    }
    assert_eq!(code_of(&fixture.exchange("{\"method\":")), code::PARSE_ERROR);
}

#[test]
fn a_request_that_is_too_long_is_refused_readably_while_the_client_still_sends() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    let request = format!(r#"{{"method":"echo","params":{{"text":"{}"}}}}"#, "x".repeat(4 << 20));
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(code_of(&read_to_end(&mut stream)), code::INVALID_REQUEST);
}

#[test]
fn bad_parameters_are_named() {
    let error = Fixture::new().client().call("echo", &json!({"text": 1})).unwrap_err();
    let ClientError::Rpc(error) = error else { panic!("{error}") };
    assert_eq!(error.code, code::INVALID_PARAMS);
    assert_eq!(error.data.unwrap()["field"], "text");
}

#[test]
fn sixty_four_clients_are_served_at_once_and_the_next_waits_for_a_place() {
    let fixture = Fixture::new();
    let mut streams: Vec<UnixStream> = (0..64)
        .map(|id| {
            let mut stream = fixture.connect();
            write!(stream, r#"{{"method":"hold","id":{id}}}"#).unwrap();
            stream
        })
        .collect();
    let held: Vec<Responder> = streams.iter().map(|_| fixture.next_held()).collect();
    let mut late = fixture.connect();
    late.write_all(br#"{"method":"echo","params":{"text":"late"},"id":1}"#).unwrap();
    late.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(late.read(&mut [0]).is_err(), "more than 64 clients were served");
    thread::scope(|scope| {
        for responder in held {
            scope.spawn(move || responder.ok(&1));
        }
    });
    for (id, mut stream) in streams.drain(..).enumerate() {
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(read_to_end(&mut stream).contains(&format!("\"id\":{id},")));
    }
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    late.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_end(&mut late).contains("late"));
}

#[test]
fn a_client_that_never_reads_is_dropped_in_time_and_hinders_nobody() {
    let fixture = Fixture::with(|config| config.stall_timeout = Duration::from_millis(300));
    let mut stuck = fixture.connect();
    stuck.write_all(br#"{"method":"fill","params":{"len_bytes":8000000},"id":1}"#).unwrap();
    // The answer is on its way. Its encoding may take a while on a busy machine.
    stuck.read_exact(&mut [0]).unwrap();
    let begun = Instant::now();
    let mut client = fixture.client();
    while begun.elapsed() < Duration::from_millis(900) {
        assert_eq!(client.call("echo", &json!({"text": "x"})).unwrap(), "x");
    }
    let mut got = Vec::new();
    let _ = stuck.read_to_end(&mut got);
    assert!(got.len() + 1 < 8_000_000, "the whole answer was kept for {} bytes", got.len());
}

#[test]
fn a_client_that_asks_on_without_reading_is_held_back() {
    let fixture = Fixture::new();
    let mut greedy = fixture.connect();
    greedy.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let request = br#"{"method":"fill","params":{"len_bytes":20000},"id":1}"#;
    let mut sent = 0_usize;
    while greedy.write_all(request).is_ok() {
        sent += 1;
        assert!(sent < 100_000, "the server must stop reading requests");
    }
    assert_eq!(fixture.client().call("echo", &json!({"text": "x"})).unwrap(), "x");
}

#[test]
fn every_request_of_a_long_pipeline_is_answered_to_a_slow_reader() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = thread::spawn(move || {
        for id in 0..500 {
            write!(writer, r#"{{"method":"fill","params":{{"len_bytes":5000}},"id":{id}}}"#)
                .unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    thread::sleep(Duration::from_millis(100));
    assert_eq!(read_to_end(&mut stream).lines().count(), 500);
    sender.join().unwrap();
}

#[test]
fn a_request_that_stops_halfway_is_given_up() {
    let fixture = Fixture::with(|config| config.stall_timeout = Duration::from_millis(100));
    let mut stream = fixture.connect();
    stream.write_all(b"{\"method\":").unwrap();
    assert_eq!(read_to_end(&mut stream), "");
}

#[test]
fn an_idle_client_stays() {
    let fixture = Fixture::with(|config| config.stall_timeout = Duration::from_millis(50));
    let mut client = fixture.client();
    client.call("count", &Value::Null).unwrap();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(client.call("count", &Value::Null).unwrap(), 1);
}

#[test]
fn an_answer_beyond_the_limit_becomes_an_error() {
    let fixture = Fixture::with(|config| config.max_answer_bytes = 1000);
    let mut client = fixture.client();
    let error = client.call("fill", &json!({"len_bytes": 999})).unwrap_err();
    assert!(error.to_string().contains("longer than 1000 bytes"), "{error}");
    assert!(client.call("fill", &json!({"len_bytes": 998})).is_ok());
}

#[test]
fn a_client_may_have_only_so_many_calls_outstanding() {
    let fixture = Fixture::with(|config| config.max_outstanding = 2);
    let mut stream = fixture.connect();
    stream.write_all(br#"{"method":"hold","id":1}"#.repeat(3).as_slice()).unwrap();
    let (first, second) = (fixture.next_held(), fixture.next_held());
    assert!(fixture.held.recv_timeout(Duration::from_millis(100)).is_err());
    first.ok(&());
    fixture.next_held().ok(&());
    second.ok(&());
}

#[test]
fn a_method_that_drops_its_responder_is_answered_for() {
    let fixture = Fixture::new();
    let waiting = thread::spawn({
        let mut client = fixture.client();
        move || client.call("hold", &Value::Null)
    });
    drop(fixture.next_held());
    let Err(ClientError::Rpc(error)) = waiting.join().unwrap() else { panic!("an error") };
    assert_eq!(error.code, code::INTERNAL_ERROR);
}

#[test]
fn a_client_waits_no_longer_than_it_said() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.path, Duration::from_millis(50)).unwrap();
    let error = client.call("hold", &Value::Null).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");
}

#[test]
fn stopping_sends_what_is_answered_and_removes_the_socket() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream.write_all(br#"{"method":"hold","id":1}"#).unwrap();
    fixture.next_held().ok("last");
    fixture.server.take().unwrap().stop();
    assert!(read_to_end(&mut stream).contains("last"));
    assert!(!fixture.path.exists());
}

#[test]
fn the_command_prints_results_and_tells_errors_apart() {
    let fixture = Fixture::new();
    let run = |method: &str| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let options = crate::cli::Rpc {
            rpc_socket: Some(fixture.path.clone()),
            timeout: Duration::from_secs(60),
            wait: None,
            help: false,
            method: Some(method.to_owned()),
            params: None,
        };
        let exit = crate::rpc_command::run(&options, &mut out, &mut err);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (exit, out, _) = run("spdk_get_version");
    assert_eq!(exit, 0);
    assert!(out.contains("\n  \"fields\": {\n    \"major\": 26"), "{out}");
    let (exit, out, err) = run("nothing");
    assert_eq!((exit, out.as_str()), (1, ""));
    assert!(err.contains("error -32601: Method not found"), "{err}");
}

#[test]
fn built_in_methods_answer_as_clients_expect() {
    let fixture = Fixture::new();
    let early =
        Method::new::<NoParams>("early", Role::Read, "x").states(&[State::Startup]).alias("dawn");
    fixture.registry.register(&Owner::host(), early, handler(|NoParams {}| Ok(()))).unwrap();
    let mut client = fixture.client();
    // The list without methods that are accepted without effect.
    let mut list = |params: Value| -> Value {
        let names = client.call("rpc_get_methods", &params).unwrap();
        let names = names.as_array().unwrap().iter();
        names.filter(|name| !has_no_effect(name.as_str().unwrap())).cloned().collect()
    };
    assert_eq!(
        list(Value::Null),
        json!([
            "count",
            "early",
            "echo",
            "fill",
            "hold",
            "rpc.discover",
            "rpc_get_methods",
            "spdk_get_version"
        ])
    );
    assert!(!list(json!({"current": true})).as_array().unwrap().contains(&json!("early")));
    assert!(list(json!({"include_aliases": true})).as_array().unwrap().contains(&json!("dawn")));
}

#[test]
fn depth_and_length_limits_come_from_the_configuration() {
    let fixture = Fixture::with(|config| config.request = FrameLimits { len_bytes: 64, depth: 2 });
    assert_eq!(code_of(&fixture.exchange(r#"{"a":{"b":{}}}"#)), code::PARSE_ERROR);
    let long = format!(r#"{{"method":"{}"}}"#, "m".repeat(64));
    assert_eq!(code_of(&fixture.exchange(long)), code::INVALID_REQUEST);
}
