//! Framing. SPDK's clients send bare JSON, without a length or a newline, so
//! a request ends with its last closing bracket.
//!
//! [`Framer`] reads each byte once, in pieces of any size. It checks the
//! structure (brackets, commas, colons, strings). The JSON parser that reads
//! the frame afterwards checks numbers, literals and escapes.

use std::fmt;

/// Limits of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Maximum length of a frame, in bytes.
    pub len_bytes: usize,
    /// Maximum nesting depth of objects and arrays.
    pub depth: usize,
}

impl Default for FrameLimits {
    /// The limits for a request: 256 KiB, 64 levels.
    fn default() -> Self {
        Self { len_bytes: 256 * 1024, depth: 64 }
    }
}

/// Why a byte stream cannot be split. The rest of the stream is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// A byte that is not allowed at its position.
    Unexpected {
        /// The byte.
        byte: u8,
        /// Its offset from the start of the frame, in bytes.
        offset: usize,
    },
    /// The frame is longer than [`FrameLimits::len_bytes`].
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The frame is nested deeper than [`FrameLimits::depth`].
    TooDeep {
        /// The limit, in levels.
        limit: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected { byte, offset } => {
                write!(f, "unexpected '{}' at byte {offset}", byte.escape_ascii())
            }
            Self::TooLong { limit } => write!(f, "longer than {limit} bytes"),
            Self::TooDeep { limit } => write!(f, "nested deeper than {limit} levels"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Splits a byte stream into complete top-level objects and arrays.
#[derive(Debug)]
pub struct Framer {
    limits: FrameLimits,
    buffer: Vec<u8>,
    /// Start of the current frame in `buffer`.
    start: usize,
    /// First byte of `buffer` that was not scanned yet.
    scanned: usize,
    /// The containers that are open, outermost first.
    open: Vec<Container>,
    expect: Expect,
    failed: Option<FrameError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// What is allowed next inside the innermost open container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    InString { then: AfterString, escaped: bool },
    InScalar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterString {
    Colon,
    CommaOrEnd,
}

impl Default for Framer {
    fn default() -> Self {
        Self::new(FrameLimits::default())
    }
}

impl Framer {
    /// Makes a framer with `limits` and no bytes.
    pub fn new(limits: FrameLimits) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            open: Vec::new(),
            expect: Expect::Value,
            failed: None,
        }
    }

    /// Adds bytes of the stream. Take all frames out before you call this again, because the buffer keeps
    /// all bytes without a limit.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        if self.buffer.is_empty() {
            // Do not keep the memory of one long request for ever.
            self.buffer.shrink_to(16 * 1024);
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete value, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// The stream is not JSON or exceeds a limit. Later calls return the same error.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        while let Some(&byte) = self.buffer.get(self.scanned) {
            self.scanned += 1;
            if self.open.is_empty() && is_whitespace(byte) {
                self.start = self.scanned;
                continue;
            }
            if let Err(error) = self.check_len().and_then(|()| self.step(byte)) {
                self.failed = Some(error);
                return Err(error);
            }
            if self.open.is_empty() {
                let frame = self.start..self.scanned;
                self.start = self.scanned;
                return Ok(self.buffer.get(frame));
            }
        }
        Ok(None)
    }

    /// Whether the stream ends inside a value.
    pub fn is_partial(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether there are bytes that `next_frame` has not scanned yet.
    pub fn has_unread(&self) -> bool {
        self.scanned < self.buffer.len()
    }

    fn check_len(&self) -> Result<(), FrameError> {
        let limit = self.limits.len_bytes;
        if self.scanned - self.start > limit { Err(FrameError::TooLong { limit }) } else { Ok(()) }
    }

    /// Handles one byte. The frame is complete when no container is open.
    fn step(&mut self, byte: u8) -> Result<(), FrameError> {
        match self.expect {
            Expect::InString { then, escaped: false } if byte == b'"' => {
                self.expect = match then {
                    AfterString::Colon => Expect::Colon,
                    AfterString::CommaOrEnd => Expect::CommaOrEnd,
                };
                Ok(())
            }
            Expect::InString { .. } if byte < 0x20 => Err(self.unexpected(byte)),
            Expect::InString { then, escaped } => {
                self.expect = Expect::InString { then, escaped: !escaped && byte == b'\\' };
                Ok(())
            }
            Expect::InScalar if is_in_scalar(byte) => Ok(()),
            Expect::InScalar => {
                self.expect = Expect::CommaOrEnd;
                self.step_between(byte)
            }
            _ => self.step_between(byte),
        }
    }

    /// Handles a byte outside of strings and scalars.
    fn step_between(&mut self, byte: u8) -> Result<(), FrameError> {
        use Container::{Array, Object};
        if is_whitespace(byte) {
            return Ok(());
        }
        let value_may_come = matches!(self.expect, Expect::Value | Expect::ValueOrEnd);
        self.expect = match (self.expect, self.open.last(), byte) {
            (Expect::Value | Expect::ValueOrEnd, _, b'{') => {
                self.enter(Object)?;
                Expect::KeyOrEnd
            }
            (Expect::Value | Expect::ValueOrEnd, _, b'[') => {
                self.enter(Array)?;
                Expect::ValueOrEnd
            }
            (Expect::KeyOrEnd | Expect::CommaOrEnd, Some(Object), b'}')
            | (Expect::ValueOrEnd | Expect::CommaOrEnd, Some(Array), b']') => {
                self.open.pop();
                if self.open.is_empty() { Expect::Value } else { Expect::CommaOrEnd }
            }
            (Expect::Key | Expect::KeyOrEnd, _, b'"') => {
                Expect::InString { then: AfterString::Colon, escaped: false }
            }
            (_, Some(_), b'"') if value_may_come => {
                Expect::InString { then: AfterString::CommaOrEnd, escaped: false }
            }
            (_, Some(_), byte) if value_may_come && starts_scalar(byte) => Expect::InScalar,
            (Expect::Colon, _, b':') => Expect::Value,
            (Expect::CommaOrEnd, Some(Object), b',') => Expect::Key,
            (Expect::CommaOrEnd, Some(Array), b',') => Expect::Value,
            _ => return Err(self.unexpected(byte)),
        };
        Ok(())
    }

    fn enter(&mut self, container: Container) -> Result<(), FrameError> {
        let limit = self.limits.depth;
        if self.open.len() >= limit {
            return Err(FrameError::TooDeep { limit });
        }
        self.open.push(container);
        Ok(())
    }

    fn unexpected(&self, byte: u8) -> FrameError {
        FrameError::Unexpected { byte, offset: self.scanned - self.start - 1 }
    }
}

