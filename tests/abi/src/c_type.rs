//! Types of the layout text, as C writes them.

/// Names in the ABI that are keywords in C or C++.
const KEYWORDS: [&str; 8] =
    ["register", "delete", "new", "class", "export", "operator", "private", "this"];

/// The C name of an ABI name: keywords get an underscore at the end.
pub(crate) fn name(name: &str) -> String {
    if KEYWORDS.contains(&name) { format!("{name}_") } else { name.to_owned() }
}

/// Declares `name` with the Rust type `kind`.
///
/// # Errors
/// A type that this generator does not know.
pub(crate) fn declare(kind: &str, name: &str) -> Result<String, String> {
    if let Some(inner) = kind.strip_prefix("Option<").and_then(|k| k.strip_suffix('>')) {
        return declare(inner, &format!("*{name}"));
    }
    if let Some(inner) = kind.strip_prefix("*mut") {
        return declare(inner, &format!("*{name}"));
    }
    if let Some(inner) = kind.strip_prefix("*const") {
        if inner.starts_with('*') {
            return Err(format!("{kind}: a constant pointer to a pointer"));
        }
        return Ok(format!("const {}", declare(inner, &format!("*{name}"))?));
    }
    if let Some(array) = kind.strip_prefix('[').and_then(|k| k.strip_suffix(']')) {
        let (inner, len) = array.split_once(';').ok_or_else(|| format!("{kind}: no length"))?;
        return declare(inner, &format!("{name}[{len}]"));
    }
    let base = base(kind)?;
    let blank = if name.is_empty() { "" } else { " " };
    Ok(format!("{base}{blank}{name}"))
}

fn base(kind: &str) -> Result<String, String> {
    let base = match kind {
        "u8" => "uint8_t",
        "u16" => "uint16_t",
        "u32" => "uint32_t",
        "u64" => "uint64_t",
        "i32" => "int32_t",
        "i64" => "int64_t",
        "usize" => "size_t",
        "c_void" => "void",
        "c_char" => "char",
        function if function.starts_with("bay_") && function.ends_with("_fn") => function,
        structure if structure.starts_with("bay_") => return Ok(format!("struct {structure}")),
        _ => return Err(format!("{kind}: no C type is known for it")),
    };
    Ok(base.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_declared_as_c_writes_them() {
        for (kind, c) in [
            ("u64", "uint64_t x"),
            ("*mutc_void", "void *x"),
            ("*mut*mutc_void", "void **x"),
            ("*constu8", "const uint8_t *x"),
            ("*constbay_iov", "const struct bay_iov *x"),
            ("Option<bay_done_fn>", "bay_done_fn *x"),
            ("[u64;2]", "uint64_t x[2]"),
            ("bay_str", "struct bay_str x"),
        ] {
            assert_eq!(declare(kind, "x").unwrap(), c);
        }
        assert!(declare("Vec<u8>", "x").is_err());
    }
}
