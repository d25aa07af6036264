//! Declares the parameters of a method once, and decodes calls with that declaration.

use crate::check::check_object;
use crate::number::whole_numbers;
use crate::{Kind, Param, RpcError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A type that a parameter or a result can have.
pub trait ParamType: DeserializeOwned + Serialize {
    /// The values that are allowed on the wire.
    fn kind() -> Kind;

    /// The value of an absent parameter without default. `None` = the parameter is required.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether the value is written by leaving the parameter out.
    fn is_absent(&self) -> bool {
        false
    }
}

/// The parameters of a method, declared by [`params!`](crate::params!).
pub trait Params: ParamType {
    /// Descriptions of the parameters, in the order of the declaration.
    fn params() -> Vec<Param>;
}

/// Decodes the parameters of a call. `json` is the text of an object; an empty
/// text or null means that there are none.
///
/// # Errors
/// Code -32602, with the parameter, the given value and the allowed values.
pub fn decode<P: Params>(json: &str) -> Result<P, RpcError> {
    let json = if matches!(json.trim(), "" | "null") { "{}" } else { json };
    let json = &*whole_numbers(json);
    let value: Value = serde_json::from_str(json).map_err(RpcError::parse)?;
    let Value::Object(given) = value else {
        let message = "params must be an object of named parameters";
        return Err(RpcError::invalid_params(message, "params", Some("object".into())));
    };
    let description = P::params();
    check_object(&description, &given, "")?;
    // Decode the text, not `value`, so that a member given twice is refused too.
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(json)).map_err(
        |error: serde_path_to_error::Error<serde_json::Error>| {
            let path = error.path().to_string();
            let top = description.iter().find(|param| path.starts_with(param.name.as_str()));
            RpcError::invalid_params(
                format!("parameter {path}: {}", error.inner()),
                path,
                top.map(|param| param.kind.to_string()),
            )
        },
    )
}

