//! Session options: which catalog and schema unqualified names mean.
//!
//! A caller has one catalog, the own tenant, and one schema, so a session holds nothing to remember: options are read
//! from the caller, and set only to what they already are. The messages are those of Flight.proto, written out because
//! arrow-flight does not generate them.

use std::collections::BTreeMap;

use catalog::ids::TenantId;

/// The one schema a tenant's tables are in.
pub(crate) const SCHEMA: &str = "audit";

const CATALOG_OPTION: &str = "catalog";
const SCHEMA_OPTION: &str = "schema";

/// The value of one session option.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SessionOptionValue {
    /// Absent means: forget the option.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub(crate) option_value: Option<OptionValue>,
}

/// What an option may hold.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum OptionValue {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// A truth value.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A number, of fixed width on the wire.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// A floating point number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// Several texts.
    #[prost(message, tag = "5")]
    StringList(StringList),
}

/// Several texts.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StringList {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub(crate) values: Vec<String>,
}

/// The body of the action SetSessionOptions.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsRequest {
    /// What to set.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) session_options: BTreeMap<String, SessionOptionValue>,
}

/// Its answer: the options that were not set.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionsResult {
    /// Why not, by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) errors: BTreeMap<String, SetSessionOptionError>,
}

/// Why an option was not set.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct SetSessionOptionError {
    /// The reason.
    #[prost(enumeration = "ErrorValue", tag = "1")]
    pub(crate) value: i32,
}

/// The reasons there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum ErrorValue {
    /// Not used.
    Unspecified = 0,
    /// There is no option of this name.
    InvalidName = 1,
    /// The option cannot have this value.
    InvalidValue = 2,
    /// Anything else.
    Error = 3,
}

/// The answer of the action GetSessionOptions, whose request is empty.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetSessionOptionsResult {
    /// All options.
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) session_options: BTreeMap<String, SessionOptionValue>,
}

/// The answer of the action CloseSession, whose request is empty.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct CloseSessionResult {
    /// What became of it.
    #[prost(enumeration = "CloseStatus", tag = "1")]
    pub(crate) status: i32,
}

/// What may become of a session that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum CloseStatus {
    /// Not used.
    Unspecified = 0,
    /// It is closed.
    Closed = 1,
    /// It will be.
    Closing = 2,
    /// It cannot be.
    NotCloseable = 3,
}

/// The options of a caller of this tenant.
pub(crate) fn get(tenant: &TenantId) -> GetSessionOptionsResult {
    let text = |value: &str| SessionOptionValue {
        option_value: Some(OptionValue::String(value.to_owned())),
    };
    GetSessionOptionsResult {
        session_options: BTreeMap::from([
            (CATALOG_OPTION.to_owned(), text(tenant.as_str())),
            (SCHEMA_OPTION.to_owned(), text(SCHEMA)),
        ]),
    }
}

/// Answers which of these options a caller of this tenant cannot have. A foreign catalog is refused in the same words
/// whether or not there is one.
pub(crate) fn set(
    tenant: &TenantId,
    request: &SetSessionOptionsRequest,
) -> SetSessionOptionsResult {
    let errors = request.session_options.iter().filter_map(|(name, value)| {
        let only = match name.as_str() {
            CATALOG_OPTION => tenant.as_str(),
            SCHEMA_OPTION => SCHEMA,
            _ => return Some((name.clone(), ErrorValue::InvalidName)),
        };
        let fits = match &value.option_value {
            // Forgetting an option restores its default, which it has.
            None => true,
            Some(OptionValue::String(text)) => text == only,
            Some(_) => false,
        };
        (!fits).then(|| (name.clone(), ErrorValue::InvalidValue))
    });
    SetSessionOptionsResult {
        errors: errors
            .map(|(name, error)| {
                let value = i32::from(error);
                (name, SetSessionOptionError { value })
            })
            .collect(),
    }
}

/// Closes the session, of which there is nothing to keep.
pub(crate) fn close() -> CloseSessionResult {
    CloseSessionResult {
        status: CloseStatus::Closed.into(),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    fn tenant() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn text(value: &str) -> Option<OptionValue> {
        Some(OptionValue::String(value.to_owned()))
    }

    fn errors(name: &str, option_value: Option<OptionValue>) -> Vec<(String, ErrorValue)> {
        let request = SetSessionOptionsRequest {
            session_options: BTreeMap::from([(
                name.to_owned(),
                SessionOptionValue { option_value },
            )]),
        };
        let decoded = SetSessionOptionsRequest::decode(&*request.encode_to_vec()).unwrap();
        assert_eq!(decoded, request, "what is encoded is decoded");
        let result = set(&tenant(), &decoded);
        let decoded = SetSessionOptionsResult::decode(&*result.encode_to_vec()).unwrap();
        decoded
            .errors
            .into_iter()
            .map(|(name, error)| (name, error.value()))
            .collect()
    }

    #[test]
    fn options_are_those_of_the_caller() {
        let result = get(&tenant());
        let decoded = GetSessionOptionsResult::decode(&*result.encode_to_vec()).unwrap();
        assert_eq!(
            decoded.session_options["catalog"].option_value,
            text("acme")
        );
        assert_eq!(
            decoded.session_options["schema"].option_value,
            text("audit")
        );
        assert_eq!(decoded.session_options.len(), 2);
    }

    #[test]
    fn options_can_be_set_to_what_they_are_and_to_nothing_else() {
        let invalid = |name: &str, error| vec![(name.to_owned(), error)];
        assert_eq!(errors("catalog", text("acme")), []);
        assert_eq!(errors("catalog", None), []);
        assert_eq!(errors("schema", text("audit")), []);
        let other = errors("catalog", text("globex"));
        assert_eq!(other, invalid("catalog", ErrorValue::InvalidValue));
        let other = errors("schema", Some(OptionValue::Int64(1)));
        assert_eq!(other, invalid("schema", ErrorValue::InvalidValue));
        let other = errors("timezone", text("UTC"));
        assert_eq!(other, invalid("timezone", ErrorValue::InvalidName));
    }

    #[test]
    fn the_wire_form_is_that_of_flight_proto() {
        // map entry 1 { key 1: "n", value 2 { sfixed64 3: 7 } }, as protoc writes it.
        let bytes = [
            0x0a, 0x0e, 0x0a, 0x01, b'n', 0x12, 0x09, 0x19, 7, 0, 0, 0, 0, 0, 0, 0,
        ];
        let request = SetSessionOptionsRequest::decode(&bytes[..]).unwrap();
        let value = &request.session_options["n"].option_value;
        assert_eq!(value, &Some(OptionValue::Int64(7)));
        assert_eq!(request.encode_to_vec(), bytes);
        assert_eq!(close().encode_to_vec(), [0x08, 0x01]);
    }
}
