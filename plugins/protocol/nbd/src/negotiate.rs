//! Negotiation: the client says which export it wants, and how requests and replies are framed.

use crate::export::Export;
use crate::server::Catalog;
use drivebay_sdk::runtime::net::Stream;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_nbd::Malformed;
use drivebay_spec_nbd::handshake::{
    BASE_ALLOCATION, CLIENT_FLAGS_LEN, ClientFlags, Contexts, GREETING, OPTION_HEADER_LEN,
    OptionHeader, Request, Wanted, info, reply,
};
use drivebay_spec_nbd::transmission::Framing;
use std::sync::{Arc, Weak};

/// Maximum amount of data in one option, in bytes.
const OPTION_LEN_MAX: u32 = 64 << 10;
/// Maximum number of options of one client.
const OPTIONS_MAX: usize = 256;
/// Preferred length of requests, in bytes.
const PREFERRED_LEN: u32 = 4096;
/// Longest read or write, in bytes. Every client may use this length by default.
pub const REQUEST_LEN_MAX: u32 = 32 << 20;
/// The number of the context `base:allocation`.
pub const ALLOCATION: u32 = 1;

/// The result of a negotiation.
#[derive(Clone, Debug)]
pub struct Agreed {
    /// The export.
    pub export: Weak<Export>,
    /// How requests and replies are framed.
    pub framing: Framing,
    /// Whether the client may send BLOCK_STATUS.
    pub has_block_status: bool,
}

/// Negotiates until the client enters transmission. `None` when the connection ends cleanly instead.
///
/// # Errors
/// The client does not speak the protocol, or the connection is lost.
pub async fn negotiate(stream: &mut Stream, catalog: &Catalog) -> Result<Option<Agreed>> {
    stream.write_all(&GREETING).await?;
    let mut flags = [0; CLIENT_FLAGS_LEN];
    stream.read_exact(&mut flags).await?;
    let flags = ClientFlags::parse(flags).map_err(broken)?;
    let mut client = Client { catalog, flags, framing: Framing::Simple, allocation_of: None };
    for _ in 0..OPTIONS_MAX {
        let mut header = [0; OPTION_HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let OptionHeader { option, len } = OptionHeader::parse(header).map_err(broken)?;
        if len > OPTION_LEN_MAX {
            return Err(Error::new(
                errno::EINVAL,
                format!("an option with {len} bytes of data; allowed: {OPTION_LEN_MAX}"),
            ));
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or_default()];
        stream.read_exact(&mut data).await?;
        let mut out = Vec::new();
        let next = client.answer(option, &data, &mut out);
        stream.write_all(&out).await?;
        match next {
            Next::Option => {}
            Next::End => return Ok(None),
            Next::Transmit(agreed) => return Ok(Some(agreed)),
        }
    }
    Err(Error::new(errno::EINVAL, format!("more than {OPTIONS_MAX} options, which is the limit")))
}

fn broken(error: Malformed) -> Error {
    Error::new(errno::EINVAL, error.to_string())
}

/// What follows an option.
enum Next {
    Option,
    End,
    Transmit(Agreed),
}

/// What a client has said so far.
struct Client<'a> {
    catalog: &'a Catalog,
    flags: ClientFlags,
    framing: Framing,
    /// Name of the export for which the client has selected `base:allocation`.
    allocation_of: Option<String>,
}