/// Declares parameters: structs for methods and objects, enums for words.
///
/// A field without default is required unless it is an `Option`. Null means
/// absent. `#[range(…)]` limits numbers by value, strings by characters and
/// arrays by items. Serializing leaves `None` out, so that a value can be
/// written as a call that recreates it.
///
/// ```
/// drivebay_spec_jsonrpc::params! {
///     /// Parameters of `bdev_example_create`.
///     pub struct ExampleCreate {
///         /// Name of the new bdev; chosen when absent.
///         #[range(1..=255)]
///         pub name: Option<String>,
///         /// Capacity, in blocks.
///         pub num_blocks: u64,
///         /// How the blocks are cleared first.
///         pub clear_method: ClearMethod = ClearMethod::Unmap,
///     }
///     /// How blocks are cleared.
///     pub enum ClearMethod {
///         /// Not at all.
///         None = "none",
///         /// By unmap.
///         Unmap = "unmap" | "discard",
///     }
/// }
/// let call: ExampleCreate = drivebay_spec_jsonrpc::decode(r#"{"num_blocks": 8}"#)?;
/// assert_eq!((call.num_blocks, call.clear_method), (8, ClearMethod::Unmap));
/// # Ok::<(), drivebay_spec_jsonrpc::RpcError>(())
/// ```
#[macro_export]
macro_rules! params {
    () => {};
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $Name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $(#[range($range:expr)])?
                $field_vis:vis $field:ident: $ty:ty $(= $default:expr)?
            ),* $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $Name {
            $($(#[doc = $field_doc])* $field_vis $field: $ty,)*
        }

        impl $crate::Params for $Name {
            fn params() -> ::std::vec::Vec<$crate::Param> {
                ::std::vec![$({
                    #[allow(unused_mut, unused_assignments, reason = "not every field has a default")]
                    let mut default: ::std::option::Option<$ty> = ::std::option::Option::None;
                    $(default = ::std::option::Option::Some($default);)?
                    $crate::Param {
                        name: $crate::private::plain_name(::std::stringify!($field)).into(),
                        doc: $crate::private::join_doc(&[$($field_doc),*]),
                        kind: <$ty as $crate::ParamType>::kind()$(.within($range))?,
                        required: default.is_none()
                            && <$ty as $crate::ParamType>::absent().is_none(),
                        default: default.and_then(
                            |default| $crate::private::serde_json::to_value(default).ok()
                        ),
                    }
                }),*]
            }
        }

        impl $crate::ParamType for $Name {
            fn kind() -> $crate::Kind {
                $crate::Kind::Object { fields: <Self as $crate::Params>::params() }
            }
        }

        impl $crate::private::serde::Serialize for $Name {
            fn serialize<S: $crate::private::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                #[allow(unused_mut, reason = "there may be no fields")]
                let mut map = serializer.serialize_map(::std::option::Option::None)?;
                $(if !$crate::ParamType::is_absent(&self.$field) {
                    $crate::private::serde::ser::SerializeMap::serialize_entry(
                        &mut map,
                        $crate::private::plain_name(::std::stringify!($field)),
                        &self.$field,
                    )?;
                })*
                $crate::private::serde::ser::SerializeMap::end(map)
            }
        }

        impl<'de> $crate::private::serde::Deserialize<'de> for $Name {
            fn deserialize<D: $crate::private::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                use $crate::private::serde::de::{Error, MapAccess, Visitor};
                const FIELDS: &[&str] =
                    &[$($crate::private::plain_name(::std::stringify!($field))),*];
                struct Members;
                impl<'de> Visitor<'de> for Members {
                    type Value = $Name;
                    fn expecting(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<A: MapAccess<'de>>(
                        self,
                        mut map: A,
                    ) -> ::std::result::Result<$Name, A::Error> {
                        // Outer `None`: not seen yet. Inner `None`: null.
                        $(let mut $field: ::std::option::Option<::std::option::Option<$ty>> =
                            ::std::option::Option::None;)*
                        while let ::std::option::Option::Some(key) =
                            map.next_key::<::std::string::String>()?
                        {
                            $(
                                if key == $crate::private::plain_name(::std::stringify!($field)) {
                                    if $field.is_some() {
                                        return ::std::result::Result::Err(
                                            A::Error::duplicate_field(
                                                $crate::private::plain_name(
                                                    ::std::stringify!($field)
                                                )
                                            ),
                                        );
                                    }
                                    $field = ::std::option::Option::Some(map.next_value()?);
                                    continue;
                                }
                            )*
                            return ::std::result::Result::Err(
                                A::Error::unknown_field(&key, FIELDS),
                            );
                        }
                        ::std::result::Result::Ok($Name {
                            $($field: match $field.flatten() {
                                ::std::option::Option::Some(given) => given,
                                ::std::option::Option::None => {
                                    $crate::params!(@absent A, $field, $ty $(, $default)?)
                                }
                            },)*
                        })
                    }
                }
                deserializer.deserialize_struct(::std::stringify!($Name), FIELDS, Members)
            }
        }

        $crate::params! { $($rest)* }
    };
    (
        $(#[doc = $doc:literal])*
        $vis:vis enum $Name:ident {
            $(
                $(#[doc = $variant_doc:literal])*
                $Variant:ident = $word:literal $(| $alias:literal)*
            ),+ $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $Name {
            $($(#[doc = $variant_doc])* $Variant,)+
        }

        impl $Name {
            /// The word on the wire.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$Variant => $word,)+
                }
            }
        }

        impl $crate::ParamType for $Name {
            fn kind() -> $crate::Kind {
                $crate::Kind::Enum {
                    values: ::std::vec![$($crate::Choice {
                        name: $word.into(),
                        aliases: ::std::vec![$($alias.into()),*],
                        doc: $crate::private::join_doc(&[$($variant_doc),*]),
                    }),+],
                }
            }
        }

        impl $crate::private::serde::Serialize for $Name {
            fn serialize<S: $crate::private::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> $crate::private::serde::Deserialize<'de> for $Name {
            fn deserialize<D: $crate::private::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                let word = <::std::string::String as
                    $crate::private::serde::Deserialize>::deserialize(deserializer)?;
                match word.as_str() {
                    $($word $(| $alias)* => ::std::result::Result::Ok(Self::$Variant),)+
                    _ => ::std::result::Result::Err(
                        $crate::private::serde::de::Error::unknown_variant(&word, &[$($word),+])
                    ),
                }
            }
        }

        $crate::params! { $($rest)* }
    };
    (@absent $A:ident, $field:ident, $ty:ty, $default:expr) => { $default };
    (@absent $A:ident, $field:ident, $ty:ty) => {
        match <$ty as $crate::ParamType>::absent() {
            ::std::option::Option::Some(absent) => absent,
            ::std::option::Option::None => {
                return ::std::result::Result::Err($A::Error::missing_field(
                    $crate::private::plain_name(::std::stringify!($field)),
                ));
            }
        }
    };
}

params! {
    /// The parameters of a method that takes none.
    pub struct NoParams {}
}

macro_rules! integer_params {
    ($($ty:ty),*) => {
        $(impl ParamType for $ty {
            fn kind() -> Kind {
                Kind::Integer { minimum: i64::MIN, maximum: u64::MAX }
                    .within(i128::from(<$ty>::MIN)..=i128::from(<$ty>::MAX))
            }
        })*
    };
}

integer_params!(u8, u16, u32, u64, i8, i16, i32, i64);

impl ParamType for bool {
    fn kind() -> Kind {
        Kind::Boolean
    }
}

impl ParamType for String {
    fn kind() -> Kind {
        Kind::TEXT
    }
}

impl ParamType for f64 {
    fn kind() -> Kind {
        Kind::Number
    }
}

impl<T: ParamType> ParamType for BTreeMap<String, T> {
    fn kind() -> Kind {
        Kind::Map { values: Box::new(T::kind()) }
    }
}

impl ParamType for Map<String, Value> {
    fn kind() -> Kind {
        Kind::Map { values: Box::new(Kind::Any) }
    }
}

impl ParamType for Value {
    fn kind() -> Kind {
        Kind::Any
    }
}

impl<T: ParamType> ParamType for Option<T> {
    fn kind() -> Kind {
        T::kind()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: ParamType> ParamType for Vec<T> {
    fn kind() -> Kind {
        Kind::Array { items: Box::new(T::kind()), min_len: 0, max_len: u64::MAX }
    }
}

/// The name of a field without the prefix of a raw identifier: `r#type` becomes `type`.
#[doc(hidden)]
pub const fn plain_name(identifier: &'static str) -> &'static str {
    match identifier.as_bytes() {
        [b'r', b'#', name @ ..] => match std::str::from_utf8(name) {
            Ok(name) => name,
            Err(_) => identifier,
        },
        _ => identifier,
    }
}

/// Joins the lines of a doc comment into one text.
#[doc(hidden)]
pub fn join_doc(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorData, code};

    params! {
        /// Parameters of `nvmf_subsystem_add_listener`, shortened.
        struct AddListener {
            /// Subsystem.
            #[range(11..=223)]
            nqn: String,
            /// Where to listen.
            listen_address: Address,
            /// A word that is a keyword here.
            r#type: Option<Policy>,
            /// Queue depth.
            #[range(1..=1024)]
            depth: u16 = 128,
            /// Identifiers
            /// of any sign.
            ids: Vec<i32> = vec![-1],
            /// Anything.
            opts: Option<Value>,
        }
        /// An address.
        struct Address {
            /// Fabric.
            trtype: String,
            /// Port.
            port: Option<u16>,
        }
        /// A policy.
        enum Policy {
            /// One path at a time.
            ActivePassive = "active_passive",
            /// All paths.
            ActiveActive = "active_active" | "all",
        }
    }

    const NQN: &str = "nqn.2014-08.org:x";

    fn call(members: &str) -> Result<AddListener, RpcError> {
        let separator = if members.is_empty() { "" } else { "," };
        decode(&format!(
            r#"{{"nqn":"{NQN}","listen_address":{{"trtype":"TCP"}}{separator}{members}}}"#
        ))
    }

    fn refused(json: &str) -> (String, ErrorData) {
        let error = decode::<AddListener>(json).unwrap_err();
        assert_eq!(error.code, code::INVALID_PARAMS, "{error}");
        (error.message, serde_json::from_value(error.data.unwrap()).unwrap())
    }

    #[test]
    fn absent_and_null_parameters_take_their_defaults() {
        for given in ["", r#""depth":null,"ids":null,"type":null,"opts":null"#] {
            let got = call(given).unwrap();
            assert_eq!((got.depth, got.ids, got.r#type, got.opts), (128, vec![-1], None, None));
        }
        assert!(decode::<NoParams>("").is_ok() && decode::<NoParams>("null").is_ok());
    }

    #[test]
    fn given_parameters_are_taken() {
        let got = call(r#""type":"all","depth":1,"ids":[],"opts":{"a":[null]}"#).unwrap();
        assert_eq!(got.r#type, Some(Policy::ActiveActive));
        assert_eq!((got.depth, got.ids.len(), got.opts.is_some()), (1, 0, true));
    }

    #[test]
    fn a_number_given_as_a_string_is_refused_with_field_and_range() {
        let (message, data) = refused(&format!(
            r#"{{"nqn":"{NQN}","listen_address":{{"trtype":"TCP","port":"4420"}}}}"#
        ));
        assert_eq!(
            message,
            r#"parameter listen_address.port: "4420" is not allowed; allowed: integer, 0 to 65535"#
        );
        assert_eq!(data.name, "invalid_params");
        assert_eq!(data.field.as_deref(), Some("listen_address.port"));
        assert_eq!(data.allowed.as_deref(), Some("integer, 0 to 65535"));
    }

    #[test]
    fn out_of_range_unknown_missing_and_mistyped_are_refused_by_name() {
        let with = |members: &str| call(members).unwrap_err().message;
        assert!(
            with(r#""depth":0"#).contains("depth: 0 is not allowed; allowed: integer, 1 to 1024")
        );
        assert!(with(r#""depth":1025"#).contains("depth"));
        assert!(with(r#""depth":1.5"#).contains("depth"));
        assert!(with(r#""depth":-1"#).contains("depth"));
        assert!(with(r#""dept":1"#).contains("unknown parameter dept; allowed: nqn, "));
        assert!(with(r#""ids":[1,"2"]"#).contains("ids[1]: \"2\""));
        assert!(with(r#""ids":[2147483648]"#).contains("ids[0]"));
        assert!(with(r#""type":"none""#).contains(r#"one of "active_passive", "active_active""#));
        let (message, data) = refused(&format!(r#"{{"nqn":"{NQN}","listen_address":{{}}}}"#));
        assert!(message.contains("listen_address.trtype is required"), "{message}");
        assert_eq!(data.field.as_deref(), Some("listen_address.trtype"));
        assert!(refused("[1]").0.contains("must be an object"));
        assert!(decode::<NoParams>(r#"{"a":1}"#).unwrap_err().message.contains("no parameters"));
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_fraction_or_an_exponent() {
        for given in ["1.0", "100e-2", "0.1E1"] {
            assert_eq!(call(&format!(r#""depth":{given}"#)).unwrap().depth, 1, "{given}");
        }
        assert_eq!(call(r#""depth":1.024e3"#).unwrap().depth, 1024);
    }

    #[test]
    fn a_parameter_given_twice_is_refused() {
        assert!(call(r#""depth":1,"depth":2"#).unwrap_err().message.contains("duplicate"));
    }

    #[test]
    fn the_edges_of_64_bits_are_exact() {
        params! {
            /// Edges.
            struct Edges {
                /// Unsigned.
                u: u64,
                /// Signed.
                i: i64,
            }
        }
        let text = format!(r#"{{"u":{},"i":{}}}"#, u64::MAX, i64::MIN);
        let edges: Edges = decode(&text).unwrap();
        assert_eq!((edges.u, edges.i), (u64::MAX, i64::MIN));
        assert!(decode::<Edges>(r#"{"u":-1,"i":0}"#).is_err());
        assert!(decode::<Edges>(&format!(r#"{{"u":0,"i":{}}}"#, u64::MAX)).is_err());
        assert!(decode::<Edges>(r#"{"u":18446744073709551616,"i":0}"#).is_err());
    }

    #[test]
    fn the_description_says_what_the_declaration_says() {
        let params = AddListener::params();
        let depth = params.iter().find(|param| param.name == "depth").unwrap();
        assert_eq!(depth.kind, Kind::Integer { minimum: 1, maximum: 1024 });
        assert_eq!(depth.default, Some(Value::from(128)));
        assert_eq!(params[4].doc, "Identifiers\nof any sign.");
        let required: Vec<bool> = params.iter().map(|param| param.required).collect();
        assert_eq!(required, [true, true, false, false, false, false]);
        assert_eq!(params[2].name, "type");
    }

    #[test]
    fn serialising_leaves_absent_parameters_out() {
        let text = serde_json::to_string(&call(r#""type":"all""#).unwrap()).unwrap();
        assert_eq!(
            text,
            format!(
                r#"{{"nqn":"{NQN}","listen_address":{{"trtype":"TCP"}},"type":"active_active","depth":128,"ids":[-1]}}"#
            )
        );
        assert!(decode::<AddListener>(&text).is_ok());
    }
}
