//! Parameters that all methods creating disks share.

use super::op::Geometry;
use super::registration::Registration;
use crate::app::App;
use crate::error::{Error, Result, errno};
use crate::rpc::params;
use drivebay_spec_jsonrpc::{Kind, Param, ParamType, Params};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicU32, Ordering};

/// Maximum length of a bdev's name, in bytes.
const NAME_MAX_BYTES: usize = 255;

params! {
    /// Parameters of every method that creates a disk.
    pub struct DiskParams {
        /// Name of the new bdev. If absent, the bdev gets the name of its module with a number, such as `Malloc0`.
        pub name: Option<String>,
        /// Capacity, in blocks.
        pub num_blocks: u64,
        /// Block size, in bytes: a multiple of 512.
        pub block_size: u32,
        /// UUID. If absent, it is derived from the name.
        pub uuid: Option<Uuid>,
        /// Physical block size, in bytes: a multiple of 512. 0 = the block size.
        pub physical_block_size: u32 = 0,
        /// Metadata per block, in bytes. Only 0 is supported yet.
        pub md_size: u32 = 0,
        /// T10 DIF type. Only 0 (no protection) is supported yet.
        pub dif_type: i32 = 0,
        /// If true, the protection information is at the start of the metadata. Only false is supported yet.
        pub dif_is_head_of_md: bool = false,
        /// Format of the protection information. Only 0 is supported yet.
        pub dif_pi_format: u32 = 0,
    }
}

/// Parameters of a method: first those of every disk, then those of this method.
#[derive(Clone, Debug, PartialEq)]
pub struct With<Own> {
    /// Parameters of every disk.
    pub disk: DiskParams,
    /// Parameters of this method only.
    pub own: Own,
}

impl<Own: Params> Params for With<Own> {
    fn params() -> Vec<Param> {
        DiskParams::params().into_iter().chain(Own::params()).collect()
    }
}

impl<Own: Params> ParamType for With<Own> {
    fn kind() -> Kind {
        Kind::Object { fields: Self::params() }
    }
}

impl<Own: Params> Serialize for With<Own> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::Error as _;
        let mut all = Map::new();
        for part in [serde_json::to_value(&self.disk), serde_json::to_value(&self.own)] {
            if let Value::Object(part) = part.map_err(S::Error::custom)? {
                all.extend(part);
            }
        }
        all.serialize(serializer)
    }
}

impl<'de, Own: Params> Deserialize<'de> for With<Own> {
    /// Each member goes to the part that declares it. The `own` part refuses unknown members.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let of_disk = DiskParams::params();
        let all = Map::deserialize(deserializer)?;
        let (disk, own): (Map<_, _>, Map<_, _>) =
            all.into_iter().partition(|(name, _)| of_disk.iter().any(|param| param.name == *name));
        let part = |part| Value::Object(part);
        Ok(Self {
            disk: serde_json::from_value(part(disk)).map_err(D::Error::custom)?,
            own: serde_json::from_value(part(own)).map_err(D::Error::custom)?,
        })
    }
}

/// The checked common properties of a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    name: String,
    geometry: Geometry,
    uuid: [u8; 16],
    phys_block_size: u32,
}

/// Number for the next disk without a name.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl DiskParams {
    /// Checks the parameters. A disk without a name gets a numbered one: `<prefix>0`. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL`, naming the field.
    pub fn check(self, app: &App, prefix: &str) -> Result<Disk> {
        let geometry = Geometry::new(self.block_size, self.num_blocks)?;
        if !self.physical_block_size.is_multiple_of(512) {
            let given = self.physical_block_size;
            return Err(Error::invalid("physical_block_size", given, "a multiple of 512"));
        }
        only("md_size", self.md_size, 0)?;
        only("dif_type", self.dif_type, 0)?;
        only("dif_is_head_of_md", self.dif_is_head_of_md, false)?;
        only("dif_pi_format", self.dif_pi_format, 0)?;
        let name = match self.name {
            Some(name) => check_name(name)?,
            None => free_name(app, prefix)?,
        };
        let uuid = self.uuid.map_or([0; 16], |uuid| uuid.0);
        Ok(Disk { name, geometry, uuid, phys_block_size: self.physical_block_size })
    }
}

/// Returns the next free name for a disk without a name. Skips names that are taken.
fn free_name(app: &App, prefix: &str) -> Result<String> {
    loop {
        let name = format!("{prefix}{}", NEXT.fetch_add(1, Ordering::Relaxed));
        match super::open(app, &name, false, |_, _| {}) {
            Ok(_) => {}
            Err(error) if error.errno() == errno::ENODEV => return Ok(name),
            Err(error) => return Err(error),
        }
    }
}

/// Refuses a value other than `off` for a feature that is not supported yet.
///
/// # Errors
/// `EINVAL`, naming the field.
pub fn only<T: PartialEq + std::fmt::Display>(field: &str, given: T, off: T) -> Result<()> {
    if given == off { Ok(()) } else { Err(Error::invalid(field, given, off)) }
}

/// Checks the name of a new bdev.
///
/// # Errors
/// `EINVAL` when the name is empty or too long.
pub fn check_name(name: String) -> Result<String> {
    if (1..=NAME_MAX_BYTES).contains(&name.len()) {
        Ok(name)
    } else {
        let message = format!("name must have 1 to {NAME_MAX_BYTES} bytes");
        Err(Error::new(errno::EINVAL, message))
    }
}

impl Disk {
    /// Unique name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Block size and number of blocks.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Fills in a registration.
    pub fn describe(&self, registration: &mut Registration) {
        registration.uuid = self.uuid;
        registration.phys_block_size = self.phys_block_size;
    }
}

/// A UUID. In JSON it has 32 hexadecimal digits, with or without the usual dashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl std::str::FromStr for Uuid {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let refused = || Error::invalid("uuid", text, "8-4-4-4-12 hexadecimal digits");
        let is_shaped = match text.len() {
            32 => true,
            36 => [8, 13, 18, 23].iter().all(|dash| text.as_bytes().get(*dash) == Some(&b'-')),
            _ => false,
        };
        let mut digits = text.chars().filter(|digit| *digit != '-').map(|digit| digit.to_digit(16));
        let mut bytes = [0; 16];
        for byte in &mut bytes {
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(refused());
            };
            *byte = u8::try_from(high * 16 + low).map_err(|_| refused())?;
        }
        if is_shaped && digits.next().is_none() { Ok(Self(bytes)) } else { Err(refused()) }
    }
}

impl std::fmt::Display for Uuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let dash = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl ParamType for Uuid {
    fn kind() -> Kind {
        Kind::String { min_len: 32, max_len: 36 }
    }
}
