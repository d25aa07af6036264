//! Layout texts: the layout of the ABI as the plugin's compiler saw it, for comparison with the
//! host's.
//!
//! A text has one line for each struct and function type (`docs/abi.md`, "Notes"):
//!
//! ```text
//! bay_io:size=128,align=64,closed;op@0+2=u16;iovcnt@2+2=u16;…
//! fn:bay_submit_fn(chan:*mutc_void,io:*mutbay_io,)
//! ```
//!
//! An open struct may be longer on one side; a closed one may not. A field `rsv…` is zero and may
//! have a meaning on the other side. Names of arguments are not part of a signature. What only one
//! side knows is not compared, because the other side never uses it.

use std::collections::BTreeMap;

/// What the text of every plugin must list, because every plugin uses it.
const REQUIRED: [&str; 4] = ["bay_plugin", "bay_host", "bay_str", "bay_io"];
/// The maximum number of lines of one text.
const LINES_MAX: usize = 4096;

/// A parsed layout text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The structs, by name.
    pub structs: BTreeMap<String, Struct>,
    /// The function types, by name.
    pub functions: BTreeMap<String, Function>,
}

/// One struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struct {
    /// The size in bytes.
    pub size: usize,
    /// The alignment in bytes.
    pub align: usize,
    /// Whether fields may be added at its end within an ABI major.
    pub open: bool,
    /// The fields in the order of their offsets.
    pub fields: Vec<Field>,
}

/// One field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name of the field.
    pub name: String,
    /// The offset in bytes.
    pub offset: usize,
    /// The size in bytes.
    pub size: usize,
    /// The type, written as in Rust, but without blanks.
    pub kind: String,
}

/// One function type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The names and types of the arguments.
    pub arguments: Vec<(String, String)>,
    /// The type of the result; `None` = no result.
    pub result: Option<String>,
}

impl Function {
    fn signature(&self) -> String {
        let kinds: Vec<&str> = self.arguments.iter().map(|(_, kind)| kind.as_str()).collect();
        let result = self.result.as_ref().map_or(String::new(), |r| format!("->{r}"));
        format!("({}){result}", kinds.join(", "))
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let kinds = self.arguments.iter().map(|(_, kind)| kind);
        kinds.eq(other.arguments.iter().map(|(_, kind)| kind)) && self.result == other.result
    }
}

impl Field {
    fn end(&self) -> usize {
        self.offset.saturating_add(self.size)
    }

    fn is_reserved(&self) -> bool {
        self.name.starts_with("rsv")
    }
}

impl Struct {
    /// Whether every byte of `field` is reserved in this struct.
    fn reserves(&self, field: &Field) -> bool {
        let mut at = field.offset;
        for own in self.fields.iter().filter(|f| f.is_reserved()) {
            if own.offset <= at && at < own.end() {
                at = own.end();
            }
        }
        at >= field.end()
    }
}

/// Parses a layout text.
///
/// # Errors
/// The first line that does not have the form above.
pub fn parse(text: &str) -> Result<Table, String> {
    let mut table = Table::default();
    for (number, line) in text.lines().enumerate() {
        if number >= LINES_MAX {
            return Err(format!("layout text has more than {LINES_MAX} lines"));
        }
        if line.trim().is_empty() {
            continue;
        }
        parse_line(&mut table, line)
            .ok_or_else(|| format!("layout text, line {}: not a layout line", number + 1))?;
    }
    Ok(table)
}

fn parse_line(table: &mut Table, line: &str) -> Option<()> {
    if let Some(function) = line.strip_prefix("fn:") {
        let (name, rest) = function.split_once('(')?;
        table.functions.insert(name.to_owned(), parse_function(rest)?);
    } else {
        let (name, rest) = line.split_once(':')?;
        table.structs.insert(name.to_owned(), parse_struct(rest)?);
    }
    Some(())
}

fn parse_function(rest: &str) -> Option<Function> {
    let (arguments, result) = rest.rsplit_once(')')?;
    let result = match result {
        "" => None,
        result => Some(result.strip_prefix("->")?.to_owned()),
    };
    let arguments = split_outside_brackets(arguments, ',')
        .filter(|argument| !argument.is_empty())
        .map(|argument| argument.split_once(':').map(|(n, k)| (n.to_owned(), k.to_owned())))
        .collect::<Option<_>>()?;
    Some(Function { arguments, result })
}

fn parse_struct(rest: &str) -> Option<Struct> {
    let mut parts = split_outside_brackets(rest, ';');
    let mut head = parts.next()?.split(',');
    let size = head.next()?.strip_prefix("size=")?.parse().ok()?;
    let align = head.next()?.strip_prefix("align=")?.parse().ok()?;
    let open = match head.next()? {
        "open" => true,
        "closed" => false,
        _ => return None,
    };
    let mut fields = parts.map(parse_field).collect::<Option<Vec<_>>>()?;
    fields.sort_by_key(|field| field.offset);
    Some(Struct { size, align, open, fields })
}

