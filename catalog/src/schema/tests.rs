//! The registry as a tenant's people use it, and what a schema may not be.

use serde_json::{Value, json};

use super::*;
use crate::guard::{Request, SchemaRead, SchemaWrite};
use crate::ids::StreamName;
use crate::world::{World, id, silo};

fn version(text: &str) -> SchemaVersion {
    SchemaVersion::parse(text).unwrap()
}

fn upcaster(from: &str, to: &str, steps: Value) -> Option<Upcaster> {
    let upcaster = json!({ "from": from, "to": to, "steps": steps });
    Some(serde_json::from_value(upcaster).unwrap())
}

/// A schema whose context has these properties, some of them required.
fn context(properties: Value, required: &[&str]) -> Value {
    json!({ "properties": { "context": { "type": "object", "properties": properties, "required": required } } })
}

fn registration(number: &str, schema: &Value) -> Registration {
    Registration {
        stream: StreamName::audit_default(),
        version: version(number),
        schema: schema.to_string().into_bytes(),
        upcaster: None,
        required: None,
    }
}

impl World {
    async fn schema_writer(&self) -> crate::guard::Permit<SchemaWrite> {
        let claims = json!({ "sub": "o", "tenant": "acme", "roles": ["Security.Admin"] });
        self.permit(claims, Request::at(silo())).await.unwrap()
    }

    async fn schema_reader(&self) -> crate::guard::Permit<SchemaRead> {
        let claims = json!({ "sub": "w", "tenant": "acme", "scp": "audit.write" });
        self.permit(claims, Request::at(silo())).await.unwrap()
    }

    async fn register(&self, registration: &Registration) -> Result<Comparison, Error> {
        let permit = self.schema_writer().await;
        self.schemas.register(&permit, registration).await
    }

    async fn checker(&self) -> std::sync::Arc<Checker> {
        let permit = self.schema_reader().await;
        let stream = StreamName::audit_default();
        let checker = self.schemas.checker(permit.decision(), &stream).await;
        checker.unwrap().expect("there are schemas")
    }
}

