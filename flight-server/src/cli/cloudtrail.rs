//! AWS CloudTrail events as audit records: the default mapping of the `cloudtrail` input format.
//!
//! | audit record | CloudTrail |
//! |---|---|
//! | `idempotencyKey` | `eventID` |
//! | `createdAt` | `eventTime` |
//! | `action` | first label of `eventSource` `.` `eventName`, e.g. `ec2.DescribeInstances` |
//! | `resource` | first of `resources[]` (type, ARN); else the service and the best id in `requestParameters`; else `Account` and `recipientAccountId` |
//! | `actor` | `userIdentity`: IAMUser, AssumedRole, Root, FederatedUser are a `User`, AWSService a `Service`, AWSAccount `External`; the id is the ARN, else `principalId`, else `invokedBy` |
//! | `correlation.traceId` | `requestID` without dashes, else `eventID` without dashes |
//! | `labels` | `region`, `readOnly`, `eventCategory` |
//! | `context` | every other field, unchanged |

use serde_json::{Map, Value, json};

/// Fields that are carried whole by another place of the record.
const CARRIED: [&str; 7] = [
    "awsRegion",
    "eventCategory",
    "eventID",
    "eventName",
    "eventTime",
    "readOnly",
    "requestID",
];

/// Why an event has no audit record; names the field, never its value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Error {
    /// The element is no JSON object.
    #[error("an event must be a JSON object")]
    NotAnObject,
    /// A field without which there is no record.
    #[error("the event has no text field `{0}`")]
    Missing(&'static str),
}

/// Turns one CloudTrail event into the JSON of an audit record of `tenant`.
pub(super) fn record(event: Value, tenant: &str) -> Result<Value, Error> {
    let Value::Object(mut event) = event else {
        return Err(Error::NotAnObject);
    };
    let id = required(&event, "eventID")?;
    let created_at = required(&event, "eventTime")?;
    let source = required(&event, "eventSource")?;
    let service = source.split('.').next().unwrap_or_default().to_owned();
    let action = format!("{service}.{}", required(&event, "eventName")?);
    let trace = text(&event, "requestID").unwrap_or(&id).replace('-', "");
    let (resource_type, resource_id) = resource(&event, &service);
    let (actor_type, actor_id) = actor(&event);
    let labels = labels(&event);
    event.retain(|name, _| !CARRIED.contains(&name.as_str()));
    Ok(json!({
        "tenantId": tenant,
        "idempotencyKey": id,
        "createdAt": created_at,
        "action": action,
        "resource": { "type": resource_type, "id": resource_id },
        "actor": { "type": actor_type, "id": actor_id },
        "correlation": { "traceId": trace },
        "labels": labels,
        "context": event,
    }))
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

fn required(event: &Map<String, Value>, name: &'static str) -> Result<String, Error> {
    text(event, name)
        .map(str::to_owned)
        .ok_or(Error::Missing(name))
}

fn resource(event: &Map<String, Value>, service: &str) -> (String, String) {
    let first = event
        .get("resources")
        .and_then(|resources| resources.get(0))
        .and_then(Value::as_object);
    if let Some(first) = first {
        let arn = text(first, "ARN").or_else(|| text(first, "arn"));
        if let (Some(kind), Some(arn)) = (text(first, "type"), arn) {
            return (kind.to_owned(), arn.to_owned());
        }
    }
    let parameters = event.get("requestParameters").and_then(Value::as_object);
    if let Some(id) = parameters.and_then(best_id) {
        return (service.to_owned(), id);
    }
    let account = text(event, "recipientAccountId").unwrap_or("unknown");
    ("Account".to_owned(), account.to_owned())
}

/// The most telling identifier among the request parameters: an ARN, else an id, else a name.
fn best_id(parameters: &Map<String, Value>) -> Option<String> {
    ["arn", "id", "name"].iter().find_map(|suffix| {
        parameters.iter().find_map(|(name, value)| {
            let named = name.to_ascii_lowercase().ends_with(suffix);
            let value = value.as_str().filter(|text| named && !text.is_empty());
            value.map(str::to_owned)
        })
    })
}

fn actor(event: &Map<String, Value>) -> (&'static str, String) {
    let Some(identity) = event.get("userIdentity").and_then(Value::as_object) else {
        return ("Unknown", "unknown".to_owned());
    };
    let kind = match text(identity, "type") {
        Some("IAMUser" | "AssumedRole" | "Root" | "FederatedUser") => "User",
        Some("AWSService") => "Service",
        Some("AWSAccount") => "External",
        Some(_) | None => "Unknown",
    };
    let id = ["arn", "principalId", "invokedBy"]
        .iter()
        .find_map(|name| text(identity, name));
    (kind, id.unwrap_or("unknown").to_owned())
}

fn labels(event: &Map<String, Value>) -> Map<String, Value> {
    let mut labels = Map::new();
    for (label, field) in [
        ("region", "awsRegion"),
        ("readOnly", "readOnly"),
        ("eventCategory", "eventCategory"),
    ] {
        match event.get(field) {
            Some(Value::String(text)) => {
                labels.insert(label.to_owned(), Value::String(text.clone()))
            }
            Some(Value::Bool(flag)) => {
                labels.insert(label.to_owned(), Value::String(flag.to_string()))
            }
            _ => None,
        };
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Value {
        json!({
            "eventID": "0f1e-2d", "eventTime": "2024-05-06T07:08:09Z", "eventSource": "ec2.amazonaws.com",
            "eventName": "StopInstances", "awsRegion": "eu-west-1", "readOnly": false,
            "eventCategory": "Management", "requestID": "ab-cd", "recipientAccountId": "123",
            "userIdentity": { "type": "IAMUser", "arn": "arn:aws:iam::123:user/ann" },
            "requestParameters": { "instanceId": "i-1", "roleArn": "arn:r" }, "errorCode": "Denied",
        })
    }

    #[test]
    fn an_event_maps_field_by_field() {
        let record = record(event(), "acme").expect("a record");
        assert_eq!(record["idempotencyKey"], "0f1e-2d");
        assert_eq!(record["action"], "ec2.StopInstances");
        assert_eq!(record["resource"], json!({ "type": "ec2", "id": "arn:r" }));
        assert_eq!(
            record["actor"],
            json!({ "type": "User", "id": "arn:aws:iam::123:user/ann" })
        );
        assert_eq!(record["correlation"]["traceId"], "abcd");
        assert_eq!(record["labels"]["readOnly"], "false");
        assert_eq!(record["context"]["errorCode"], "Denied");
        assert_eq!(record["context"].get("eventID"), None);
    }

    #[test]
    fn named_resources_win_over_parameters_and_the_account_is_last() {
        let mut with_resource = event();
        with_resource["resources"] = json!([{ "type": "AWS::IAM::Role", "ARN": "arn:role" }]);
        assert_eq!(
            record(with_resource, "t").expect("a record")["resource"]["id"],
            "arn:role"
        );
        let mut bare = event();
        bare["requestParameters"] = Value::Null;
        assert_eq!(
            record(bare, "t").expect("a record")["resource"],
            json!({ "type": "Account", "id": "123" })
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        let mut nameless = event();
        nameless
            .as_object_mut()
            .expect("an object")
            .remove("eventName");
        assert_eq!(record(nameless, "t"), Err(Error::Missing("eventName")));
        assert_eq!(record(json!([1]), "t"), Err(Error::NotAnObject));
    }
}
