//! The constants of the ABI, read from its sources, because no table has them.

use drivebay_plugin_api::BAY_MAGIC;

const SOURCES: [(&str, &str); 8] = [
    ("door", include_str!("../../../plugin-api/src/door.rs")),
    ("note", include_str!("../../../plugin-api/src/note.rs")),
    ("status", include_str!("../../../plugin-api/src/status.rs")),
    ("op", include_str!("../../../plugin-api/src/op.rs")),
    ("bdev", include_str!("../../../plugin-api/src/bdev.rs")),
    ("services", include_str!("../../../plugin-api/src/services.rs")),
    ("nvmf", include_str!("../../../plugin-api/src/nvmf.rs")),
    ("pci", include_str!("../../../plugin-api/src/pci.rs")),
];
const IDS: &str = include_str!("../../../plugin-api/src/lib.rs");

/// One `#define`.
pub(crate) struct Constant {
    pub(crate) doc: String,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// All numbers, in the order of the sources.
///
/// # Errors
/// A constant whose value this generator cannot read.
pub(crate) fn numbers() -> Result<Vec<Constant>, String> {
    let mut found = Vec::new();
    for (_, source) in SOURCES {
        for (doc, name, kind, value) in declarations(source) {
            if name.starts_with("BAY_") {
                let value = number(&kind, &value).ok_or(format!("{name}: {kind} = {value}"))?;
                found.push(Constant { doc, name, value });
            }
        }
    }
    Ok(found)
}

/// The ids of interfaces.
pub(crate) fn ids() -> Vec<Constant> {
    let texts = declarations(IDS).into_iter().filter(|(_, _, kind, _)| kind == "&str");
    texts
        .map(|(doc, name, _, value)| Constant {
            doc: doc.replace("[`crate::", "struct ").replace("`]", ""),
            name: format!("BAY_ID_{name}"),
            value,
        })
        .collect()
}

/// Doc, name, type and value of each `pub const` that stands on one line.
fn declarations(source: &str) -> Vec<(String, String, String, String)> {
    let mut doc = String::new();
    let mut found = Vec::new();
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push_str(text);
            continue;
        }
        found.extend(declaration(line).map(|(name, kind, value)| (doc.clone(), name, kind, value)));
        doc.clear();
    }
    found
}

fn declaration(line: &str) -> Option<(String, String, String)> {
    let (name, rest) = line.strip_prefix("pub const ")?.split_once(':')?;
    let (kind, value) = rest.split_once('=')?;
    let value = value.trim().strip_suffix(';')?;
    Some((name.to_owned(), kind.trim().to_owned(), value.to_owned()))
}

fn number(kind: &str, value: &str) -> Option<String> {
    if value.starts_with("u64::from_le_bytes") {
        return Some(format!("UINT64_C({BAY_MAGIC:#x})"));
    }
    let value = match value.split_once("<<") {
        Some((one, by)) => {
            let one: i64 = one.trim().parse().ok()?;
            one.checked_shl(by.trim().parse().ok()?)?
        }
        None => value.parse().ok()?,
    };
    match kind {
        "i32" => Some(format!("({value})")),
        "u8" | "u16" | "u32" if value >= 0 => Some(format!("{value}u")),
        "u64" if value >= 0 => Some(format!("UINT64_C({value})")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_found_with_values_and_docs() {
        let numbers = numbers().unwrap();
        let value = |name: &str| numbers.iter().find(|c| c.name == name).unwrap().value.clone();
        assert_eq!(value("BAY_OP_READ"), "1u");
        assert_eq!(value("BAY_IO_FUA"), "65536u");
        assert_eq!(value("BAY_ST_NOMEM"), "(-4096)");
        assert_eq!(value("BAY_MAGIC"), "UINT64_C(0x3147554c50594142)");
        assert!(numbers.iter().all(|c| !c.doc.is_empty()));
        assert!(ids().iter().any(|c| c.name == "BAY_ID_BDEV" && c.value == "\"bay.bdev/1\""));
    }

    /// A new module of plugin-api with constants must be read, too.
    #[test]
    fn every_source_file_with_constants_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugin-api/src");
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if text.contains("pub const BAY_") {
                assert!(SOURCES.iter().any(|(known, _)| *known == name), "{name}");
            }
        }
    }
}
