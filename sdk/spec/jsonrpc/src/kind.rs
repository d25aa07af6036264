//! The description of a parameter or a result: name, type, range, default, and text.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;
use std::ops::RangeInclusive;

/// One parameter of a method, or one member of an object that is a parameter or a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Name on the wire.
    pub name: String,
    /// Description. Its first sentence is the summary.
    #[serde(default)]
    pub doc: String,
    /// Type and range.
    #[serde(rename = "schema")]
    pub kind: Kind,
    /// Whether a call without the parameter is refused.
    #[serde(default)]
    pub required: bool,
    /// Default value; `None` when the method decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

/// A JSON type with its range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer {
        /// Minimum.
        #[serde(default = "min_i64")]
        minimum: i64,
        /// Maximum.
        #[serde(default = "max_u64")]
        maximum: u64,
    },
    /// Text.
    String {
        /// Minimum length, in characters.
        #[serde(default)]
        min_len: u64,
        /// Maximum length, in characters.
        #[serde(default = "max_u64")]
        max_len: u64,
    },
    /// One of several words.
    Enum {
        /// The words.
        values: Vec<Choice>,
    },
    /// A list of values of one kind.
    Array {
        /// The kind of each item.
        items: Box<Kind>,
        /// Minimum number of items.
        #[serde(default)]
        min_len: u64,
        /// Maximum number of items.
        #[serde(default = "max_u64")]
        max_len: u64,
    },
    /// An object with named members.
    Object {
        /// The members.
        fields: Vec<Param>,
    },
    /// A number that may have a fraction.
    Number,
    /// An object whose members have any names and one kind.
    Map {
        /// The kind of each member.
        values: Box<Kind>,
    },
    /// Any JSON value; the method checks it. Kinds of later versions are read as this one.
    #[serde(other)]
    Any,
}

/// One word of [`Kind::Enum`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The word.
    pub name: String,
    /// Other spellings that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Description of the word.
    #[serde(default)]
    pub doc: String,
}

impl Kind {
    /// Any string.
    pub const TEXT: Self = Self::String { min_len: 0, max_len: u64::MAX };

    /// Narrows the range: of the value for numbers, of the length for strings and arrays.
    /// Kinds without a range stay unchanged.
    #[must_use]
    pub fn within(mut self, range: RangeInclusive<i128>) -> Self {
        let (low, high) = (*range.start(), *range.end());
        let lowest_len = u64::try_from(low.max(0)).unwrap_or(u64::MAX);
        let highest = u64::try_from(high.max(0)).unwrap_or(u64::MAX);
        match &mut self {
            Self::Integer { minimum, maximum } => {
                *minimum = (*minimum).max(i64::try_from(low).unwrap_or(*minimum));
                *maximum = (*maximum).min(highest);
            }
            Self::String { min_len, max_len } | Self::Array { min_len, max_len, .. } => {
                *min_len = (*min_len).max(lowest_len);
                *max_len = (*max_len).min(highest);
            }
            Self::Boolean
            | Self::Enum { .. }
            | Self::Object { .. }
            | Self::Number
            | Self::Map { .. }
            | Self::Any => {}
        }
        self
    }

    /// The kind as JSON Schema (draft 7, which OpenRPC uses).
    pub fn json_schema(&self) -> Value {
        match self {
            Self::Boolean => json!({"type": "boolean"}),
            Self::Integer { minimum, maximum } => {
                json!({"type": "integer", "minimum": minimum, "maximum": maximum})
            }
            Self::String { min_len, max_len } => {
                let mut schema = json!({"type": "string"});
                set_range(&mut schema, "minLength", *min_len, "maxLength", *max_len);
                schema
            }
            Self::Enum { values } => {
                let words: Vec<&str> = values.iter().flat_map(Choice::spellings).collect();
                json!({"type": "string", "enum": words})
            }
            Self::Array { items, min_len, max_len } => {
                let mut schema = json!({"type": "array", "items": items.json_schema()});
                set_range(&mut schema, "minItems", *min_len, "maxItems", *max_len);
                schema
            }
            Self::Object { fields } => object_schema(fields),
            Self::Number => json!({"type": "number"}),
            Self::Map { values } => {
                json!({"type": "object", "additionalProperties": values.json_schema()})
            }
            Self::Any => json!({}),
        }
    }
}

