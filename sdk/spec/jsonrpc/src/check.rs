//! Checks the parameters of a call, and results, against their description.

use crate::{Kind, Param, RpcError};
use serde_json::{Map, Value};

/// Maximum length of a given value in an error text, in characters.
const GIVEN_MAX_CHARS: usize = 64;

/// Refuses unknown, missing, mistyped and out-of-range parameters. A null
/// member counts as absent.
pub(crate) fn check_object(
    fields: &[Param],
    given: &Map<String, Value>,
    path: &str,
) -> Result<(), RpcError> {
    for (name, value) in given {
        match fields.iter().find(|field| field.name == *name) {
            Some(_) if value.is_null() => {}
            Some(field) => check_value(&field.kind, value, &join(path, name))?,
            None => return Err(unknown(fields, &join(path, name))),
        }
    }
    let is_given = |name: &str| given.get(name).is_some_and(|value| !value.is_null());
    match fields.iter().find(|field| field.required && !is_given(&field.name)) {
        Some(field) => Err(missing(field, &join(path, &field.name))),
        None => Ok(()),
    }
}

pub(crate) fn check_value(kind: &Kind, given: &Value, path: &str) -> Result<(), RpcError> {
    let is_allowed = match (kind, given) {
        (Kind::Any, _) | (Kind::Boolean, Value::Bool(_)) | (Kind::Number, Value::Number(_)) => true,
        (Kind::Integer { minimum, maximum }, Value::Number(number)) => {
            match (number.as_u64(), number.as_i64()) {
                (Some(given), _) => {
                    given <= *maximum && u64::try_from(*minimum).unwrap_or(0) <= given
                }
                (None, Some(negative)) => negative >= *minimum,
                (None, None) => false,
            }
        }
        (Kind::String { min_len, max_len }, Value::String(text)) => {
            (*min_len..=*max_len).contains(&(text.chars().count() as u64))
        }
        (Kind::Enum { values }, Value::String(text)) => {
            values.iter().any(|choice| choice.spellings().any(|spelling| spelling == text))
        }
        (Kind::Array { items, min_len, max_len }, Value::Array(given)) => {
            for (index, item) in given.iter().enumerate() {
                check_value(items, item, &format!("{path}[{index}]"))?;
            }
            (*min_len..=*max_len).contains(&(given.len() as u64))
        }
        (Kind::Object { fields }, Value::Object(given)) => {
            return check_object(fields, given, path);
        }
        (Kind::Map { values }, Value::Object(given)) => {
            for (name, value) in given {
                check_value(values, value, &join(path, name))?;
            }
            true
        }
        _ => false,
    };
    if is_allowed { Ok(()) } else { Err(not_allowed(kind, given, path)) }
}

fn not_allowed(kind: &Kind, given: &Value, path: &str) -> RpcError {
    let given = given.to_string();
    let shown = match given.char_indices().nth(GIVEN_MAX_CHARS) {
        Some((end, _)) => format!("{}…", given.get(..end).unwrap_or_default()),
        None => given,
    };
    let allowed = kind.to_string();
    RpcError::invalid_params(
        format!("parameter {path}: {shown} is not allowed; allowed: {allowed}"),
        path,
        Some(allowed),
    )
}

fn missing(field: &Param, path: &str) -> RpcError {
    let allowed = field.kind.to_string();
    RpcError::invalid_params(
        format!("parameter {path} is required; allowed: {allowed}"),
        path,
        Some(allowed),
    )
}

fn unknown(fields: &[Param], path: &str) -> RpcError {
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
    let allowed = if names.is_empty() { "no parameters".to_owned() } else { names.join(", ") };
    RpcError::invalid_params(
        format!("unknown parameter {path}; allowed: {allowed}"),
        path,
        Some(allowed),
    )
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
