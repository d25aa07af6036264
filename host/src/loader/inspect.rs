//! Inspection: reads everything that can refuse a plugin from its file. None of the plugin's code
//! runs.
//!
//! A file with neither the manifest note nor the entry symbol is not a plugin at all. A folder of
//! build output has many such files, so they are kept apart from plugins that are refused.

use super::error::{Error, Result};
use super::layout;
use super::manifest::{MANIFEST_LEN_MAX, Manifest};
use super::trust::owner;
use drivebay_plugin_api::note::{BAY_NOTE_LAYOUT, BAY_NOTE_MANIFEST};
use drivebay_plugin_api::{BAY_ABI_MAJOR, BAY_ABI_MINOR, LAYOUT};
use object::elf;
use object::read::elf::{
    Dyn, FileHeader, NoteIterator, ProgramHeader, SectionHeader, SectionTable, Sym,
};
use object::{Endianness, ReadCache, ReadRef};
use serde::Serialize;
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The entry symbol of a plugin (the door). Its name contains the ABI major.
pub const DOOR: &str = "bay_plugin_v1";
/// The prefix of the entry symbols of all ABI majors.
const DOOR_PREFIX: &[u8] = b"bay_plugin_v";
/// The owner name of the notes.
const OWNER: &[u8] = b"BAY";
/// The longest layout text, in bytes.
const LAYOUT_LEN_MAX: usize = 1024 * 1024;
/// The maximum number of segments of a file.
const SEGMENTS_MAX: u64 = 256;
/// The maximum number of sections of a file.
const SECTIONS_MAX: usize = 4096;
/// The maximum number of bytes of notes in a file.
const NOTES_LEN_MAX: u64 = 8 << 20;
/// The maximum number of entries of the dynamic section, and the maximum number of dynamic symbols.
const ENTRIES_MAX: u64 = 200_000;
/// The maximum total length of the names of dynamic symbols, in bytes.
const STRINGS_LEN_MAX: u64 = 64 << 20;
/// The maximum number of bytes of a name that are kept.
const NAME_LEN_MAX: usize = 4096;
/// The maximum number of bytes of a build id that are kept.
const BUILD_ID_LEN_MAX: usize = 64;
/// The maximum number of entries of one list that are kept.
const LIST_MAX: usize = 256;

/// What the inspection of a plugin's file found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// The manifest, if it is readable.
    pub manifest: Option<Manifest>,
    /// The libraries that the dynamic loader loads with it (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// Where the dynamic loader looks for them (`DT_RUNPATH`, `DT_RPATH`).
    pub runpath: Vec<String>,
    /// Whether it must never be unmapped (`DF_1_NODELETE`).
    pub nodelete: bool,
    /// The symbols that prevent unmapping (`STB_GNU_UNIQUE`).
    pub unique_symbols: Vec<String>,
    /// The linker's id of this build (`.note.gnu.build-id`), in hexadecimal.
    pub build_id: Option<String>,
    /// The size of the door in bytes, from the symbol table; `None` = the file exports no door.
    pub door_size: Option<u64>,
    /// Why it may not be loaded, one readable line each; empty = it may be loaded.
    pub refusals: Vec<String>,
}

/// Why a file is not a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAPlugin {
    /// It is a valid file of another kind, such as a library in a folder of build output.
    SomethingElse,
    /// It cannot be understood or must not be read, and may have been a plugin. Contains the
    /// reason.
    Unreadable(String),
    /// The system could not read it, and the next attempt may succeed. Contains the reason.
    ReadFailed(String),
}

impl fmt::Display for NotAPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SomethingElse => {
                f.write_str("no manifest note (owner BAY, type 1); not a plugin")
            }
            Self::Unreadable(why) | Self::ReadFailed(why) => f.write_str(why),
        }
    }
}

impl Inspection {
    /// Returns the manifest if there is no reason against the plugin.
    ///
    /// # Errors
    /// `ENOEXEC` with the first reason against it.
    pub fn allowed(&self) -> Result<&Manifest> {
        match (&self.manifest, self.refusals.as_slice()) {
            (Some(manifest), []) => Ok(manifest),
            (_, [only]) => Err(Error::new(libc::ENOEXEC, only.clone())),
            (_, [first, rest @ ..]) => {
                Err(Error::new(libc::ENOEXEC, format!("{first} (and {} more)", rest.len())))
            }
            (None, []) => Err(Error::new(libc::ENOEXEC, "it has no manifest")),
        }
    }

    fn refuse(&mut self, reason: impl Into<String>) {
        if self.refusals.len() < LIST_MAX {
            self.refusals.push(reason.into());
        }
    }
}

