//! Negotiation: the greeting, the client's options, and the server's replies. "Fixed newstyle negotiation".

use crate::{Malformed, Reader};

/// The TCP port of NBD servers.
pub const PORT: u16 = 10809;
/// Maximum length of a string, such as an export's name, in bytes. "Conventions".
pub const NAME_LEN_MAX: usize = 4096;
/// The only metadata context of this crate. It says which blocks are allocated.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Length of the client's flags, in bytes.
pub const CLIENT_FLAGS_LEN: usize = 4;
/// Length of an option's header, in bytes.
pub const OPTION_HEADER_LEN: usize = 16;

const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// The server's first message: both magics, and the flags FIXED_NEWSTYLE and NO_ZEROES.
pub const GREETING: [u8; 18] = *b"NBDMAGICIHAVEOPT\x00\x03";

/// The client's answer to the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFlags {
    /// Whether the reply to EXPORT_NAME leaves out the 124 bytes of zeroes at its end.
    pub no_zeroes: bool,
}

impl ClientFlags {
    /// Parses the flags.
    ///
    /// # Errors
    /// The client does not speak fixed newstyle, or it sets flags that were not offered.
    pub fn parse(bytes: [u8; CLIENT_FLAGS_LEN]) -> Result<Self, Malformed> {
        match u32::from_be_bytes(bytes) {
            flags @ (1 | 3) => Ok(Self { no_zeroes: flags & 2 != 0 }),
            _ => Err(Malformed("the client sets flags that the server did not offer")),
        }
    }
}

/// The header in front of an option's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Number of the option.
    pub option: u32,
    /// Length of the data, in bytes. Not checked.
    pub len: u32,
}

impl OptionHeader {
    /// Parses a header.
    ///
    /// # Errors
    /// The magic is wrong.
    pub fn parse(bytes: [u8; OPTION_HEADER_LEN]) -> Result<Self, Malformed> {
        let mut reader = Reader(&bytes);
        match (reader.u64(), reader.u32(), reader.u32()) {
            (Some(OPTION_MAGIC), Some(option), Some(len)) => Ok(Self { option, len }),
            _ => Err(Malformed("an option has a wrong magic")),
        }
    }

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; OPTION_HEADER_LEN] {
        let mut bytes = [0; OPTION_HEADER_LEN];
        let all = OPTION_MAGIC.to_be_bytes().into_iter();
        let all = all.chain(self.option.to_be_bytes()).chain(self.len.to_be_bytes());
        bytes.iter_mut().zip(all).for_each(|(place, byte)| *place = byte);
        bytes
    }
}

/// An option of the client. "Option types".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Start transmission. The connection ends if the export does not exist.
    ExportName(&'a str),
    /// End the connection.
    Abort,
    /// List the exports.
    List,
    /// Start TLS.
    StartTls,
    /// Describe an export.
    Info(Wanted<'a>),
    /// Describe an export and start transmission.
    Go(Wanted<'a>),
    /// Use structured replies.
    StructuredReply,
    /// List the matching metadata contexts.
    ListMetaContext(Contexts<'a>),
    /// Select metadata contexts.
    SetMetaContext(Contexts<'a>),
    /// Use extended headers, with 64-bit lengths.
    ExtendedHeaders,
    /// An unknown option.
    Unknown,
}

/// The export in an INFO or GO option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Its name; empty for the default export.
    pub name: &'a str,
    /// The requested information, as numbers from `info`.
    pub infos: Vec<u16>,
}

/// The metadata contexts in an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contexts<'a> {
    /// Name of the export.
    pub name: &'a str,
    /// Queries. An empty list means all contexts when listing.
    pub queries: Vec<&'a str>,
}

/// Numbers of options.
#[expect(missing_docs, reason = "the variants of `Request` document them")]
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Kinds of information about an export.
#[expect(missing_docs, reason = "the functions of `reply` that write them document them")]
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

impl<'a> Request<'a> {
    /// Parses an option and its data.
    ///
    /// # Errors
    /// The data does not match the option. The server replies [`reply::ERR_INVALID`].
    pub fn parse(option: u32, data: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(data);
        let request = match option {
            option::EXPORT_NAME => {
                let len = u32::try_from(data.len()).ok();
                Self::ExportName(name(&mut reader, len)?)
            }
            option::ABORT => return Ok(Self::Abort), // ABORT allows any data
            option::LIST => Self::List,
            option::STARTTLS => Self::StartTls,
            option::INFO => Self::Info(wanted(&mut reader)?),
            option::GO => Self::Go(wanted(&mut reader)?),
            option::STRUCTURED_REPLY => Self::StructuredReply,
            option::LIST_META_CONTEXT => Self::ListMetaContext(contexts(&mut reader)?),
            option::SET_META_CONTEXT => Self::SetMetaContext(contexts(&mut reader)?),
            option::EXTENDED_HEADERS => Self::ExtendedHeaders,
            _ => return Ok(Self::Unknown),
        };
        if reader.0.is_empty() {
            Ok(request)
        } else {
            Err(Malformed("an option has more data than allowed"))
        }
    }
}

fn name<'a>(reader: &mut Reader<'a>, len: Option<u32>) -> Result<&'a str, Malformed> {
    let bytes = len.and_then(|len| reader.bytes(len)).ok_or(Malformed("a name is cut off"))?;
    if bytes.len() > NAME_LEN_MAX {
        return Err(Malformed("a name is longer than 4096 bytes"));
    }
    let name = std::str::from_utf8(bytes).map_err(|_| Malformed("a name is not UTF-8"))?;
    if name.contains('\0') { Err(Malformed("a name has a zero byte")) } else { Ok(name) }
}

