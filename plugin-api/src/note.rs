//! The ELF notes of a plugin: section `.note.bay`, owner `BAY`.

/// Note type: the manifest as JSON text.
pub const BAY_NOTE_MANIFEST: u32 = 1;
/// Note type: the layout text, [`crate::LAYOUT`].
pub const BAY_NOTE_LAYOUT: u32 = 2;

/// Rounds `n` up to a multiple of 4, the alignment of notes.
#[must_use]
pub const fn pad4(n: usize) -> usize {
    (n + 3) & !3
}

/// One note, as in the file. System V ABI, "Note Section". Blanks fill the text up to `D` bytes.
#[repr(C, align(4))]
#[derive(Debug)]
pub struct Note<const D: usize> {
    namesz: u32,
    descsz: u32,
    kind: u32,
    name: [u8; 4],
    desc: [u8; D],
}

impl<const D: usize> Note<D> {
    /// Creates a note of type `kind`. `text` is at most `D` bytes long.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a note is far smaller than 4 GiB")]
    pub const fn new(kind: u32, text: &[u8]) -> Self {
        let mut desc = [b' '; D];
        let mut i = 0;
        while i < text.len() {
            desc[i] = text[i];
            i += 1;
        }
        Self { namesz: 4, descsz: D as u32, kind, name: *b"BAY\0", desc }
    }
}
