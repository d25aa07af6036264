//! Input from the RPC socket.

use crate::look;
use drivebay_spec_jsonrpc::{FrameLimits, Framer, Incoming, Method, decode, params};

/// A stream that arrives in pieces. It is cut into frames, and each frame is parsed. The first byte is
/// the length of the pieces.
pub(crate) fn frame(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else { return };
    let limits = FrameLimits { len_bytes: 4096, depth: 16 };
    let whole = frames(stream, stream.len().max(1), limits);
    let in_pieces = frames(stream, usize::from(first) % 16 + 1, limits);
    assert_eq!(whole, in_pieces, "the pieces changed the meaning");
}

fn frames(stream: &[u8], piece: usize, limits: FrameLimits) -> (Vec<Vec<u8>>, bool) {
    let mut framer = Framer::new(limits);
    let mut frames = Vec::new();
    for bytes in stream.chunks(piece) {
        framer.push(bytes);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    assert!(frame.len() <= limits.len_bytes);
                    look(Incoming::parse(frame));
                    frames.push(frame.to_vec());
                }
                Ok(None) => break,
                Err(_) => return (frames, false),
            }
        }
    }
    (frames, true)
}

params! {
    /// One parameter of each kind.
    struct Everything {
        /// A text.
        name: String,
        /// A number with a range.
        #[range(1..=100)]
        count: u32 = 5,
        /// An optional number.
        size: Option<u64>,
        /// A flag.
        flag: bool = false,
        /// A list.
        names: Option<Vec<String>>,
    }
}

/// The parameters and the description of a method.
pub(crate) fn params(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(read) = decode::<Everything>(text) {
        assert!((1..=100).contains(&read.count));
    }
    if let Ok(method) = Method::parse(text) {
        assert_eq!(Method::parse(&method.to_text()).unwrap(), method);
    }
}
