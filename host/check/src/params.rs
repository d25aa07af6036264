//! The parameters with which a plugin's methods create disks.

use crate::rig::{BLOCK_SIZE, NUM_BLOCKS, Rig};
use crate::verdict::Stop;
use drivebay_spec_jsonrpc::{Kind, Method};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

impl Rig<'_> {
    /// The parameters for a method: the required ones of its declaration, overridden by those of
    /// the user.
    pub(crate) fn params_of(&mut self, method: &Method) -> Result<Value, Stop> {
        let mut params = Map::new();
        let is_filter = self.is_filter(method);
        if is_filter {
            self.ensure_base()?;
        }
        if method.params.is_empty() {
            params.insert("name".into(), json!("check0"));
            if is_filter {
                let base = self.base.map(|base| base.name.clone());
                params.insert("base_bdev_name".into(), json!(base));
            } else {
                params.insert("num_blocks".into(), json!(NUM_BLOCKS));
                params.insert("block_size".into(), json!(BLOCK_SIZE));
            }
        }
        for param in &method.params {
            let value = match param.name.as_str() {
                "name" => Some(json!("check0")),
                "num_blocks" => Some(json!(NUM_BLOCKS)),
                "block_size" => Some(json!(BLOCK_SIZE)),
                "filename" | "file" | "path" => Some(json!(self.file()?)),
                name if names_a_base(name) => Some(json!(self.base.map(|base| base.name.clone()))),
                _ if param.required => Some(least(&param.kind)),
                _ => None,
            };
            params.extend(value.map(|value| (param.name.clone(), value)));
        }
        for (name, value) in &self.settings.params {
            match value {
                Value::Null => params.remove(name),
                value => params.insert(name.clone(), value.clone()),
            };
        }
        Ok(Value::Object(params))
    }

    fn is_filter(&self, method: &Method) -> bool {
        method.params.iter().any(|param| names_a_base(&param.name))
            || self.settings.params.keys().any(|name| names_a_base(name))
            || (method.params.is_empty() && self.bases_made > 0)
    }

    /// A file of the suite's size.
    fn file(&self) -> Result<PathBuf, Stop> {
        let path = self.settings.folder.join("check.img");
        let len = NUM_BLOCKS * u64::from(BLOCK_SIZE);
        if path.metadata().is_ok_and(|found| found.len() == len) {
            return Ok(path);
        }
        let made = std::fs::File::create(&path).and_then(|file| file.set_len(len));
        made.map_err(|why| {
            Stop::failed(format!("{} can be made", path.display()), why.to_string())
        })?;
        Ok(path)
    }
}

fn names_a_base(name: &str) -> bool {
    matches!(name, "base_bdev_name" | "base_bdev" | "base_name" | "bdev_name")
}

/// The least value of a kind.
fn least(kind: &Kind) -> Value {
    match kind {
        Kind::Boolean => json!(false),
        Kind::Integer { minimum, .. } => json!((*minimum).max(0)),
        Kind::String { min_len, .. } => {
            json!("check".repeat(usize::try_from(*min_len).unwrap_or(1).clamp(1, 64)))
        }
        Kind::Enum { values } => json!(values.first().map(|choice| choice.name.clone())),
        Kind::Array { .. } => json!([]),
        Kind::Number => json!(0.0),
        Kind::Map { .. } => json!({}),
        Kind::Object { fields } => {
            let required = fields.iter().filter(|field| field.required);
            required.map(|field| (field.name.clone(), least(&field.kind))).collect()
        }
        Kind::Any => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_value_is_within_its_kind() {
        assert_eq!(least(&Kind::Integer { minimum: 7, maximum: 9 }), json!(7));
        assert_eq!(least(&Kind::Integer { minimum: -3, maximum: 9 }), json!(0));
        assert_eq!(least(&Kind::Boolean), json!(false));
        assert!(least(&Kind::TEXT).as_str().is_some_and(|text| !text.is_empty()));
    }
}