fn set_range(schema: &mut Value, low_key: &str, low: u64, high_key: &str, high: u64) {
    if let Some(schema) = schema.as_object_mut() {
        if low > 0 {
            schema.insert(low_key.into(), low.into());
        }
        if high < u64::MAX {
            schema.insert(high_key.into(), high.into());
        }
    }
}

fn object_schema(fields: &[Param]) -> Value {
    let properties: serde_json::Map<String, Value> = fields
        .iter()
        .map(|field| {
            let mut schema = field.kind.json_schema();
            if let Some(schema) = schema.as_object_mut() {
                schema.insert("description".into(), field.doc.clone().into());
                if let Some(default) = &field.default {
                    schema.insert("default".into(), default.clone());
                }
            }
            (field.name.clone(), schema)
        })
        .collect();
    let required: Vec<&str> =
        fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

impl Choice {
    /// The word and its other spellings.
    pub fn spellings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

/// The allowed values, for error texts and help: `integer, 0 to 255`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("true or false"),
            Self::Integer { minimum, maximum } => write_range(f, *minimum, *maximum),
            Self::String { min_len, max_len } => {
                f.write_str("string")?;
                write_len(f, *min_len, *max_len, "characters")
            }
            Self::Enum { values } => {
                f.write_str("one of ")?;
                for (index, choice) in values.iter().enumerate() {
                    write!(f, "{}\"{}\"", if index == 0 { "" } else { ", " }, choice.name)?;
                }
                Ok(())
            }
            Self::Array { items, min_len, max_len } => {
                match &**items {
                    Self::String { min_len: 0, max_len: u64::MAX } => {
                        f.write_str("array of strings")?
                    }
                    Self::Object { fields } => {
                        f.write_str("array of objects with ")?;
                        write_names(f, fields)?;
                    }
                    Self::Any => f.write_str("array of JSON values")?,
                    items => write!(f, "array of ({items})")?,
                }
                write_len(f, *min_len, *max_len, "items")
            }
            Self::Object { fields } => {
                f.write_str("object with ")?;
                write_names(f, fields)
            }
            Self::Number => f.write_str("number"),
            Self::Map { values } => write!(f, "object; each member: {values}"),
            Self::Any => f.write_str("any JSON value"),
        }
    }
}

/// Leaves out the limits of 64-bit types, which tell a reader nothing.
fn write_range(f: &mut fmt::Formatter<'_>, low: i64, high: u64) -> fmt::Result {
    const NO_END: [u64; 2] = [u64::MAX, i64::MAX.unsigned_abs()];
    match (low, high) {
        (i64::MIN, high) if NO_END.contains(&high) => f.write_str("integer"),
        (low, u64::MAX) => write!(f, "integer, at least {low}"),
        (low, high) => write!(f, "integer, {low} to {high}"),
    }
}

fn write_len(f: &mut fmt::Formatter<'_>, low: u64, high: u64, unit: &str) -> fmt::Result {
    match (low, high) {
        (0, u64::MAX) => Ok(()),
        (0, high) => write!(f, ", at most {high} {unit}"),
        (low, u64::MAX) => write!(f, ", at least {low} {unit}"),
        (low, high) => write!(f, ", {low} to {high} {unit}"),
    }
}

fn write_names(f: &mut fmt::Formatter<'_>, fields: &[Param]) -> fmt::Result {
    for (index, field) in fields.iter().enumerate() {
        write!(f, "{}{}", if index == 0 { "" } else { ", " }, field.name)?;
    }
    Ok(())
}

fn min_i64() -> i64 {
    i64::MIN
}

fn max_u64() -> u64 {
    u64::MAX
}
