//! Tests: old rows and new ones read as one, and no mask comes off on the way.

use arrow::array::RecordBatch;
use catalog::context::Role;
use serde_json::{Value, json};

use super::testing::{CANARY, Caller, OWN, evolution, promoted, row};
use crate::record::batch;
use crate::record::stored::StoredRecord;

/// Masks on old places, on new ones, on an object around them, and on a key wherever it stands.
const POLICY: &str = r#"
tenant: "acme"
version: 1
residency: { allowedSilos: ["local"] }
retention: { streams: { audit.default: { ttlDays: 30, graceDays: 1, class: standard } } }
fields:
  - { path: context.ticket, write: KEEP, promote: ticket }
  - { path: context.order.ticket, write: KEEP, promote: order_ticket }
  - { path: context.handle, write: KEEP, promote: handle }
maskingProfiles:
  Reader:
    context.mail: REDACT
    context.person.nick: HASH
    context.old_hash: HASH
    context.box: REDACT
    context.name: { kind: MASK, params: { showFirst: 0, showLast: 4 } }
    context.amount: { kind: MASK, params: { showFirst: 0, showLast: 2 } }
    context.both: HASH
    context.twice: NULLIFY
    context.last: REDACT
    labels.crew: REDACT
    labels.clan: NULLIFY
    email: NULLIFY
    order_ticket: REDACT
    handle: HASH
  Investigator: { actor_id: CLEAR }
  Admin: { actor_id: CLEAR }
"#;

fn steps() -> Value {
    json!([
        { "op": "rename", "path": "/context/mail", "to": "letter" },
        { "op": "move", "from": "/context/nick", "to": "/context/person/nick" },
        { "op": "rename", "path": "/context/old_hash", "to": "new_hash" },
        { "op": "rename", "path": "/context/both", "to": "twice" },
        { "op": "move", "from": "/context/box/inner", "to": "/context/inner" },
        { "op": "move", "from": "/context/into", "to": "/context/box/into" },
        { "op": "split", "path": "/context/name", "separator": " ", "to": ["/context/first", "/context/rest"] },
        { "op": "split", "path": "/context/words", "separator": " ", "to": ["/context/head", "/context/last"] },
        { "op": "cast", "path": "/context/amount", "to": "text" },
        { "op": "move", "from": "/labels/crew", "to": "/context/crew" },
        { "op": "move", "from": "/context/clan", "to": "/labels/clan" },
        { "op": "rename", "path": "/context/post", "to": "email" },
        { "op": "move", "from": "/context/wrap", "to": "/context/parcel" },
        { "op": "rename", "path": "/context/plain", "to": "simple" },
        { "op": "default", "path": "/context/currency", "value": "USD" },
        { "op": "move", "from": "/context/ticket", "to": "/context/order/ticket" },
        { "op": "rename", "path": "/context/handle", "to": "alias" },
    ])
}

/// A row of this version; what its documents hold.
fn record(number: i64, version: &str, context: Value, labels: Value) -> StoredRecord {
    let mut row = row(OWN, number);
    row.schema_version = Some(version.to_owned());
    row.action = Some("Login".to_owned());
    row.context = Some(context.to_string());
    let labels = labels.as_object().unwrap().iter();
    let labels = labels.map(|(key, value)| (key.clone(), value.as_str().map(str::to_owned)));
    row.labels = Some(labels.collect());
    row
}

fn table(rows: Vec<StoredRecord>) -> RecordBatch {
    batch::records(&rows, &["ticket", "order_ticket", "handle"]).unwrap()
}

/// One old row with a value for every step, hidden ones made of `secret`; one new row beside it.
fn world(hidden: &dyn Fn(&str) -> Value, extra: Value) -> RecordBatch {
    let mut context = json!({
        "mail": hidden("mail"), "nick": hidden("nick"), "old_hash": format!("{CANARY}-same"),
        "both": hidden("both"), "into": hidden("into"), "name": hidden("name"),
        "words": hidden("words"), "amount": hidden("amount"), "clan": hidden("clan"),
        "post": hidden("post"), "wrap": { "email": hidden("wrapped"), "open": 1 }, "plain": "seen",
    });
    context
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let mut old = record(
        1,
        "1.0",
        context,
        json!({ "crew": hidden("crew").to_string(), "env": "prod" }),
    );
    old.promoted = vec![
        promoted("ticket", "/context/ticket", format!("{CANARY}-ticket")),
        promoted("handle", "/context/handle", format!("{CANARY}-handle")),
    ];
    let new = json!({
        "letter": "l", "person": { "nick": "n" }, "new_hash": format!("{CANARY}-same"), "simple": "seen", "currency": "EUR",
    });
    let mut new = record(2, "2.0", new, json!({ "env": "prod" }));
    new.promoted = vec![promoted(
        "order_ticket",
        "/context/order/ticket",
        format!("{CANARY}-T2"),
    )];
    table(vec![old, new])
}

