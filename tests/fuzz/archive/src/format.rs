//! An archive: a compressed tar file that depends only on its inputs. Its entries are sorted by name. They have no
//! times and no owners.

use crate::Inputs;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use std::io::{Error, ErrorKind, Read, Result, Write};

/// The maximum length of an archive after decompression, in bytes.
const LEN_MAX: u64 = 16 << 20;

pub(crate) fn pack(inputs: &Inputs) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in inputs {
        check(name)?;
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice())?;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best()); // writes no time and no name
    encoder.write_all(&builder.into_inner()?)?;
    encoder.finish()
}

pub(crate) fn unpack(archive: &[u8]) -> Result<Inputs> {
    let tar = tar(archive)?;
    let mut inputs = Inputs::new();
    for entry in tar::Archive::new(tar.as_slice()).entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        check(&name)?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if inputs.insert(name.clone(), bytes).is_some() {
            return Err(invalid(format!("{name}: two inputs have this name")));
        }
    }
    Ok(inputs)
}

/// The tar file in a compressed archive.
pub(crate) fn tar(archive: &[u8]) -> Result<Vec<u8>> {
    let mut tar = Vec::new();
    GzDecoder::new(archive).take(LEN_MAX + 1).read_to_end(&mut tar)?;
    if tar.len() as u64 > LEN_MAX {
        return Err(invalid(format!(
            "the archive has more than {LEN_MAX} bytes when decompressed"
        )));
    }
    Ok(tar)
}

/// A name becomes a file in a folder, and must not lead out of it.
fn check(name: &str) -> Result<()> {
    let is_plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
    if is_plain {
        return Ok(());
    }
    Err(invalid(format!(
        "{name:?} is not allowed as the name of an input; allowed: a file name without a folder"
    )))
}

fn invalid(text: String) -> Error {
    Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(names: &[&str]) -> Inputs {
        names.iter().map(|name| ((*name).to_owned(), name.as_bytes().to_vec())).collect()
    }

    #[test]
    fn inputs_come_back_and_the_order_in_which_they_came_does_not_matter() {
        let packed = pack(&inputs(&["b", "a", "c"])).unwrap();
        assert_eq!(packed, pack(&inputs(&["c", "b", "a"])).unwrap());
        assert_eq!(unpack(&packed).unwrap(), inputs(&["a", "b", "c"]));
        assert_eq!(packed[4..8], [0; 4], "the time in the gzip header (RFC 1952, section 2.3)");
    }

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_refused() {
        for name in ["", "..", "../x", "a/b", "/x"] {
            assert_eq!(
                pack(&inputs(&[name])).unwrap_err().kind(),
                ErrorKind::InvalidData,
                "{name}"
            );
        }
    }

    #[test]
    fn an_archive_that_grows_without_limit_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&vec![0; usize::try_from(LEN_MAX).unwrap() + 1]).unwrap();
        let error = unpack(&encoder.finish().unwrap()).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }

    #[test]
    fn what_is_no_archive_is_an_error() {
        assert!(unpack(b"no archive").is_err());
        let packed = pack(&inputs(&["a"])).unwrap();
        assert!(unpack(&packed[..packed.len() / 2]).is_err());
    }
}