fn parse_field(part: &str) -> Option<Field> {
    let (name, rest) = part.split_once('@')?;
    let (offset, rest) = rest.split_once('+')?;
    let (size, kind) = rest.split_once('=')?;
    Some(Field {
        name: name.to_owned(),
        offset: offset.parse().ok()?,
        size: size.parse().ok()?,
        kind: kind.to_owned(),
    })
}

/// Splits at `separator`, but not inside `[u64;2]` or `fn(a,b)`.
fn split_outside_brackets(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && c == separator
    })
}

/// The differences that forbid a plugin built against `plugin` in a host built against `host`, one
/// readable line each; empty = they fit.
#[must_use]
pub fn differences(host: &Table, plugin: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for name in REQUIRED {
        if !plugin.structs.contains_key(name) {
            found.push(format!("the plugin's layout text does not list struct {name}"));
        }
    }
    for (name, theirs) in &plugin.structs {
        if let Some(ours) = host.structs.get(name) {
            compare_structs(name, ours, theirs, &mut found);
        }
    }
    for (name, theirs) in &plugin.functions {
        let Some(ours) = host.functions.get(name) else { continue };
        if !ours.is_same_as(theirs) {
            let (ours, theirs) = (ours.signature(), theirs.signature());
            found.push(format!("fn {name}: the plugin has {theirs}; this host has {ours}"));
        }
    }
    found
}

fn compare_structs(name: &str, ours: &Struct, theirs: &Struct, found: &mut Vec<String>) {
    if ours.open != theirs.open {
        let word = |open| if open { "open" } else { "closed" };
        let (ours, theirs) = (word(ours.open), word(theirs.open));
        found.push(format!("struct {name}: is {theirs} in the plugin; {ours} in this host"));
    }
    if ours.align != theirs.align {
        let (ours, theirs) = (ours.align, theirs.align);
        found.push(format!(
            "struct {name}: is aligned to {theirs} in the plugin; to {ours} in this host"
        ));
    }
    if !ours.open && ours.size != theirs.size {
        let (ours, theirs) = (ours.size, theirs.size);
        found.push(format!(
            "struct {name}: has {theirs} bytes in the plugin; {ours} in this host, and may not \
             change within an ABI major"
        ));
    }
    // Only the first differing field is reported, because it usually moves all later ones.
    if let Some(line) = first_difference(name, ours, theirs) {
        found.push(line);
    }
}

fn first_difference(name: &str, ours: &Struct, theirs: &Struct) -> Option<String> {
    let common = ours.size.min(theirs.size);
    let unmatched = |of: &Struct, by: &Struct| -> Option<Field> {
        of.fields
            .iter()
            .filter(|f| f.offset < common && !f.is_reserved())
            .find(|f| !by.fields.contains(f) && !by.reserves(f))
            .cloned()
    };
    let at = |side: &Struct, offset| {
        side.fields.iter().find(|f| f.offset <= offset && offset < f.end()).map_or_else(
            || format!("nothing at byte {offset}"),
            |f| format!("`{}: {}` at byte {} (+{})", f.name, f.kind, f.offset, f.size),
        )
    };
    let offset = match (unmatched(ours, theirs), unmatched(theirs, ours)) {
        (None, None) => return None,
        (a, b) => a.into_iter().chain(b).map(|f| f.offset).min()?,
    };
    let (theirs, ours) = (at(theirs, offset), at(ours, offset));
    Some(format!("struct {name}: the plugin has {theirs}; this host has {ours}"))
}