fn caller(role: Role, batch: RecordBatch) -> Caller {
    Caller::upcasting(role, POLICY, &evolution(steps()), batch)
}

async fn document(caller: &Caller, column: &str, number: i64) -> Value {
    let sql = format!("SELECT {column} FROM records WHERE leaf_index = {number}");
    let rows = caller.rows(&sql).await.expect("rows");
    let shown = arrow::util::display::array_value_to_string(rows[0].column(0), 0).unwrap();
    serde_json::from_str(&shown).unwrap_or(Value::String(shown))
}

fn text(what: &str) -> Value {
    format!("{CANARY} {what}").into()
}

#[tokio::test]
async fn who_sees_everything_sees_old_rows_as_new_ones() {
    let caller = caller(
        Role::Investigator,
        world(&text, json!({ "box": { "inner": 1 } })),
    );
    assert_eq!(
        document(&caller, "context", 1).await,
        json!({
            "letter": "canary mail", "person": { "nick": "canary nick" }, "new_hash": "canary-same",
            "twice": "canary both", "inner": 1, "box": { "into": "canary into" }, "first": "canary",
            "rest": "name", "head": "canary", "last": "words", "amount": "canary amount",
            "crew": "\"canary crew\"", "email": "canary post", "parcel": { "email": "canary wrapped", "open": 1 },
            "simple": "seen", "currency": "USD", "order": { "ticket": "canary-ticket" }, "alias": "canary-handle",
        })
    );
    assert_eq!(
        document(&caller, "labels", 1).await,
        "{clan: canary clan, env: prod}"
    );
    // A new row is as it is, with what was cut out of it put back where there is a place for it.
    assert_eq!(
        document(&caller, "context", 2).await,
        json!({
            "letter": "l", "person": { "nick": "n" }, "new_hash": "canary-same", "simple": "seen", "currency": "EUR",
        })
    );
    let sql = "SELECT ticket, order_ticket, handle FROM records ORDER BY leaf_index";
    let shown = caller.shows(sql).await;
    assert!(
        shown.contains("canary-ticket") && shown.contains("canary-T2"),
        "{shown}"
    );
    assert!(
        !shown.contains("canary-handle"),
        "its value has another name now: {shown}"
    );
}

/// What is pushed down or read from statistics would see the old shape: such filters stay above.
#[tokio::test]
async fn a_filter_finds_old_and_new_rows_alike() {
    let mut rows = vec![
        record(1, "1.0", json!({}), json!({})),
        record(2, "2.0", json!({ "order": {} }), json!({})),
    ];
    rows[0].promoted = vec![promoted("ticket", "/context/ticket", "T-7".to_owned())];
    rows[1].promoted = vec![promoted(
        "order_ticket",
        "/context/order/ticket",
        "T-7".to_owned(),
    )];
    let caller = caller(Role::Investigator, table(rows));
    for (sql, wanted) in [
        (
            "SELECT count(*) AS n FROM records WHERE order_ticket = 'T-7'",
            "| 2 |",
        ),
        (
            "SELECT count(*) AS n FROM records WHERE order_ticket IS NULL",
            "| 0 |",
        ),
        (
            "SELECT count(*) AS n FROM records WHERE ticket IS NULL",
            "| 2 |",
        ),
        (
            "SELECT count(*) AS n FROM records WHERE ticket = 'T-7'",
            "| 0 |",
        ),
        (
            "SELECT count(DISTINCT order_ticket) AS n FROM records",
            "| 1 |",
        ),
        ("SELECT count(*) AS n FROM records", "| 2 |"),
    ] {
        let shown = caller.shows(sql).await;
        assert!(shown.contains(wanted), "{sql}\n{shown}");
    }
    assert_eq!(
        document(&caller, "context", 2).await,
        json!({ "order": { "ticket": "T-7" } })
    );
}