/// Inspects an open file.
///
/// # Errors
/// What the file is, if it is not a plugin.
pub fn inspect_file(file: &File) -> std::result::Result<Inspection, NotAPlugin> {
    let failure = RefCell::new(None);
    let inspection = inspect(&ReadCache::new(Watched { file, failure: &failure }));
    // The parser takes a failed read for the end of the file.
    match failure.take() {
        None => inspection,
        Some(error) => Err(NotAPlugin::ReadFailed(format!("cannot be read: {error}"))),
    }
}

/// A file that keeps the first error of its reads.
struct Watched<'f> {
    file: &'f File,
    failure: &'f RefCell<Option<io::Error>>,
}

impl Watched<'_> {
    fn record<T>(&self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                let copy =
                    error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error);
                self.failure.borrow_mut().get_or_insert(copy);
            }
        })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = (&mut &*self.file).read(buffer);
        self.record(result)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let result = (&mut &*self.file).seek(to);
        self.record(result)
    }
}

/// Inspects the file at `path`.
///
/// # Errors
/// What the file is, if it is not a plugin or cannot be read.
pub fn inspect_path(path: &Path) -> std::result::Result<Inspection, NotAPlugin> {
    let file =
        owner::open(path).map_err(|e| NotAPlugin::ReadFailed(format!("cannot be opened: {e}")))?;
    inspect_file(&file)
}

/// Inspects the bytes of a file. Never panics, whatever they are.
///
/// # Errors
/// What the bytes are, if they are not a plugin.
pub fn inspect<'d, R: ReadRef<'d>>(data: R) -> std::result::Result<Inspection, NotAPlugin> {
    let no = |reason: &str| NotAPlugin::Unreadable(reason.to_owned());
    let header = elf::FileHeader64::<Endianness>::parse(data)
        .map_err(|_| no("not a 64-bit ELF file; a plugin is a shared object"))?;
    let endian = header.endian().map_err(|_| no("an ELF file of an unknown byte order"))?;
    if u64::from(header.e_phnum(endian)) > SEGMENTS_MAX {
        return Err(no("an ELF file with too many segments"));
    }
    let segments = header
        .program_headers(endian, data)
        .map_err(|_| no("an ELF file without readable program headers"))?;

    let notes = read_notes(endian, segments, data);
    let mut found = Inspection { build_id: notes.build_id.clone(), ..Inspection::default() };
    read_dynamic_part(endian, header, data, &mut found);
    if notes.manifests.is_empty() && notes.layouts.is_empty() && found.door_size.is_none() {
        return Err(NotAPlugin::SomethingElse);
    }

    check_kind_of_file(endian, header, &mut found);
    check_length(endian, header, segments, data, &mut found);
    check_manifest(&notes.manifests, &mut found);
    check_layout(&notes.layouts, &mut found);
    check_door(&mut found);
    Ok(found)
}

#[derive(Default)]
struct Notes<'d> {
    manifests: Vec<&'d [u8]>,
    layouts: Vec<&'d [u8]>,
    build_id: Option<String>,
}

fn read_notes<'d, R: ReadRef<'d>>(
    endian: Endianness,
    segments: &'d [elf::ProgramHeader64<Endianness>],
    data: R,
) -> Notes<'d> {
    let mut notes = Notes::default();
    let mut left = NOTES_LEN_MAX;
    for segment in segments.iter().filter(|s| s.p_type(endian) == elf::PT_NOTE) {
        let Some(rest) = left.checked_sub(segment.p_filesz(endian)) else { break };
        left = rest;
        let Ok(Some(mut list)) = segment.notes(endian, data) else { continue };
        collect_notes(endian, &mut list, &mut notes);
    }
    notes
}

fn collect_notes<'d>(
    endian: Endianness,
    list: &mut NoteIterator<'d, elf::FileHeader64<Endianness>>,
    notes: &mut Notes<'d>,
) {
    // Keep at most two notes of a type, because two are already an error.
    while let Ok(Some(note)) = list.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            let id = note.desc().iter().take(BUILD_ID_LEN_MAX);
            notes.build_id = Some(id.map(|byte| format!("{byte:02x}")).collect());
            continue;
        }
        let into = match note.n_type(endian) {
            BAY_NOTE_MANIFEST => &mut notes.manifests,
            BAY_NOTE_LAYOUT => &mut notes.layouts,
            _ => continue,
        };
        if note.name() == OWNER && into.len() < 2 {
            into.push(note.desc());
        }
    }
}