/// The rules of ABI growth that `new` breaks compared with `old`, one line each; empty = `new`
/// extends `old`.
#[must_use]
pub fn broken_promises(old: &Table, new: &Table) -> Vec<String> {
    let mut found = differences(new, old);
    for (name, before) in &old.structs {
        match new.structs.get(name) {
            None => found.push(format!("struct {name} is gone")),
            Some(now) if now.size < before.size => found.push(format!("struct {name} shrank")),
            Some(_) => {}
        }
    }
    let gone = old.functions.keys().filter(|name| !new.functions.contains_key(*name));
    found.extend(gone.map(|name| format!("fn {name} is gone")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BASE: &str = "\
bay_plugin:size=8,align=4,open;size@0+4=u32;flags@4+4=u32
bay_host:size=8,align=4,open;size@0+4=u32;flags@4+4=u32
bay_str:size=16,align=8,closed;ptr@0+8=*constu8;len@8+8=usize
bay_io:size=32,align=8,closed;op@0+2=u16;rsv0@2+6=[u8;6];arg@8+16=[u64;2];id@24+8=u64
fn:bay_submit_fn(chan:*mutc_void,io:*mutbay_io,)
fn:bay_poll_fn(ctx:*mutc_void,)->i32
";

    fn against_base(plugin: &str) -> Vec<String> {
        differences(&parse(BASE).unwrap(), &parse(plugin).unwrap())
    }

    #[test]
    fn the_hosts_own_text_fits_itself() {
        let text = std::str::from_utf8(&drivebay_plugin_api::LAYOUT).unwrap();
        let table = parse(text).unwrap();
        assert!(table.structs.len() > 20 && table.functions.len() > 50);
        assert_eq!(differences(&table, &table), Vec::<String>::new());
    }

    #[test]
    fn an_open_struct_may_be_longer_on_either_side() {
        let longer = BASE.replace(
            "bay_host:size=8,align=4,open;size@0+4=u32;flags@4+4=u32",
            "bay_host:size=12,align=4,open;size@0+4=u32;flags@4+4=u32;more@8+4=u32",
        );
        assert_ne!(longer, BASE);
        assert_eq!(against_base(&longer), Vec::<String>::new());
        assert_eq!(
            differences(&parse(&longer).unwrap(), &parse(BASE).unwrap()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_closed_struct_may_not_grow() {
        let longer = BASE
            .replace("bay_str:size=16", "bay_str:size=24")
            .replace("len@8+8=usize", "len@8+8=usize;more@16+8=u64");
        let found = against_base(&longer).join("\n");
        assert!(found.contains("struct bay_str: has 24 bytes in the plugin; 16"), "{found}");
    }

    #[test]
    fn a_moved_field_is_named_with_both_places() {
        let moved = BASE.replace(
            "bay_host:size=8,align=4,open;size@0+4=u32;flags@4+4=u32",
            "bay_host:size=8,align=4,open;flags@0+4=u32;size@4+4=u32",
        );
        assert_eq!(
            against_base(&moved),
            ["struct bay_host: the plugin has `flags: u32` at byte 0 (+4); this host has \
                 `size: u32` at byte 0 (+4)"]
        );
    }

    #[test]
    fn reserved_bytes_may_get_a_meaning_on_either_side() {
        let newer = BASE.replace("rsv0@2+6=[u8;6]", "hint@2+2=u16;rsv0@4+4=u32");
        assert_ne!(newer, BASE);
        assert_eq!(against_base(&newer), Vec::<String>::new());
        assert_eq!(
            differences(&parse(&newer).unwrap(), &parse(BASE).unwrap()),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_field_in_the_other_sides_padding_is_refused() {
        let padded = BASE.replace("rsv0@2+6=[u8;6];", "");
        let filled = BASE.replace("rsv0@2+6=[u8;6];", "hint@2+2=u16;");
        let found = differences(&parse(&filled).unwrap(), &parse(&padded).unwrap()).join("\n");
        assert!(found.contains("the plugin has nothing at byte 2"), "{found}");
    }

    #[test]
    fn swapped_arguments_are_refused_and_renamed_ones_are_not() {
        let swapped =
            BASE.replace("(chan:*mutc_void,io:*mutbay_io,)", "(io:*mutbay_io,chan:*mutc_void,)");
        let found = against_base(&swapped).join("\n");
        assert!(found.starts_with("fn bay_submit_fn: the plugin has (*mutbay_io"), "{found}");
        let renamed = BASE.replace("chan:", "channel:");
        assert_eq!(against_base(&renamed), Vec::<String>::new());
    }

    #[test]
    fn another_result_is_refused() {
        let other = BASE.replace(")->i32", ")->u32");
        assert_eq!(against_base(&other).len(), 1);
    }

    #[test]
    fn what_this_host_does_not_know_is_ignored() {
        let newer = format!("{BASE}bay_new:size=4,align=4,open;size@0+4=u32\nfn:bay_new_fn()\n");
        assert_eq!(against_base(&newer), Vec::<String>::new());
    }

    #[test]
    fn a_text_without_the_essential_structs_is_refused() {
        assert_eq!(against_base("").len(), REQUIRED.len());
    }

    #[test]
    fn a_removed_function_breaks_a_promise() {
        let old = parse(BASE).unwrap();
        let new = parse(&BASE.replace("fn:bay_poll_fn(ctx:*mutc_void,)->i32\n", "")).unwrap();
        assert_eq!(broken_promises(&old, &new), ["fn bay_poll_fn is gone"]);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "(?s).{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_damage_of_a_real_text_is_parsed_or_refused(at in 0..BASE.len(), byte in 0_u8..128) {
            let mut bytes = BASE.as_bytes().to_vec();
            bytes[at] = byte;
            if let Ok(table) = parse(std::str::from_utf8(&bytes).unwrap()) {
                let host = parse(BASE).unwrap();
                let _ = differences(&host, &table);
                let _ = differences(&table, &host);
            }
        }
    }
}
