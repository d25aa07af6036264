//! What a plugin's file brings, before anything of it runs.

use drivebay::loader::{inspect, layout, manifest};

/// The file: ELF, notes, symbols.
pub(crate) fn file(data: &[u8]) {
    if let Ok(found) = inspect::inspect(data) {
        let _ = found.allowed();
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(manifest) = manifest::Manifest::parse(text)
    {
        let _ = manifest.requirements();
        let _ = manifest.methods().count();
    }
}

/// The layout table. Two of them, apart by a zero byte, are compared.
pub(crate) fn layout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\0').unwrap_or((text, text));
    if let (Ok(one), Ok(other)) = (layout::parse(one), layout::parse(other)) {
        assert!(layout::differences(&one, &one).is_empty(), "a table differs from itself");
        let _ = layout::differences(&one, &other);
        let _ = layout::broken_promises(&one, &other);
    }
}