fn read_dynamic_part<'d, R: ReadRef<'d>>(
    endian: Endianness,
    header: &elf::FileHeader64<Endianness>,
    data: R,
    found: &mut Inspection,
) {
    if header.shnum(endian, data).is_ok_and(|count| count > SECTIONS_MAX) {
        return found.refuse(format!("it has more than {SECTIONS_MAX} sections"));
    }
    let Ok(sections) = header.sections(endian, data) else { return };
    let first = |kind| sections.iter().find(|section| section.sh_type(endian) == kind);
    if let Some(section) = first(elf::SHT_DYNAMIC)
        && let Some((entries, names)) = entries_of(endian, &sections, section, data, found)
    {
        let entries: &[elf::Dyn64<Endianness>] = entries;
        entries.iter().for_each(|entry| read_dynamic_entry(endian, entry, names, found));
    }
    if let Some(section) = first(elf::SHT_DYNSYM)
        && let Some((symbols, names)) = entries_of(endian, &sections, section, data, found)
    {
        let symbols: &[elf::Sym64<Endianness>] = symbols;
        symbols.iter().for_each(|symbol| read_symbol(endian, symbol, names, found));
    }
}

/// The entries of a section and the names that they refer to, if neither exceeds its limit.
fn entries_of<'d, T: object::Pod, R: ReadRef<'d>>(
    endian: Endianness,
    sections: &SectionTable<'d, elf::FileHeader64<Endianness>, R>,
    section: &elf::SectionHeader64<Endianness>,
    data: R,
    found: &mut Inspection,
) -> Option<(&'d [T], &'d [u8])> {
    if section.sh_size(endian) / size_of::<T>() as u64 > ENTRIES_MAX {
        found.refuse(format!("it has more than {ENTRIES_MAX} dynamic symbols"));
        return None;
    }
    let names = sections.section(section.link(endian)).ok()?;
    if names.sh_size(endian) > STRINGS_LEN_MAX {
        found
            .refuse(format!("its dynamic symbols have more than {STRINGS_LEN_MAX} bytes of names"));
        return None;
    }
    Some((section.data_as_array(endian, data).ok()?, names.data(endian, data).ok()?))
}