#[tokio::test]
async fn a_mask_stays_on_wherever_the_value_goes() {
    let caller = caller(
        Role::Reader,
        world(&text, json!({ "box": { "inner": text("inner") } })),
    );
    let context = document(&caller, "context", 1).await;
    assert!(!context.to_string().contains(CANARY), "{context}");
    // Under its old place and under its new one.
    assert_eq!(context["letter"], "[redacted]");
    assert_eq!(context["box"], "[redacted]");
    assert_eq!(context["crew"], "[redacted]");
    assert_eq!(context["email"], Value::Null);
    assert_eq!(context["parcel"], json!({ "email": null, "open": 1 }));
    assert_eq!(context["simple"], "seen");
    assert_eq!(context["currency"], "USD");
    assert_eq!(context["order"], json!({ "ticket": "[redacted]" }));
    // The strictest of both places, once.
    assert_eq!(context["twice"], Value::Null);
    assert!(
        context["person"]["nick"]
            .as_str()
            .unwrap()
            .starts_with("h1:"),
        "{context}"
    );
    // What would tell of a masked value is not done: it stays where it stood, masked for both places.
    assert_eq!(context["into"], "[redacted]");
    assert_eq!(context["name"], "****name");
    assert_eq!(context["words"], "[redacted]");
    assert_eq!(context["amount"], "****nt");
    assert_eq!(context["clan"], Value::Null);
    for gone in ["first", "rest", "head", "last", "inner"] {
        assert_eq!(context.get(gone), None, "{gone}");
    }
    // A hash is one hash, and old and new values of a field have the same.
    let new = document(&caller, "context", 2).await;
    assert_eq!(context["new_hash"], new["new_hash"]);
    assert!(new["new_hash"].as_str().unwrap().starts_with("h1:"));
    assert_eq!(new["letter"], "[redacted]", "the field keeps its rule");
    let promoted = caller
        .shows("SELECT ticket, order_ticket, handle FROM records")
        .await;
    assert!(!promoted.contains(CANARY), "{promoted}");
}

#[tokio::test]
async fn masked_fields_are_no_filters_under_any_name() {
    let caller = caller(Role::Reader, world(&text, json!({})));
    for sql in [
        "SELECT 1 FROM records WHERE labels['clan'] = 'x'",
        "SELECT 1 FROM records WHERE labels['crew'] = 'x'",
        "SELECT 1 FROM records WHERE order_ticket = 'x'",
        "SELECT 1 FROM records WHERE ticket = 'x'",
        "SELECT 1 FROM records WHERE handle = 'x'",
        "SELECT 1 FROM records WHERE context LIKE '%x%'",
    ] {
        let shown = caller.shows(sql).await;
        assert!(shown.contains("UnsupportedFilter"), "{sql}\n{shown}");
    }
    let allowed = caller
        .shows("SELECT 1 FROM records WHERE labels['env'] = 'prod'")
        .await;
    assert!(!allowed.contains("UnsupportedFilter"), "{allowed}");
}

