//! The description of a whole method, as text for the plugin ABI.

use crate::check::check_value;
use crate::{Kind, Param, ParamType, Params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// Maximum length of a method's description, in bytes.
const TEXT_MAX_BYTES: usize = 256 * 1024;
/// Maximum length of a method's name, in bytes.
const NAME_MAX_BYTES: usize = 128;

/// When a method may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Before `framework_start_init`.
    Startup,
    /// After `framework_start_init`.
    Runtime,
}

/// Who may call a method. Each role includes the rights of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Reads the state.
    Read,
    /// Creates and changes disks and targets.
    Operate,
    /// Changes the process: options, plugins, keys, shutdown.
    Admin,
}

/// One method: its parameters, its result, the role that it requires, and the states in which it may be called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// Name on the wire.
    pub name: String,
    /// Former names that still work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// When it may be called.
    #[serde(default = "runtime_only")]
    pub states: Vec<State>,
    /// Lowest role that may call it. If the text has none, the most restricted one.
    #[serde(default = "admin")]
    pub role: Role,
    /// Description. Its first line is the summary.
    #[serde(default)]
    pub doc: String,
    /// Parameters.
    #[serde(default)]
    pub params: Vec<Param>,
    /// Description of the result.
    #[serde(default)]
    pub result: String,
    /// Type of the result; `None` when it is not declared.
    #[serde(default, rename = "result_schema", skip_serializing_if = "Option::is_none")]
    pub returns: Option<Kind>,
    /// Its errors, besides those that all methods share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ErrorDoc>,
}

/// One error of a method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDoc {
    /// The code on the wire.
    pub code: i64,
    /// Stable name, as in the error's data.
    pub name: String,
    /// When it happens.
    #[serde(default)]
    pub doc: String,
}

/// Why a text is not a description of a method.
#[derive(Debug)]
pub enum MethodTextError {
    /// The text is too long.
    TooLong,
    /// The JSON is malformed or has the wrong members.
    Json(serde_json::Error),
    /// The name is not allowed for a method.
    Name(String),
}

impl fmt::Display for MethodTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "longer than {TEXT_MAX_BYTES} bytes"),
            Self::Json(error) => error.fmt(f),
            Self::Name(name) => write!(
                f,
                "method name {name:?}; allowed: 1 to {NAME_MAX_BYTES} letters, digits, '_', '.' and '-'"
            ),
        }
    }
}

impl std::error::Error for MethodTextError {}

impl Method {
    /// Describes a method with parameters `P` that may be called at run time.
    pub fn new<P: Params>(name: impl Into<String>, role: Role, doc: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            states: runtime_only(),
            role,
            doc: doc.into(),
            params: P::params(),
            result: String::new(),
            returns: None,
            errors: Vec::new(),
        }
    }

    /// Adds a former name.
    #[must_use]
    pub fn alias(mut self, alias: impl Into<String>) -> Self {
        self.aliases.push(alias.into());
        self
    }

    /// Sets when it may be called.
    #[must_use]
    pub fn states(mut self, states: &[State]) -> Self {
        self.states = states.to_vec();
        self
    }

    /// Allows the method before and after `framework_start_init`.
    #[must_use]
    pub fn in_any_state(self) -> Self {
        self.states(&[State::Startup, State::Runtime])
    }

    /// Sets the description of the result.
    #[must_use]
    pub fn result(mut self, result: impl Into<String>) -> Self {
        self.result = result.into();
        self
    }

    /// Declares that the result is an `R`. A result of any kind counts as not declared.
    #[must_use]
    pub fn returns<R: ParamType>(mut self) -> Self {
        self.returns = Some(R::kind()).filter(|kind| *kind != Kind::Any);
        self
    }

    /// Checks an answer against the declared type of the result.
    ///
    /// # Errors
    /// The member that differs, its value, and what is declared.
    pub fn check_result(&self, answer: &Value) -> Result<(), String> {
        let Some(kind) = &self.returns else { return Ok(()) };
        check_value(kind, answer, "result")
            .map_err(|error| error.message.replacen("parameter ", "", 1))
    }

    /// Adds an error.
    #[must_use]
    pub fn error(mut self, code: i64, name: impl Into<String>, doc: impl Into<String>) -> Self {
        self.errors.push(ErrorDoc { code, name: name.into(), doc: doc.into() });
        self
    }

    /// The description as JSON text.
    pub fn to_text(&self) -> String {
        // Structs of strings, numbers and `Value`s can always be encoded.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses a description from a plugin. Ignores unknown members, which may come
    /// from a later version.
    ///
    /// # Errors
    /// The text is too long, is not such a JSON object, or has no valid name.
    pub fn parse(text: &str) -> Result<Self, MethodTextError> {
        if text.len() > TEXT_MAX_BYTES {
            return Err(MethodTextError::TooLong);
        }
        let method: Self = serde_json::from_str(text).map_err(MethodTextError::Json)?;
        let mut names = std::iter::once(&method.name).chain(&method.aliases);
        match names.find(|name| !is_method_name(name)) {
            Some(name) => Err(MethodTextError::Name(name.clone())),
            None => Ok(method),
        }
    }
}