impl Client<'_> {
    /// Answers an option.
    fn answer(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Ok(request) = Request::parse(option, data) else {
            reply::put(out, option, reply::ERR_INVALID, &[]);
            return Next::Option;
        };
        match request {
            Request::ExportName(name) => return self.enter(name, out),
            Request::Abort => {
                reply::put(out, option, reply::ACK, &[]);
                return Next::End;
            }
            Request::List => {
                for export in self.catalog.list() {
                    let config = export.config();
                    reply::server(out, option, &config.name, &config.description);
                }
                reply::put(out, option, reply::ACK, &[]);
            }
            Request::Info(wanted) => {
                let _ = self.describe(option, &wanted, out);
            }
            Request::Go(wanted) => {
                if let Some(export) = self.describe(option, &wanted, out) {
                    return Next::Transmit(self.agreed(&export));
                }
            }
            Request::StructuredReply => {
                // Extended headers include structured replies.
                if self.framing == Framing::Simple {
                    self.framing = Framing::Structured;
                }
                reply::put(out, option, reply::ACK, &[]);
            }
            Request::ExtendedHeaders => {
                self.framing = Framing::Extended;
                reply::put(out, option, reply::ACK, &[]);
            }
            Request::ListMetaContext(contexts) => {
                let has_all = contexts.queries.is_empty();
                self.contexts(option, &contexts, has_all, out);
            }
            Request::SetMetaContext(contexts) => {
                let is_set = self.contexts(option, &contexts, false, out);
                self.allocation_of = is_set.then(|| contexts.name.to_owned());
            }
            // TLS would start here: reply ACK, then call `Stream::set_layer`.
            Request::StartTls | Request::Unknown => {
                reply::put(out, option, reply::ERR_UNSUP, &[]);
            }
        }
        Next::Option
    }

    /// Answers EXPORT_NAME. This option has no error reply, so a wrong name ends the connection.
    fn enter(&self, name: &str, out: &mut Vec<u8>) -> Next {
        let Some(export) = self.catalog.find(name) else { return Next::End };
        reply::export_name(out, export.size_bytes(), export.flags(), self.flags.no_zeroes);
        Next::Transmit(self.agreed(&export))
    }

    /// Describes an export, or replies that there is no such export.
    fn describe(&self, option: u32, wanted: &Wanted<'_>, out: &mut Vec<u8>) -> Option<Arc<Export>> {
        let Some(export) = self.catalog.find(wanted.name) else {
            reply::put(out, option, reply::ERR_UNKNOWN, &[b"there is no such export"]);
            return None;
        };
        reply::export(out, option, export.size_bytes(), export.flags());
        let config = export.config();
        // Sent even when the client does not ask, so that every client knows the block size.
        let block_size = export.block_size();
        let sizes = [block_size, PREFERRED_LEN.max(block_size), REQUEST_LEN_MAX];
        reply::block_size(out, option, sizes);
        if wanted.infos.contains(&info::NAME) {
            reply::text(out, option, info::NAME, &config.name);
        }
        if wanted.infos.contains(&info::DESCRIPTION) && !config.description.is_empty() {
            reply::text(out, option, info::DESCRIPTION, &config.description);
        }
        reply::put(out, option, reply::ACK, &[]);
        Some(export)
    }

    /// Replies with the contexts that match. Returns whether `base:allocation` does.
    fn contexts(
        &self,
        option: u32,
        asked: &Contexts<'_>,
        has_all: bool,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.framing == Framing::Simple {
            let why: &[u8] = b"structured replies or extended headers come first";
            reply::put(out, option, reply::ERR_INVALID, &[why]);
            return false;
        }
        if self.catalog.find(asked.name).is_none() {
            reply::put(out, option, reply::ERR_UNKNOWN, &[b"there is no such export"]);
            return false;
        }
        // When listing, "base:" alone means all contexts of that namespace.
        let matches = |query: &&str| {
            *query == BASE_ALLOCATION
                || (*query == "base:"
                    && option == drivebay_spec_nbd::handshake::option::LIST_META_CONTEXT)
        };
        let is_wanted = has_all || asked.queries.iter().any(matches);
        if is_wanted {
            reply::meta_context(out, option, ALLOCATION, BASE_ALLOCATION);
        }
        reply::put(out, option, reply::ACK, &[]);
        is_wanted
    }

    fn agreed(&self, export: &Arc<Export>) -> Agreed {
        // A context is valid only for the export for which the client selected it.
        let set_for = self.allocation_of.as_ref().and_then(|name| self.catalog.find(name));
        Agreed {
            export: Arc::downgrade(export),
            framing: self.framing,
            has_block_status: set_for.is_some_and(|of| Arc::ptr_eq(&of, export)),
        }
    }
}