/// The name at `offset`, at most [`NAME_LEN_MAX`] bytes.
fn name_at(names: &[u8], offset: u32) -> &[u8] {
    let rest = names.get(offset as usize..).unwrap_or_default();
    let start = rest.get(..NAME_LEN_MAX).unwrap_or(rest);
    start.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn read_symbol(
    endian: Endianness,
    symbol: &elf::Sym64<Endianness>,
    names: &[u8],
    found: &mut Inspection,
) {
    let name = name_at(names, symbol.st_name(endian));
    if symbol.st_bind() == elf::STB_GNU_UNIQUE && found.unique_symbols.len() < LIST_MAX {
        found.unique_symbols.push(String::from_utf8_lossy(name).into_owned());
    }
    if symbol.st_shndx(endian) == elf::SHN_UNDEF || !name.starts_with(DOOR_PREFIX) {
        return;
    }
    if name == DOOR.as_bytes() {
        found.door_size = Some(symbol.st_size(endian));
    } else {
        let name = String::from_utf8_lossy(name).into_owned();
        found.refuse(format!("it has the door {name}; this host opens {DOOR}"));
    }
}

fn read_dynamic_entry(
    endian: Endianness,
    entry: &elf::Dyn64<Endianness>,
    names: &[u8],
    found: &mut Inspection,
) {
    let list = match entry.tag32(endian) {
        Some(elf::DT_FLAGS_1) => {
            found.nodelete |= entry.val32(endian).unwrap_or(0) & elf::DF_1_NODELETE != 0;
            return;
        }
        Some(elf::DT_NEEDED) => &mut found.needed,
        Some(elf::DT_RUNPATH | elf::DT_RPATH) => &mut found.runpath,
        _ => return,
    };
    if list.len() < LIST_MAX
        && let Some(offset) = entry.val32(endian)
    {
        list.push(String::from_utf8_lossy(name_at(names, offset)).into_owned());
    }
}

fn check_kind_of_file(
    endian: Endianness,
    header: &elf::FileHeader64<Endianness>,
    found: &mut Inspection,
) {
    if header.e_type(endian) != elf::ET_DYN {
        found.refuse("it is not a shared object (ELF type ET_DYN is required)");
    }
    let required = if cfg!(target_arch = "x86_64") {
        elf::EM_X86_64
    } else if cfg!(target_arch = "aarch64") {
        elf::EM_AARCH64
    } else {
        return;
    };
    let machine = header.e_machine(endian);
    if machine != required {
        found.refuse(format!("it is for ELF machine {machine}; this host is {required}"));
    }
}

/// Refuses a file that was not copied completely. Such a file still has its notes, because they are
/// at the beginning. The section headers, which lead to the symbols, are at the end.
fn check_length<'d, R: ReadRef<'d>>(
    endian: Endianness,
    header: &elf::FileHeader64<Endianness>,
    segments: &[elf::ProgramHeader64<Endianness>],
    data: R,
    found: &mut Inspection,
) {
    let len = data.len().unwrap_or(0);
    let ends = segments.iter().map(|s| s.p_offset(endian).saturating_add(s.p_filesz(endian)));
    let headers_len = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    let headers_end = header.e_shoff(endian).saturating_add(headers_len);
    let end = ends.max().unwrap_or(0).max(headers_end);
    if end > len {
        found.refuse(format!("it is cut off: {len} bytes; its segments and headers need {end}"));
    }
}

fn check_manifest(notes: &[&[u8]], found: &mut Inspection) {
    let text = match notes {
        [one] => *one,
        [] => return found.refuse("it has no manifest note (owner BAY, type 1)"),
        _ => return found.refuse("it has two manifest notes; one is required"),
    };
    let manifest = note_text(text, "manifest", MANIFEST_LEN_MAX)
        .and_then(|text| Manifest::parse(text).map_err(|e| e.to_string()));
    match manifest {
        Err(reason) => found.refuse(reason),
        Ok(manifest) => {
            check_version(&manifest, found);
            found.manifest = Some(manifest);
        }
    }
}

fn check_version(manifest: &Manifest, found: &mut Inspection) {
    let (major, _) = manifest.abi;
    if major != BAY_ABI_MAJOR {
        found.refuse(format!("it is for ABI {major}; this host speaks ABI {BAY_ABI_MAJOR}"));
    }
    let needs = manifest.needs_minor;
    if needs > BAY_ABI_MINOR {
        found.refuse(format!(
            "it needs ABI {major}.{needs} or later; this host speaks {BAY_ABI_MAJOR}.{BAY_ABI_MINOR}"
        ));
    }
}

fn check_layout(notes: &[&[u8]], found: &mut Inspection) {
    let text = match notes {
        [one] => *one,
        [] => return found.refuse("it has no layout note (owner BAY, type 2)"),
        _ => return found.refuse("it has two layout notes; one is required"),
    };
    if text.trim_ascii_end() == LAYOUT.trim_ascii_end() {
        return;
    }
    let theirs = note_text(text, "layout", LAYOUT_LEN_MAX).and_then(layout::parse);
    let ours = std::str::from_utf8(&LAYOUT).map_err(|e| e.to_string()).and_then(layout::parse);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            layout::differences(&ours, &theirs).into_iter().for_each(|line| found.refuse(line));
        }
        (Err(reason), _) | (_, Err(reason)) => found.refuse(reason),
    }
}

fn check_door(found: &mut Inspection) {
    // The door up to the end of `size`, which the loader must be able to read.
    const LEAST: u64 = 12;
    match found.door_size {
        None => found.refuse(format!("it does not export the door, a data symbol {DOOR}")),
        Some(size) if size < LEAST => {
            found
                .refuse(format!("its door {DOOR} has {size} bytes; at least {LEAST} are required"));
        }
        Some(_) => {}
    }
}

/// The text of a note without its padding.
fn note_text<'d>(
    bytes: &'d [u8],
    what: &str,
    len_max: usize,
) -> std::result::Result<&'d str, String> {
    if bytes.len() > len_max {
        return Err(format!("{what} note: {} bytes; at most {len_max}", bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| format!("{what} note: {e}"))?;
    Ok(text.trim_end_matches([' ', '\0', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_no_plugin() {
        let reason = inspect(&b"#!/bin/sh\n"[..]).unwrap_err().to_string();
        assert!(reason.contains("not a 64-bit ELF"), "{reason}");
    }

    #[test]
    fn a_program_is_no_plugin() {
        let itself = std::env::current_exe().unwrap();
        assert_eq!(inspect_path(&itself).unwrap_err(), NotAPlugin::SomethingElse);
    }

    #[test]
    fn notes_are_read_without_their_padding() {
        assert_eq!(note_text(b"{}  \0", "manifest", 10).unwrap(), "{}");
        assert!(note_text(&[b'x'; 11], "manifest", 10).is_err());
        assert!(note_text(&[0xff], "manifest", 10).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_behind_an_elf_header_are_read_or_refused(
            tail in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
            bytes.extend(tail);
            let _ = inspect(bytes.as_slice());
        }
    }
}
