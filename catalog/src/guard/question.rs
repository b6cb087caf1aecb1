//! What the Rego module of a policy is asked, and what its refusals are.

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::context::TenantContext;
use crate::policy::PinnedPolicy;
use crate::policy::rego::Refusal;

use super::denial::Denial;
use super::permit::OperationKind;
use super::request::Request;

/// Whether a module is asked. It is not where a policy is looked at or replaced: it could keep everybody away for good.
pub(super) const fn asks_rego(operation: OperationKind) -> bool {
    match operation {
        OperationKind::Write
        | OperationKind::Read
        | OperationKind::QuarantineRead
        | OperationKind::QuarantineDecide
        | OperationKind::JobToken
        | OperationKind::Export => true,
        OperationKind::TenantAdmin
        | OperationKind::PolicyRead
        | OperationKind::PolicyWrite
        | OperationKind::SchemaRead
        | OperationKind::SchemaWrite => false,
    }
}

/// `input` of the module: who asks for what, under which policy, when. What is not known is not there.
pub(super) fn input(
    context: &TenantContext,
    operation: OperationKind,
    request: &Request,
    policy: &PinnedPolicy,
    now: Timestamp,
) -> Value {
    let roles = context.effective_roles();
    let roles: Vec<&str> = roles.iter().map(|role| role.profile_name()).collect();
    let scopes: Vec<&str> = context
        .scopes()
        .iter()
        .map(|scope| scope.as_str())
        .collect();
    let mut input = Map::new();
    input.insert("operation".to_owned(), json!(operation.as_str()));
    input.insert("tenant".to_owned(), json!(context.tenant().as_str()));
    input.insert("subject".to_owned(), json!(context.subject()));
    input.insert("roles".to_owned(), json!(roles));
    input.insert("scopes".to_owned(), json!(scopes));
    input.insert("policyVersion".to_owned(), json!(policy.version.number));
    input.insert("time".to_owned(), json!(now.to_string()));
    if let Some(client) = context.client() {
        input.insert("client".to_owned(), json!(client));
    }
    if let Some(stream) = &request.stream {
        input.insert("stream".to_owned(), json!(stream.as_str()));
    }
    for (attribute, value) in context.attributes().iter() {
        input.insert(attribute.to_string(), json!(value));
    }
    Value::Object(input)
}

/// What the evidence of a denial says of the module.
pub(super) const fn basis_of(denial: &Denial) -> Option<&'static str> {
    match denial {
        Denial::PolicyDenies => Some("Rego.Denies"),
        Denial::PolicyFails => Some("Rego.Fails"),
        _ => None,
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denies => Self::PolicyDenies,
            Refusal::Fails => Self::PolicyFails,
            Refusal::Busy => Self::Unavailable,
        }
    }
}
