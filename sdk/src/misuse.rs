//! Misuse that the compiler must refuse. Each case is a documentation test; a change of the SDK that lets one compile fails it.
//!
//! A `compile_fail` test cannot tell the error that it wants from a wrong name. So each case has a twin that differs in the one
//! forbidden thing and compiles.

/// The types that stay on their lightweight thread: sending one to another thread does not compile.
macro_rules! stay_on_their_thread {
    ($($name:ident = $type:literal;)*) => {
        /// The twin of the cases below: the types exist.
        ///
        #[doc = concat!(
            "```\nuse drivebay_sdk::*;\nfn exists<T: 'static>() {}\n",
            $("exists::<", $type, ">();\n",)*
            "```"
        )]
        struct Exist;

        $(
            #[doc = concat!(
                "```compile_fail,E0277\nuse drivebay_sdk::*;\nfn is_sent<T: Send + 'static>() {}\nis_sent::<", $type, ">();\n```"
            )]
            struct $name;
        )*
    };
}

stay_on_their_thread! {
    AppToken = "&'static App";
    Io = "bdev::BdevIo";
    Ios = "bdev::IoQueue";
    FannedOut = "bdev::FanOut";
    Child = "bdev::Child";
    Channel = "bdev::Channel";
    Handle = "bdev::ChannelHandle";
    Opening = "bdev::Opening<bdev::Part>";
    Closing = "bdev::Closing";
    Ending = "bdev::Ending";
    Examine = "bdev::Examine";
    Poller = "poller::Poller";
    Buffer = "buf::Buf";
    WaitForBuffer = "buf::Wait";
    Method = "rpc::Method";
    MemberOfSet = "runtime::resident::Member<u8>";
    Qpair = "nvmf::transport::Qpair<u8>";
    Request = "nvmf::transport::Request<std::rc::Rc<u8>>";
    Provided = "broker::Provided<drivebay_plugin_api::bay_nvmf_target_api>";
    Reference = "broker::Reference<drivebay_plugin_api::bay_nvmf_target_api>";
}

/// Only code on the app thread has an [`App`](crate::App), and it cannot keep one. A poller has none, and asks:
///
/// ```
/// use drivebay_sdk::{App, Result, bdev, poller::Poller};
/// fn start(app: &App) -> Result<Poller> {
///     let disk = bdev::open(app, "disk", false, |_, _| {})?;
///     Poller::register("poller", 0, move || disk.info().is_ok())
/// }
/// ```
///
/// ```compile_fail,E0521
/// use drivebay_sdk::{App, Result, bdev, poller::Poller};
/// fn start(app: &App) -> Result<Poller> {
///     Poller::register("poller", 0, move || bdev::open(app, "disk", false, |_, _| {}).is_ok())
/// }
/// ```
struct KeptApp;

/// [`App::here`](crate::App::here) lends the token for one call:
///
/// ```no_run
/// let name = drivebay_sdk::App::here(|_| "name");
/// ```
///
/// ```compile_fail
/// let app = drivebay_sdk::App::here(|app| app);
/// ```
struct LentApp;

/// Other threads get values that are `Send`, not parts of a shared one:
///
/// ```
/// use std::sync::Arc;
/// let value = Arc::new(1);
/// # if false {
/// drivebay_sdk::thread::app().send(move || drop(value));
/// # }
/// ```
///
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// let value = Rc::new(1);
/// # if false {
/// drivebay_sdk::thread::app().send(move || drop(value));
/// # }
/// ```
struct SentRc;

/// Work on another OS thread captures only what is `Send`:
///
/// ```
/// # use std::sync::Arc;
/// # async fn example() {
/// let value = Arc::new(1);
/// let _ = drivebay_sdk::runtime::worker::run("work", move || drop(value)).await;
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # use std::rc::Rc;
/// # async fn example() {
/// let value = Rc::new(1);
/// let _ = drivebay_sdk::runtime::worker::run("work", move || drop(value)).await;
/// # }
/// ```
struct WorkOnRc;

/// The buffers of an I/O end with it:
///
/// ```
/// use drivebay_sdk::{Status, bdev::BdevIo};
/// fn submit(io: BdevIo) {
///     let buffers = io.buffers();
///     buffers.zero();
///     io.complete(Status::SUCCESS);
/// }
/// ```
///
/// ```compile_fail,E0505
/// use drivebay_sdk::{Status, bdev::BdevIo};
/// fn submit(io: BdevIo) {
///     let buffers = io.buffers();
///     io.complete(Status::SUCCESS);
///     buffers.zero();
/// }
/// ```
struct BuffersOfCompleted;

/// A library makes only promises that the host knows:
///
/// ```standalone_crate
/// # use drivebay_sdk::{App, Result, plugin};
/// plugin! {
///     name: "x", kind: "bdev", provides: [], requires: [], methods: [],
///     unsafe(threads_move),
///     start: start,
/// }
/// # fn start(_app: &App) -> Result<()> { Ok(()) }
/// # fn main() {}
/// ```
///
/// ```compile_fail,E0080,standalone_crate
/// # use drivebay_sdk::{App, Result, plugin};
/// plugin! {
///     name: "x", kind: "bdev", provides: [], requires: [], methods: [],
///     unsafe(threads_mve),
///     start: start,
/// }
/// # fn start(_app: &App) -> Result<()> { Ok(()) }
/// # fn main() {}
/// ```
struct UnknownPromise;
