//! The content of a configuration file.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The subsystems, in the order in which they are configured.
    pub subsystems: Vec<Section>,
}

/// The configuration of one subsystem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The name of the subsystem.
    pub subsystem: String,
    /// The calls. SPDK writes null when there are none, and may write arrays of calls.
    pub config: Option<Vec<Value>>,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name of the method.
    pub method: String,
    /// The parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
}

impl Document {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// What is wrong, and at which line and column.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        document.entries()?;
        Ok(document)
    }

    /// All calls in their order, each with the name of its subsystem.
    ///
    /// # Errors
    /// Which element is not a call.
    pub fn entries(&self) -> Result<Vec<(String, Entry)>, String> {
        let mut entries = Vec::new();
        for Section { subsystem, config } in &self.subsystems {
            for call in config.iter().flatten().flat_map(members) {
                let entry = Entry::deserialize(call)
                    .map_err(|error| format!("subsystem {subsystem}: {error} in {call}"))?;
                entries.push((subsystem.clone(), entry));
            }
        }
        Ok(entries)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        // Objects of strings and values can always be encoded.
        format!("{:#}\n", json!(self))
    }
}

/// The calls of a batch, or the single call itself.
fn members(call: &Value) -> &[Value] {
    call.as_array().map_or(std::slice::from_ref(call), Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_reference_saves_is_read() {
        let text = r#"{"subsystems": [
            {"subsystem": "vmd", "config": null},
            {"subsystem": "bdev", "config": [
                {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 1}},
                [{"method": "a"}, {"method": "b"}],
                {"method": "bdev_wait_for_examine"}]}]}"#;
        let entries = Document::parse(text).unwrap().entries().unwrap();
        let methods: Vec<_> = entries.iter().map(|(_, entry)| entry.method.as_str()).collect();
        assert_eq!(methods, ["bdev_set_options", "a", "b", "bdev_wait_for_examine"]);
        assert_eq!(entries[0].1.params, Some(json!({"bdev_io_pool_size": 1})));
    }

    #[test]
    fn what_is_no_call_is_refused_by_its_subsystem() {
        let text = r#"{"subsystems": [{"subsystem": "bdev", "config": [{"params": {}}]}]}"#;
        let why = Document::parse(text).unwrap_err();
        assert!(why.contains("subsystem bdev") && why.contains("method"), "{why}");
    }

    #[test]
    fn its_text_reads_as_itself() {
        let text = r#"{"subsystems": [{"subsystem": "bdev", "config": [{"method": "a"}]}]}"#;
        let document = Document::parse(text).unwrap();
        assert_eq!(Document::parse(&document.to_text()).unwrap(), document);
    }
}