fn wanted<'a>(reader: &mut Reader<'a>) -> Result<Wanted<'a>, Malformed> {
    let len = reader.u32();
    let name = name(reader, len)?;
    let count = reader.u16().ok_or(Malformed("the number of information requests is missing"))?;
    let infos: Option<Vec<u16>> = (0..count).map(|_| reader.u16()).collect();
    Ok(Wanted { name, infos: infos.ok_or(Malformed("fewer information requests than announced"))? })
}

fn contexts<'a>(reader: &mut Reader<'a>) -> Result<Contexts<'a>, Malformed> {
    let len = reader.u32();
    let export = name(reader, len)?;
    let count = reader.u32().ok_or(Malformed("the number of queries is missing"))?;
    let mut queries = Vec::new();
    for _ in 0..count {
        // Each query takes at least four bytes, so the length of the data limits the number of queries.
        let len = reader.u32();
        queries.push(name(reader, len)?);
    }
    Ok(Contexts { name: export, queries })
}

/// Replies to options. Each function appends to `out`. "Option reply types".
pub mod reply {
    use super::{REPLY_MAGIC, info};

    /// Success.
    pub const ACK: u32 = 1;
    const SERVER: u32 = 2;
    const INFO: u32 = 3;
    const META_CONTEXT: u32 = 4;
    /// The option is unknown.
    pub const ERR_UNSUP: u32 = 1 << 31 | 1;
    /// The server's policy forbids it.
    pub const ERR_POLICY: u32 = 1 << 31 | 2;
    /// The data does not match the option.
    pub const ERR_INVALID: u32 = 1 << 31 | 3;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = 1 << 31 | 6;
    /// The server is shutting down.
    pub const ERR_SHUTDOWN: u32 = 1 << 31 | 7;
    /// The data is longer than the server accepts.
    pub const ERR_TOO_BIG: u32 = 1 << 31 | 9;

    /// Appends a reply with data.
    pub fn put(out: &mut Vec<u8>, option: u32, kind: u32, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        out.extend(REPLY_MAGIC.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        parts.iter().for_each(|part| out.extend_from_slice(part));
    }

    /// Appends an export of a list.
    pub fn server(out: &mut Vec<u8>, option: u32, name: &str, description: &str) {
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
        put(out, option, SERVER, &[&len, name.as_bytes(), description.as_bytes()]);
    }

    /// Appends the size in bytes and the transmission flags of an export.
    pub fn export(out: &mut Vec<u8>, option: u32, size: u64, flags: u16) {
        let parts: [&[u8]; 3] =
            [&info::EXPORT.to_be_bytes(), &size.to_be_bytes(), &flags.to_be_bytes()];
        put(out, option, INFO, &parts);
    }

    /// Appends a text about an export: its name or its description.
    pub fn text(out: &mut Vec<u8>, option: u32, kind: u16, text: &str) {
        put(out, option, INFO, &[&kind.to_be_bytes(), text.as_bytes()]);
    }

    /// Appends the minimum, preferred and maximum length of a request, in bytes.
    pub fn block_size(out: &mut Vec<u8>, option: u32, sizes: [u32; 3]) {
        let [least, preferred, most] = sizes.map(u32::to_be_bytes);
        put(out, option, INFO, &[&info::BLOCK_SIZE.to_be_bytes(), &least, &preferred, &most]);
    }

    /// Appends a metadata context and its number.
    pub fn meta_context(out: &mut Vec<u8>, option: u32, id: u32, name: &str) {
        put(out, option, META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
    }

    /// Appends the reply to EXPORT_NAME, which has no header.
    pub fn export_name(out: &mut Vec<u8>, size: u64, flags: u16, no_zeroes: bool) {
        out.extend(size.to_be_bytes());
        out.extend(flags.to_be_bytes());
        if !no_zeroes {
            out.extend([0; 124]);
        }
    }
}
