//! The entries of a metadata page.

use crate::bytes::Reader;

/// Length of the type and length fields in front of every entry, in bytes.
const HEADER: usize = 5;
/// Features that a reader must support, in three words. A reader that does not know a bit must not open the
/// blob, not write it, or not change its metadata, depending on the word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// An unknown bit here: the reader must not open the blob.
    pub invalid: u64,
    /// An unknown bit here: the reader must write neither data nor metadata.
    pub data_read_only: u64,
    /// An unknown bit here: the reader must not write metadata.
    pub md_read_only: u64,
}

impl Flags {
    /// `invalid`: clusters may be unallocated.
    pub const THIN: u64 = 1;
    /// `invalid`: there are internal xattrs.
    pub const INTERNAL_XATTR: u64 = 1 << 1;
    /// `invalid`: clusters are in extent pages, which a table lists.
    pub const EXTENT_TABLE: u64 = 1 << 2;
    /// `invalid`: the parent is outside of the store.
    pub const EXTERNAL_SNAPSHOT: u64 = 1 << 3;
    const KNOWN_INVALID: u64 =
        Self::THIN | Self::INTERNAL_XATTR | Self::EXTENT_TABLE | Self::EXTERNAL_SNAPSHOT;

    /// `data_read_only`: the blob is read-only.
    pub const READ_ONLY: u64 = 1;
    /// `md_read_only`: two bits that say how to clear clusters when they are freed.
    pub const CLEAR_METHOD: u64 = 3;

    /// The unknown bits of `invalid`.
    #[must_use]
    pub fn unknown_invalid(self) -> u64 {
        self.invalid & !Self::KNOWN_INVALID
    }

    /// Whether data must not be written.
    #[must_use]
    pub fn is_data_read_only(self) -> bool {
        self.data_read_only != 0
    }

    /// Whether a reader that obeys the words must not write metadata.
    #[must_use]
    pub fn is_md_read_only(self) -> bool {
        self.is_data_read_only() || self.md_read_only & !Self::CLEAR_METHOD != 0
    }
}

/// Consecutive clusters, or unallocated ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First cluster; 0 = unallocated.
    pub cluster: u32,
    /// Number of clusters.
    pub len: u32,
}

/// Slots of an extent table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Metadata page; 0 = none.
    pub page: u32,
    /// Number of slots; 1 if there is a page.
    pub len: u32,
}

/// An entry of a metadata page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// The three flag words.
    Flags(Flags),
    /// A named value. Internal ones belong to the store.
    Xattr {
        /// Whether it belongs to the store.
        internal: bool,
        /// Its name.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// All clusters of a blob without an extent table.
    ExtentRle(Vec<Run>),
    /// The list of extent pages.
    ExtentTable {
        /// Number of clusters of the blob.
        num_clusters: u64,
        /// The pages, in order.
        slots: Vec<Slots>,
    },
    /// Up to 512 clusters.
    ExtentPage {
        /// Index of the first cluster in the blob.
        start: u32,
        /// The clusters; 0 = unallocated.
        clusters: Vec<u32>,
    },
    /// An entry of an unknown type. Readers skip it and keep it.
    Other {
        /// Its type.
        kind: u8,
        /// Its bytes.
        bytes: Vec<u8>,
    },
}

const PADDING: u8 = 0;
const EXTENT_RLE: u8 = 1;
const XATTR: u8 = 2;
const FLAGS: u8 = 3;
const XATTR_INTERNAL: u8 = 4;
const EXTENT_TABLE: u8 = 5;
const EXTENT_PAGE: u8 = 6;

impl Descriptor {
    /// Parses all entries of a page. The error is the type and the position of a malformed entry.
    pub(crate) fn parse_all(page: &[u8]) -> Result<Vec<Self>, (u8, usize)> {
        let mut rest = Reader(page);
        let mut found = Vec::new();
        while rest.0.len() >= HEADER {
            let at = page.len() - rest.0.len();
            let head = (|| Some((rest.u8()?, rest.u32()?)))();
            let Some((kind, len)) = head else { break };
            if kind == PADDING && len == 0 {
                break;
            }
            let body = usize::try_from(len).ok().and_then(|len| rest.take(len));
            let body = body.ok_or((kind, at))?;
            if kind != PADDING {
                found.push(Self::parse(kind, body).ok_or((kind, at))?);
            }
        }
        Ok(found)
    }