fn is_whitespace(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn starts_scalar(byte: u8) -> bool {
    matches!(byte, b'-' | b'0'..=b'9' | b't' | b'f' | b'n')
}

fn is_in_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(framer: &mut Framer, bytes: &[u8]) -> Result<Vec<String>, FrameError> {
        framer.push(bytes);
        let mut all = Vec::new();
        while let Some(frame) = framer.next_frame()? {
            all.push(String::from_utf8(frame.to_vec()).unwrap());
        }
        Ok(all)
    }

    #[test]
    fn values_back_to_back_are_cut_apart() {
        let got = frames(&mut Framer::default(), b" {\"a\":[1,{}]}{}\n[]  ").unwrap();
        assert_eq!(got, [r#"{"a":[1,{}]}"#, "{}", "[]"]);
    }

    #[test]
    fn brackets_and_quotes_inside_strings_do_not_count() {
        let text = r#"{"a}":"\"]{\\"}"#;
        assert_eq!(frames(&mut Framer::default(), text.as_bytes()).unwrap(), [text]);
    }

    #[test]
    fn a_value_that_arrives_byte_by_byte_is_found_at_its_last_byte() {
        let text = br#"{"method": "x", "params": {"n": -1.5e3, "s": "\u00e9\\"}}"#;
        let mut framer = Framer::default();
        let (last, head) = text.split_last().unwrap();
        for byte in head {
            assert_eq!(frames(&mut framer, &[*byte]), Ok(vec![]));
        }
        assert!(framer.is_partial());
        assert_eq!(frames(&mut framer, &[*last]).unwrap().len(), 1);
        assert!(!framer.is_partial());
    }

    #[test]
    fn broken_structure_is_refused_where_it_breaks() {
        for (text, offset) in [
            ("hello", 0),
            ("1", 0),
            ("{]", 1),
            ("{\"a\" 1", 5),
            ("{\"a\":,", 5),
            ("[1,]", 3),
            ("[1 2", 3),
            ("{,", 1),
            ("[\"\n", 2),
            ("}", 0),
        ] {
            let error = frames(&mut Framer::default(), text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, FrameError::Unexpected { offset: at, .. } if at == offset),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn an_error_stays() {
        let mut framer = Framer::default();
        let error = frames(&mut framer, b"x").unwrap_err();
        assert_eq!(frames(&mut framer, b"{}"), Err(error));
    }

    #[test]
    fn depth_is_limited_and_the_limit_itself_allowed() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(frames(&mut Framer::default(), nested(64).as_bytes()).unwrap().len(), 1);
        assert_eq!(
            frames(&mut Framer::default(), nested(65).as_bytes()),
            Err(FrameError::TooDeep { limit: 64 })
        );
    }

    #[test]
    fn length_is_limited_and_the_limit_itself_allowed() {
        let limits = FrameLimits { len_bytes: 10, depth: 4 };
        let mut framer = Framer::new(limits);
        assert_eq!(frames(&mut framer, b"[123456789").unwrap(), [""; 0]);
        assert_eq!(frames(&mut framer, b"]"), Err(FrameError::TooLong { limit: 10 }));
        assert_eq!(frames(&mut Framer::new(limits), b"[12345678][]").unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_frames(
            text in "[\\[\\]{}:,\"\\\\ a1tn-]{0,40}",
            piece in 1_usize..7,
        ) {
            let whole = frames(&mut Framer::default(), text.as_bytes());
            let mut framer = Framer::default();
            let mut pieces = Ok(Vec::new());
            for bytes in text.as_bytes().chunks(piece) {
                match frames(&mut framer, bytes) {
                    Ok(more) => pieces = pieces.map(|mut all: Vec<String>| { all.extend(more); all }),
                    Err(error) => { pieces = Err(error); break; }
                }
            }
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn what_the_parser_accepts_the_framer_accepts(text in "[\\[\\]{}:,\"1 ]{0,12}") {
            if text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<serde_json::Value>(&text).is_ok() {
                prop_assert_eq!(frames(&mut Framer::default(), text.as_bytes()).unwrap(), vec![text.trim()]);
            }
        }
    }
}