/// Worlds that differ in what hidden values are made of: their number of words, their type, whether they are there.
#[tokio::test]
async fn the_shape_of_what_is_hidden_does_not_show() {
    let word = |what: &str| Value::String(format!("{CANARY}-{what}-amount-name"));
    let worlds = [
        world(&text, json!({ "box": { "inner": 1, "into": 2 } })),
        world(&word, json!({ "box": {} })),
        world(&|_| json!(4_711), json!({ "box": "text" })),
        world(&|_| json!([CANARY]), json!({ "box": [] })),
    ];
    // Columns as a whole, but for what a partial mask or a hash shows of a value by itself.
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    for batch in worlds {
        let caller = caller(Role::Reader, batch);
        let context = document(&caller, "context", 1).await;
        assert!(
            !context.to_string().contains(CANARY) && !context.to_string().contains("4711"),
            "{context}"
        );
        let labels = document(&caller, "labels", 1).await;
        seen.push((
            keys(&context),
            labels,
            context["box"].clone(),
            context["words"].clone(),
            context["into"].clone(),
        ));
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:#?}");
}

/// Old rows whose hidden values stand in the order of the rows, or the other way round.
fn ordered(is_reversed: bool) -> RecordBatch {
    let rows = (0..6).map(|number| {
        let rank = if is_reversed { 5 - number } else { number };
        let hidden = format!("{CANARY}-{rank}-same");
        let context = json!({
            "mail": hidden, "into": hidden, "words": hidden, "clan": hidden, "post": hidden, "name": hidden,
            "both": hidden, "box": { "inner": rank },
        });
        let mut row = record(number, "1.0", context, json!({ "crew": hidden }));
        row.promoted = vec![promoted("ticket", "/context/ticket", hidden)];
        row
    });
    table(rows.collect())
}

/// What rows are sorted, limited and compared by is what the caller sees of a value, whatever a step did to it.
#[tokio::test]
async fn hidden_values_order_nothing() {
    let (one, other) = (
        caller(Role::Reader, ordered(false)),
        caller(Role::Reader, ordered(true)),
    );
    for by in [
        "ticket",
        "order_ticket",
        "substr(order_ticket, 8, 1)",
        "CAST(order_ticket AS INT)",
        "context",
        "labels['crew']",
        "labels['clan']",
    ] {
        for sql in [
            format!("SELECT leaf_index, {by} FROM records ORDER BY {by}, leaf_index"),
            format!("SELECT leaf_index FROM records ORDER BY {by} DESC, leaf_index LIMIT 2"),
            format!("SELECT min(CAST({by} AS VARCHAR)), max(CAST({by} AS VARCHAR)) FROM records"),
            format!("SELECT rank() OVER (ORDER BY {by}), leaf_index FROM records ORDER BY 2"),
            format!("SELECT count(*) FROM records WHERE {by} > 'canary-2'"),
        ] {
            let (here, there) = (one.shows(&sql).await, other.shows(&sql).await);
            assert_eq!(here, there, "{sql}");
            let observed = one.observes(&sql).await;
            let observed = observed.replace("canary-2", "");
            assert!(!observed.contains(CANARY), "{sql}\n{observed}");
        }
    }
    // Who sees the values has them sorted.
    let sql = "SELECT leaf_index FROM records ORDER BY order_ticket LIMIT 1";
    for (is_reversed, first) in [(false, "| 0 "), (true, "| 5 ")] {
        let caller = caller(Role::Investigator, ordered(is_reversed));
        let shown = caller.shows(sql).await;
        assert!(shown.contains(first), "{shown}");
    }
}

/// A step leaves a value where it stands if its new place is taken. Whatever a later step makes of it, it belongs to the
/// field whose rule it has.
#[tokio::test]
async fn a_value_whose_place_was_taken_keeps_its_mask() {
    let policy = POLICY.replace("context.mail: REDACT", "context.b: REDACT");
    let steps = json!([
        { "op": "move", "from": "/context/a", "to": "/context/b" },
        { "op": "rename", "path": "/context/a", "to": "c" },
    ]);
    let context = json!({ "a": text("left"), "b": "taken" });
    let rows = || table(vec![record(1, "1.0", context.clone(), json!({}))]);
    let seen_by = |role| Caller::upcasting(role, &policy, &evolution(steps.clone()), rows());
    assert_eq!(
        document(&seen_by(Role::Investigator), "context", 1).await,
        json!({ "b": "taken", "c": "canary left" })
    );
    assert_eq!(
        document(&seen_by(Role::Reader), "context", 1).await,
        json!({ "b": "[redacted]", "c": "[redacted]" })
    );
}

/// An object that was cut out is one again before masks look into it, moved or not.
#[tokio::test]
async fn masks_reach_into_an_object_that_was_cut_out() {
    let held = json!({ "email": text("held"), "open": 1 }).to_string();
    let mut rows = vec![
        record(1, "1.0", json!({}), json!({})),
        record(2, "2.0", json!({}), json!({})),
    ];
    rows[0]
        .sealed_fields
        .insert("/context/wrap".to_owned(), held.clone());
    rows[1]
        .sealed_fields
        .insert("/context/parcel".to_owned(), held);
    let caller = caller(Role::Reader, table(rows));
    for number in [1, 2] {
        let context = document(&caller, "context", number).await;
        assert_eq!(
            context["parcel"],
            json!({ "email": null, "open": 1 }),
            "{context}"
        );
    }
}

#[tokio::test]
async fn nothing_more_is_read_than_it_takes() {
    let read_by = async |caller: Caller, sql: &str| {
        caller.rows(sql).await.expect("rows");
        caller.read.lock().unwrap().clone()
    };
    let with = || caller(Role::Reader, world(&text, json!({})));
    let without = || Caller::under(super::testing::ONE, Role::Reader, POLICY);
    let sql = "SELECT action, count(*) FROM records GROUP BY action";
    assert_eq!(read_by(with(), sql).await, read_by(without(), sql).await);
    let read = read_by(with(), "SELECT order_ticket FROM records").await;
    for column in [
        "stream",
        "schema_version",
        "context",
        "labels",
        "extras",
        "sealed_fields",
        "ticket",
    ] {
        assert!(read.iter().any(|read| read == column), "{column}: {read:?}");
    }
}