    fn parse(kind: u8, body: &[u8]) -> Option<Self> {
        let mut fields = Reader(body);
        let all_read = |fields: Reader<'_>| fields.0.is_empty().then_some(());
        Some(match kind {
            FLAGS => {
                let flags = Flags {
                    invalid: fields.u64()?,
                    data_read_only: fields.u64()?,
                    md_read_only: fields.u64()?,
                };
                all_read(fields)?;
                Self::Flags(flags)
            }
            XATTR | XATTR_INTERNAL => {
                let name_len = fields.u16()?;
                let value_len = fields.u16()?;
                let name = fields.take(name_len.into())?.to_vec();
                let value = fields.take(value_len.into())?.to_vec();
                all_read(fields)?;
                Self::Xattr { internal: kind == XATTR_INTERNAL, name, value }
            }
            EXTENT_RLE => {
                let runs = pairs(fields.0)?.map(|(cluster, len)| Run { cluster, len });
                (!body.is_empty()).then_some(())?;
                Self::ExtentRle(runs.collect())
            }
            EXTENT_TABLE => {
                let num_clusters = fields.u64()?;
                let slots = pairs(fields.0)?.map(|(page, len)| Slots { page, len });
                let slots: Vec<_> = slots.collect();
                slots.iter().all(|slot| slot.page == 0 || slot.len == 1).then_some(())?;
                Self::ExtentTable { num_clusters, slots }
            }
            EXTENT_PAGE => {
                let start = fields.u32()?;
                let clusters = words(fields.0)?;
                (!clusters.is_empty()).then_some(())?;
                Self::ExtentPage { start, clusters }
            }
            _ => Self::Other { kind, bytes: body.to_vec() },
        })
    }

    /// Length of the entry in a page, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        HEADER
            + match self {
                Self::Flags(_) => 24,
                Self::Xattr { name, value, .. } => 4 + name.len() + value.len(),
                Self::ExtentRle(runs) => runs.len() * 8,
                Self::ExtentTable { slots, .. } => 8 + slots.len() * 8,
                Self::ExtentPage { clusters, .. } => 4 + clusters.len() * 4,
                Self::Other { bytes, .. } => bytes.len(),
            }
    }

    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        let kind = match self {
            Self::Flags(_) => FLAGS,
            Self::Xattr { internal: false, .. } => XATTR,
            Self::Xattr { internal: true, .. } => XATTR_INTERNAL,
            Self::ExtentRle(_) => EXTENT_RLE,
            Self::ExtentTable { .. } => EXTENT_TABLE,
            Self::ExtentPage { .. } => EXTENT_PAGE,
            Self::Other { kind, .. } => *kind,
        };
        to.push(kind);
        let len = u32::try_from(self.bytes() - HEADER).unwrap_or(u32::MAX);
        to.extend_from_slice(&len.to_le_bytes());
        match self {
            Self::Flags(flags) => {
                for word in [flags.invalid, flags.data_read_only, flags.md_read_only] {
                    to.extend_from_slice(&word.to_le_bytes());
                }
            }
            Self::Xattr { name, value, .. } => {
                for field in [name, value] {
                    let len = u16::try_from(field.len()).unwrap_or(u16::MAX);
                    to.extend_from_slice(&len.to_le_bytes());
                }
                to.extend_from_slice(name);
                to.extend_from_slice(value);
            }
            Self::ExtentRle(runs) => {
                for run in runs {
                    to.extend_from_slice(&run.cluster.to_le_bytes());
                    to.extend_from_slice(&run.len.to_le_bytes());
                }
            }
            Self::ExtentTable { num_clusters, slots } => {
                to.extend_from_slice(&num_clusters.to_le_bytes());
                for slot in slots {
                    to.extend_from_slice(&slot.page.to_le_bytes());
                    to.extend_from_slice(&slot.len.to_le_bytes());
                }
            }
            Self::ExtentPage { start, clusters } => {
                to.extend_from_slice(&start.to_le_bytes());
                for cluster in clusters {
                    to.extend_from_slice(&cluster.to_le_bytes());
                }
            }
            Self::Other { bytes, .. } => to.extend_from_slice(bytes),
        }
    }
}

fn words(bytes: &[u8]) -> Option<Vec<u32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| words.iter().map(|word| u32::from_le_bytes(*word)).collect())
}

fn pairs(bytes: &[u8]) -> Option<impl Iterator<Item = (u32, u32)>> {
    let (pairs, rest) = bytes.as_chunks::<8>();
    let word = |pair: u64| u32::try_from(pair & u64::from(u32::MAX)).unwrap_or_default();
    rest.is_empty().then(|| {
        pairs
            .iter()
            .map(|pair| u64::from_le_bytes(*pair))
            .map(move |pair| (word(pair), word(pair >> 32)))
    })
}