fn is_method_name(name: &str) -> bool {
    (1..=NAME_MAX_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn runtime_only() -> Vec<State> {
    vec![State::Runtime]
}

fn admin() -> Role {
    Role::Admin
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{NoParams, params};

    params! {
        /// Parameters of `bdev_malloc_create`, shortened.
        pub(crate) struct Create {
            /// Name of the new bdev; chosen when absent.
            name: Option<String>,
            /// Block size, in bytes.
            #[range(512..=65536)]
            block_size: u32,
            /// Metadata within | the block.
            md_interleave: bool = false,
            /// Bases.
            bases: Vec<String> = Vec::new(),
        }
    }

    pub(crate) fn create() -> Method {
        Method::new::<Create>("bdev_malloc_create", Role::Operate, "Makes a RAM disk.\n\nMore.")
            .alias("construct_malloc_bdev")
            .result("Name of the new bdev.")
            .returns::<String>()
            .error(-17, "exists", "A bdev has that name.")
    }

    #[test]
    fn a_method_survives_its_text() {
        assert_eq!(Method::parse(&create().to_text()).unwrap(), create());
    }

    #[test]
    fn a_short_text_by_hand_means_admin_at_run_time() {
        let method = Method::parse(
            r#"{"name":"acme_x","params":[{"name":"n","schema":{"type":"integer"}},{"name":"f","schema":{"type":"of a later version"}}],"later":1}"#,
        )
        .unwrap();
        assert_eq!((method.role, method.states), (Role::Admin, vec![State::Runtime]));
        assert_eq!(method.params[0].kind, Kind::Integer { minimum: i64::MIN, maximum: u64::MAX });
        assert_eq!(method.params[1].kind, Kind::Any);
    }

    params! {
        /// A result.
        struct Found {
            /// Its name.
            name: String,
            /// Its places.
            places: Vec<Place>,
        }
        struct Place {
            /// First block.
            lba: u64,
            /// What is there.
            what: Option<String>,
        }
    }

    #[test]
    fn an_answer_that_differs_from_the_declared_result_is_told_with_its_place() {
        let method = Method::new::<NoParams>("m", Role::Read, "").returns::<Found>();
        let check = |answer: &str| method.check_result(&serde_json::from_str(answer).unwrap());
        assert_eq!(check(r#"{"name":"a","places":[{"lba":1,"what":null}]}"#), Ok(()));
        assert_eq!(
            check(r#"{"name":"a","places":[{"lba":"1"}]}"#).unwrap_err(),
            "result.places[0].lba: \"1\" is not allowed; allowed: integer, at least 0"
        );
        assert!(check(r#"{"name":"a"}"#).unwrap_err().starts_with("result.places is required"));
        assert!(check(r#"{"name":"a","places":[],"x":1}"#).unwrap_err().contains("result.x"));
        let untold = Method::new::<NoParams>("m", Role::Read, "").returns::<Value>();
        assert_eq!((untold.check_result(&Value::Null), &untold.returns), (Ok(()), &None));
    }

    #[test]
    fn names_that_cannot_be_called_are_refused() {
        for name in ["", "a b", "a\\\"b", &"x".repeat(129)] {
            assert!(Method::parse(&format!(r#"{{"name":"{name}"}}"#)).is_err(), "{name}");
        }
    }
}