#[track_caller]
fn incompatible<T: std::fmt::Debug>(outcome: Result<T, Error>, reason: &str) {
    match outcome {
        Err(Error::Incompatible(reasons)) => assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{reason:?} not in {reasons:#?}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_version_is_registered_once_checked_and_kept() {
    let world = World::new().await;
    world.onboard("acme").await;
    let first = context(json!({ "amount": { "type": "number" } }), &["amount"]);
    world.register(&registration("1.0", &first)).await.unwrap();
    // The same again is fine; the same version with another text is not.
    world.register(&registration("1.0", &first)).await.unwrap();
    incompatible(
        world.register(&registration("1.0", &json!({}))).await,
        "newer",
    );
    let second = context(
        json!({ "amount": { "type": "number" }, "note": { "type": "string" } }),
        &["amount"],
    );
    let comparison = world.register(&registration("1.1", &second)).await.unwrap();
    assert_eq!(comparison.compatibility, Compatibility::Full);
    let fresh = world.restarted().await;
    let permit = fresh.schema_reader().await;
    let stream = StreamName::audit_default();
    let (known, text) = fresh.schemas.get(&permit, &stream, None).await.unwrap();
    assert_eq!(known.version, version("1.1"));
    assert_eq!(text, second.to_string());
    let all = fresh.schemas.list(&permit).await.unwrap();
    assert_eq!(all.streams[&stream].versions.len(), 2);
    assert!(!all.evolves());
    let missing = fresh.schemas.get(&permit, &stream, Some(version("1.2")));
    assert!(matches!(missing.await, Err(Error::NotFound)));
}

#[tokio::test]
async fn what_breaks_old_readers_needs_a_major_version_and_an_upcaster() {
    let world = World::new().await;
    world.onboard("acme").await;
    let first = context(json!({ "amount": { "type": "number" } }), &[]);
    let second = context(json!({ "amount": { "type": "string" } }), &[]);
    world.register(&registration("1.0", &first)).await.unwrap();
    incompatible(
        world.register(&registration("1.1", &second)).await,
        "/properties/context/properties/amount/type",
    );
    incompatible(
        world.register(&registration("2.0", &second)).await,
        "needs an upcaster from 1.0",
    );
    let cast = json!([{ "op": "cast", "path": "/context/amount", "to": "text" }]);
    for (from, to) in [("1.1", "2.0"), ("1.0", "3.0")] {
        let wrong = Registration {
            upcaster: upcaster(from, to, cast.clone()),
            ..registration("2.0", &second)
        };
        incompatible(world.register(&wrong).await, "the upcaster must lead");
    }
    let right = Registration {
        upcaster: upcaster("1.0", "2.0", cast),
        ..registration("2.0", &second)
    };
    let permit = world.schema_reader().await;
    let checked = world.schemas.check(&permit, &right).await.unwrap();
    assert_eq!(checked.compatibility, Compatibility::Breaking);
    world.register(&right).await.unwrap();
    let all = world.schemas.list(&permit).await.unwrap();
    assert!(all.evolves());
    assert_eq!(all.majors(&StreamName::audit_default()), [1, 2].into());
    assert_eq!(all.majors(&StreamName::audit_security()), [1].into());
    // Records of 1.0 are everywhere: a stream cannot begin with 2.0 and leave them behind.
    let begins = Registration {
        stream: StreamName::audit_security(),
        ..registration("2.0", &json!({}))
    };
    incompatible(world.register(&begins).await, "needs an upcaster from 1.0");
}

#[tokio::test]
async fn a_stream_can_ask_for_more_than_backward() {
    let world = World::new().await;
    world.onboard("acme").await;
    let closed =
        |properties: Value| json!({ "properties": properties, "additionalProperties": false });
    let first = Registration {
        required: Some(Required::Full),
        ..registration("1.0", &closed(json!({ "a": {} })))
    };
    world.register(&first).await.unwrap();
    let wider = registration("1.1", &closed(json!({ "a": {}, "b": {} })));
    incompatible(world.register(&wider).await, "must be full compatible");
    let backward = Registration {
        required: Some(Required::Backward),
        ..wider
    };
    world.register(&backward).await.unwrap();
}

#[tokio::test]
async fn records_are_checked_by_the_version_they_say() {
    let world = World::new().await;
    world.onboard("acme").await;
    let schema = context(
        json!({ "amount": { "type": "number", "maximum": 9 } }),
        &["amount"],
    );
    world.register(&registration("1.0", &schema)).await.unwrap();
    let checker = world.checker().await;
    let found = |number: &str, record: Value| checker.mismatches(version(number), &record);
    assert_eq!(found("1.0", json!({ "context": { "amount": 3 } })), []);
    let wrong = found("1.0", json!({ "context": { "amount": "canary-4711" } }));
    assert_eq!(wrong[0].pointer, "/context/amount");
    assert!(wrong[0].message.contains("number"), "{wrong:?}");
    for record in [
        json!({ "context": { "amount": "canary-4711" } }),
        json!({ "context": { "amount": 4711 } }),
        json!({ "context": "canary-4711" }),
        json!({ "context": {} }),
    ] {
        let wrong = found("1.0", record);
        assert_eq!(wrong.len(), 1);
        assert!(!wrong[0].message.contains("4711"), "{wrong:?}");
    }
    // A newer minor version is taken as it is, an unknown major version is not.
    assert_eq!(found("1.7", json!({ "context": { "amount": "x" } })), []);
    let unknown = found("2.0", json!({}));
    assert_eq!(unknown[0].pointer, "/schemaVersion");
    assert!(unknown[0].message.contains("1.0"), "{unknown:?}");
    // What is registered later is seen, within the time that a confirmation lasts.
    world.register(&registration("1.1", &schema)).await.unwrap();
    let checker = world.checker().await;
    assert_eq!(
        checker
            .mismatches(version("1.1"), &json!({ "context": {} }))
            .len(),
        1
    );
}

#[tokio::test]
async fn the_end_of_a_version_is_announced_in_time() {
    let world = World::new().await;
    world.onboard("acme").await;
    world
        .register(&registration("1.0", &json!({})))
        .await
        .unwrap();
    let stream = StreamName::audit_default();
    let permit = world.schema_writer().await;
    let deprecate = |days| {
        world
            .schemas
            .deprecate(&permit, &stream, version("1.0"), days)
    };
    assert!(
        matches!(deprecate(90).await, Err(Error::Invalid(_))),
        "the latest"
    );
    world
        .register(&registration("1.1", &json!({ "title": "t" })))
        .await
        .unwrap();
    assert!(
        matches!(deprecate(89).await, Err(Error::Invalid(_))),
        "too short"
    );
    let announced = deprecate(90).await.unwrap();
    assert_eq!(announced.since.to_string(), "2026-03-01T10:00:00.000000Z");
    assert_eq!(announced.sunset.to_string(), "2026-05-30T10:00:00.000000Z");
    assert_eq!(deprecate(120).await.unwrap(), announced, "announced once");
    let all = world
        .schemas
        .list(&world.schema_reader().await)
        .await
        .unwrap();
    assert_eq!(all.deprecation(&stream, version("1.0")), Some(announced));
    assert_eq!(all.deprecation(&stream, version("1.1")), None);
}

#[tokio::test]
async fn a_race_has_one_winner_and_an_outage_a_limit() {
    let world = World::new().await;
    world.onboard("acme").await;
    let other = world.restarted().await;
    let (one, two) = (
        registration("1.0", &json!({})),
        registration("1.0", &json!({ "title": "t" })),
    );
    let (one, two) = tokio::join!(world.register(&one), other.register(&two));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let permit = world.schema_reader().await;
    let off = |off| {
        world
            .store
            .off
            .store(off, std::sync::atomic::Ordering::SeqCst)
    };
    world.schemas.of(permit.decision()).await.unwrap();
    off(true);
    world.clock.advance(std::time::Duration::from_secs(60));
    world.schemas.of(permit.decision()).await.unwrap();
    world.clock.advance(std::time::Duration::from_secs(300));
    let stale = world.schemas.of(permit.decision()).await;
    assert!(matches!(stale, Err(Error::Stale)), "{stale:?}");
    off(false);
    world.schemas.of(permit.decision()).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_is_sealed_and_of_one_tenant() {
    use futures::TryStreamExt;
    use object_store::{ObjectStore, ObjectStoreExt};
    let world = World::new().await;
    world.onboard("acme").await;
    world.onboard("globex").await;
    let schema = json!({ "title": "canary-title" });
    world.register(&registration("1.0", &schema)).await.unwrap();
    let objects: Vec<_> = world.store.list(None).try_collect().await.unwrap();
    let ours = objects.iter().filter(|object| {
        let path = object.location.to_string();
        path.contains("/control/schema/") || path.contains("/control/schemas/")
    });
    let mut seen = 0;
    for object in ours {
        seen += 1;
        assert!(object.location.to_string().starts_with("tenants/acme/"));
        let bytes = world
            .store
            .get(&object.location)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        let holds = bytes.windows(6).any(|window| window == b"canary");
        assert!(!holds && bytes.starts_with(b"thd1"), "{}", object.location);
    }
    assert_eq!(seen, 2);
    let claims = json!({ "sub": "w", "tenant": "globex", "scp": "audit.write" });
    let permit = world
        .permit::<SchemaRead>(claims, Request::at(silo()))
        .await
        .unwrap();
    assert_eq!(world.schemas.list(&permit).await.unwrap().streams.len(), 0);
    assert_eq!(permit.decision().about(), &id("globex"));
    // Nothing was read of the tenant that has none, and no document made for it.
    let stream = StreamName::audit_default();
    let none = world.schemas.checker(permit.decision(), &stream);
    assert!(none.await.unwrap().is_none());
}

#[tokio::test]
async fn streams_and_steps_that_cannot_be_are_refused() {
    let world = World::new().await;
    world.onboard("acme").await;
    let unknown = Registration {
        stream: StreamName::parse("audit.unheard").unwrap(),
        ..registration("1.0", &json!({}))
    };
    assert!(matches!(
        world.register(&unknown).await,
        Err(Error::NotFound)
    ));
    let at = |path: &str| json!({ "op": "default", "path": path, "value": "x" });
    for steps in [
        json!([{ "op": "rename", "path": "/context/a", "to": "" }]),
        json!([{ "op": "rename", "path": "/context/a", "to": "a" }]),
        json!([{ "op": "move", "from": "/context/a", "to": "/context/a/b" }]),
        json!([{ "op": "move", "from": "/context/a/b", "to": "/context/a" }]),
        json!([{ "op": "split", "path": "/context/a", "separator": "", "to": ["/context/b", "/context/c"] }]),
        json!([{ "op": "split", "path": "/context/a", "separator": " ", "to": ["/context/b"] }]),
        json!([{ "op": "split", "path": "/context/a", "separator": " ", "to": ["/context/b", "/context/b"] }]),
        json!([{ "op": "split", "path": "/context/a", "separator": " ", "to": ["/context/a", "/context/b"] }]),
        json!([{ "op": "cast", "path": "/labels/a", "to": "number" }]),
        json!([{ "op": "default", "path": "/labels/a", "value": 1 }]),
        json!([{ "op": "default", "path": "/context/a", "value": {} }]),
        json!([{ "op": "default", "path": "/context/a", "value": "x".repeat(300) }]),
        json!([
            { "op": "move", "from": "/context/a", "to": "/context/1/2/3/4/5/6/7/8/9/10/11/12" },
            { "op": "move", "from": "/context/b", "to": "/context/2/2/3/4/5/6/7/8/9/10/11/12" },
            { "op": "move", "from": "/context/c", "to": "/context/3/2/3/4/5/6/7/8/9/10/11/12" },
        ]),
        Value::Array(vec![at("/context/a"); upcaster::STEPS_MAX + 1]),
    ] {
        let refused = Registration {
            upcaster: upcaster("1.0", "2.0", steps.clone()),
            ..registration("2.0", &json!({}))
        };
        let outcome = world.register(&refused).await;
        assert!(
            matches!(outcome, Err(Error::Invalid(_))),
            "{steps}: {outcome:?}"
        );
    }
    for step in [
        json!({ "op": "drop", "path": "/context/a" }),
        json!({ "op": "rename", "path": "/actor/id", "to": "x" }),
        json!({ "op": "rename", "path": "/context/a", "to": "b", "more": 1 }),
        json!({ "op": "cast", "path": "/context/a", "to": "blob" }),
    ] {
        assert!(
            serde_json::from_value::<Step>(step.clone()).is_err(),
            "{step}"
        );
    }
}

#[tokio::test]
async fn all_upcasters_of_a_stream_together_are_bounded() {
    let world = World::new().await;
    world.onboard("acme").await;
    world
        .register(&registration("1.0", &json!({})))
        .await
        .unwrap();
    let step = json!({ "op": "default", "path": "/context/a", "value": "x" });
    let steps = Value::Array(vec![step; upcaster::STEPS_MAX]);
    let full = store::CHAIN_STEPS_MAX / upcaster::STEPS_MAX;
    for minor in 0..=full {
        let (from, to) = (format!("1.{minor}"), format!("1.{}", minor + 1));
        let next = Registration {
            upcaster: upcaster(&from, &to, steps.clone()),
            ..registration(&to, &json!({}))
        };
        let outcome = world.register(&next).await;
        if minor < full {
            outcome.unwrap();
        } else {
            assert!(
                matches!(&outcome, Err(Error::Invalid(reasons)) if reasons[0].contains("together")),
                "{outcome:?}"
            );
        }
    }
}

/// Schemas that refer to each other this often, this many levels deep.
fn chain(levels: usize, each: usize) -> String {
    let mut defs = serde_json::Map::new();
    for level in 0..levels {
        let next = json!({ "$ref": format!("#/$defs/d{}", level + 1) });
        defs.insert(format!("d{level}"), json!({ "anyOf": vec![next; each] }));
    }
    defs.insert(format!("d{levels}"), json!({}));
    json!({ "$ref": "#/$defs/d0", "$defs": defs }).to_string()
}

/// What is refused, and what the reason says.
fn refused_schemas() -> Vec<(String, &'static str)> {
    let deep = |levels: usize| format!("{}{{}}{}", "{\"not\":".repeat(levels), "}".repeat(levels));
    vec![
        (String::new(), "not JSON"),
        ("{".to_owned(), "not JSON"),
        ("\u{feff}{}".to_owned(), "not JSON"),
        ("[]".to_owned(), "JSON object"),
        ("true".to_owned(), "JSON object"),
        (json!({ "type": "strnig" }).to_string(), "/type"),
        (json!({ "properties": 7 }).to_string(), "/properties"),
        (json!({ "required": "a" }).to_string(), "/required"),
        (
            json!({ "$schema": "http://json-schema.org/draft-07/schema#" }).to_string(),
            "/$schema",
        ),
        (
            json!({ "$ref": "https://example.com/a.json" }).to_string(),
            "nothing is fetched",
        ),
        (
            json!({ "$ref": "file:///etc/passwd" }).to_string(),
            "nothing is fetched",
        ),
        (
            json!({ "properties": { "a": { "$ref": "other.json#/a" } } }).to_string(),
            "/properties/a/$ref",
        ),
        (
            json!({ "$ref": "#/$defs/none" }).to_string(),
            "leads to nothing",
        ),
        (json!({ "$ref": "#" }).to_string(), "loops"),
        (
            json!({ "properties": { "a": { "$ref": "#" } } }).to_string(),
            "loops",
        ),
        (
            json!({ "$defs": { "a": { "$anchor": "x" } } }).to_string(),
            "$anchor",
        ),
        (json!({ "$dynamicRef": "#x" }).to_string(), "$dynamicRef"),
        (
            json!({ "items": { "$id": "https://example.com/" } }).to_string(),
            "$id",
        ),
        (json!({ "pattern": "(" }).to_string(), ""),
        (json!({ "pattern": "(?=x)y" }).to_string(), ""),
        (json!({ "pattern": "(a)\\1" }).to_string(), ""),
        (json!({ "pattern": "((a{999}){999}){999}" }).to_string(), ""),
        (
            json!({ "allOf": vec![json!({ "pattern": "a" }); 65] }).to_string(),
            "patterns",
        ),
        (deep(70), "nested deeper"),
        (deep(5_000), "nested deeper"),
        (chain(40, 2), "would meet"),
        (
            format!("{{\"title\":\"{}\"}}", "x".repeat(SCHEMA_BYTES_MAX)),
            "bytes",
        ),
    ]
}

#[test]
fn what_is_no_safe_schema_is_refused_with_the_reason() {
    for (text, wanted) in refused_schemas() {
        let shown: String = text.chars().take(80).collect();
        let reasons = Definition::parse(text.as_bytes()).expect_err(&shown);
        assert!(
            reasons.iter().any(|reason| reason.contains(wanted)),
            "{shown}: {reasons:?}"
        );
    }
    assert!(Definition::parse(b"{\"a\":\"\xff\"}").is_err());
    // Bounded, local, linear: fine.
    for good in [
        json!({}),
        json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://acme.example/s" }),
        json!({ "$defs": { "a": { "type": "string" } }, "properties": { "x": { "$ref": "#/$defs/a" }, "y": { "$ref": "#/$defs/a" } } }),
        json!({ "properties": { "$ref": { "type": "string" }, "$anchor": {} } }),
        json!({ "pattern": "^(a+)+$" }),
    ] {
        assert!(
            Definition::parse(good.to_string().as_bytes()).is_ok(),
            "{good}"
        );
    }
    assert!(Definition::parse(chain(5, 2).as_bytes()).is_ok());
}

const CASES: &str = include_str!("cases.txt");

/// `wanted | old | new`, one case a line; `wanted` is the compatibility and, in brackets, a place that is among the reasons.
#[test]
fn changes_are_judged_as_written_down() {
    let mut count = 0;
    for line in CASES
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let [wanted, old, new] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        count += 1;
        let read = |text: &str| serde_json::from_str::<Value>(text.trim()).expect(line);
        let comparison = compare(&read(old), &read(new));
        let mut words = wanted.split_whitespace();
        let word = words.next().expect(line);
        assert_eq!(
            comparison.compatibility.as_str(),
            word,
            "{line}\n{comparison:?}"
        );
        if let Some(place) = words.next() {
            let mut reasons = comparison.backward.iter().chain(&comparison.forward);
            let found = reasons.any(|reason| reason.pointer == place);
            assert!(found, "{line}\n{comparison:?}");
        }
        // The other way round the two directions change places.
        let back = compare(&read(new), &read(old));
        let mirrored = match comparison.compatibility {
            Compatibility::Backward => Compatibility::Forward,
            Compatibility::Forward => Compatibility::Backward,
            same => same,
        };
        assert_eq!(back.compatibility, mirrored, "mirrored: {line}");
    }
    assert!(count >= 40, "{count} cases");
}
