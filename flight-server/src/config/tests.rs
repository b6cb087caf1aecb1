//! Whole configurations, accepted and refused.

use std::time::Duration;

use super::*;
use crate::limits::Limits;

#[track_caller]
fn refuses(file: &str, setting: &str) {
    match from_text(file, []).unwrap_err() {
        Error::Refused { setting: found, .. } => assert_eq!(found, setting),
        error => panic!("{error}"),
    }
}

#[test]
fn nothing_gives_one_silo_on_loopback_with_the_development_issuer() {
    let config = from_text("", []).unwrap();
    assert_eq!(config.silos.len(), 1);
    let silo = &config.silos[0];
    assert_eq!(silo.id.as_str(), "local");
    assert_eq!(silo.flight.to_string(), "127.0.0.1:31337");
    assert_eq!(silo.http.to_string(), "127.0.0.1:31380");
    assert_eq!(config.admin.to_string(), "127.0.0.1:31390");
    assert!(silo.root.url().as_str().ends_with("/trailhouse-data/"));
    assert!(config.control_root.is(&silo.root));
    assert!(config.keys_folder.is_absolute());
    assert!(config.auth.developer);
    assert_eq!(config.auth.leeway, Duration::from_secs(60));
    assert_eq!(config.limits, Limits::default());
}

const TWO: &str = "
    [silos.us]
    root = '/srv/us'
    flight = '127.0.0.1:2'
    http = '127.0.0.1:3'
    [silos.eu]
    root = '/srv/eu'
    flight = '127.0.0.1:4'
    http = '127.0.0.1:5'
";

#[test]
fn two_silos_have_their_own_roots_and_listeners() {
    let config = from_text(TWO, []).unwrap();
    let names: Vec<_> = config.silos.iter().map(|silo| silo.id.as_str()).collect();
    assert_eq!(names, ["eu", "us"]);
    assert_eq!(config.control_root.url().as_str(), "file:///srv/eu/");
    assert_eq!(config.listeners().count(), 5);
}

#[test]
fn several_silos_have_to_say_where_they_listen() {
    refuses(
        "[silos.a]\nroot='/a'\n[silos.b]\nroot='/b'",
        "silos.a.flight",
    );
    refuses("[silos.a]\n[silos.b]", "silos.a.root");
}

#[test]
fn what_would_collide_is_refused() {
    refuses(&TWO.replace("/srv/us", "/srv/eu/us"), "silos.us.root");
    refuses(
        &TWO.replace("127.0.0.1:5", "127.0.0.1:2"),
        "silos.us.flight",
    );
    refuses(
        &format!("keys.folder = '/srv/eu/keys'\n{TWO}"),
        "keys.folder",
    );
}

#[test]
fn the_development_issuer_stays_on_loopback() {
    let outside = TWO.replace("127.0.0.1:2", "0.0.0.0:2");
    refuses(&outside, "silos.us.flight");
    refuses(
        &format!("auth.developer = true\n{outside}"),
        "silos.us.flight",
    );
    refuses(
        &format!("admin.listen = '10.0.0.1:9'\n{TWO}"),
        "admin.listen",
    );
    let issuer = "
        [[auth.issuers]]
        issuer = 'https://id.example'
        audience = 'trailhouse'
        jwks = 'https://id.example/keys'
        profile = 'okta'
    ";
    let plaintext = format!("tls.plaintext = true\n{outside}{issuer}");
    let config = from_text(&plaintext, []).unwrap();
    assert!(!config.auth.developer);
    assert_eq!(config.auth.issuers.len(), 1);
    assert_eq!(config.auth.issuers[0].tenants, None);
    let some = format!("{plaintext}tenants = ['Acme', '_system']");
    let config = from_text(&some, []).unwrap();
    let tenants = config.auth.issuers[0].tenants.as_ref().unwrap().iter();
    let tenants: Vec<&str> = tenants.map(|tenant| tenant.as_str()).collect();
    assert_eq!(tenants, ["_system", "acme"]);
    for tenants in ["[]", "['a b']"] {
        let none = format!("{plaintext}tenants = {tenants}");
        refuses(&none, "auth.issuers.tenants");
    }
    refuses(&format!("{outside}{issuer}{issuer}"), "auth.issuers");
}

#[test]
fn other_machines_are_served_with_tls_unless_it_is_said_otherwise() {
    let issuer = "[[auth.issuers]]\nissuer = 'i'\naudience = 'a'\njwks = 'https://id.example/keys'";
    let outside = format!("{}\n{issuer}", TWO.replace("127.0.0.1:2", "0.0.0.0:2"));
    refuses(&outside, "silos.us.flight");
    let tls = "tls = { certificate = 'c.pem', key = 'k.pem', client_ca = 'ca.pem' }\n";
    let config = from_text(&format!("{tls}{outside}"), []).unwrap();
    let files = config.tls.unwrap();
    assert!(files.certificate.is_absolute() && files.client_ca.is_some());
    // Health and metrics have none.
    let admin = format!("admin.listen = '10.0.0.1:9'\n{tls}{outside}");
    refuses(&admin, "admin.listen");
    assert!(from_text(&format!("admin.plaintext = true\n{admin}"), []).is_ok());
    // What is asked for one is not asked for the other.
    let clear = admin.replace(tls, "tls.plaintext = true\n");
    refuses(&clear, "admin.listen");
    refuses(
        &format!("admin.plaintext = true\n{outside}"),
        "silos.us.flight",
    );
    refuses(
        &admin.replace("tls = {", "tls = { plaintext = true,"),
        "tls.plaintext",
    );
    refuses("tls.certificate = 'c.pem'", "tls.key");
    refuses("tls.key = 'k.pem'", "tls.certificate");
    refuses("tls.client_ca = 'ca.pem'", "tls.certificate");
}

#[test]
fn somebody_has_to_be_believed() {
    refuses("auth.developer = false", "auth.issuers");
}

#[test]
fn keys_are_not_fetched_in_the_clear() {
    let issuer = |jwks: &str| format!("[[auth.issuers]]\nissuer='i'\naudience='a'\njwks='{jwks}'");
    refuses(&issuer("http://id.example/keys"), "auth.issuers.jwks");
    refuses(&issuer("ftp://id.example/keys"), "auth.issuers.jwks");
    assert!(from_text(&issuer("http://127.0.0.1:9/keys"), []).is_ok());
    let discovered = |issuer: &str| format!("[[auth.issuers]]\nissuer='{issuer}'\naudience='a'");
    refuses(&discovered("http://id.example"), "auth.issuers.issuer");
    refuses(&discovered("id.example"), "auth.issuers.issuer");
    let config = from_text(&discovered("https://id.example/acme/"), []).unwrap();
    let document = "https://id.example/acme/.well-known/openid-configuration";
    assert!(
        matches!(&config.auth.issuers[0].jwks, Jwks::Discovery(url) if url.as_str() == document)
    );
    let config = from_text(&issuer("keys.json"), []).unwrap();
    assert!(matches!(&config.auth.issuers[0].jwks, Jwks::File(path) if path.is_absolute()));
}

#[test]
fn limits_and_logs_are_checked() {
    refuses("limits.record_bytes = 0", "limits.record_bytes");
    refuses("limits.record_bytes = 99999999", "limits.record_bytes");
    refuses("limits.batch_bytes = 10", "limits.batch_bytes");
    refuses("log.format = 'xml'", "log.format");
    refuses("auth.leeway_s = 3600", "auth.leeway_s");
    refuses("admin.listen = 'localhost'", "admin.listen");
    refuses("control.root = 'ftp://bucket'", "control.root");
}

fn ambient(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[tokio::test]
async fn a_store_is_told_what_it_needs() {
    let file = "
        [silos.eu]
        root = 's3://acme-eu/audit'
        [silos.eu.store]
        region = 'eu-central-1'
        endpoint = 'http://127.0.0.1:9000'
        allow_http = true
        access_key_id = 'id'
    ";
    let environment = ambient(&[
        (
            "TRAILHOUSE_SILOS__EU__STORE__SECRET_ACCESS_KEY",
            "hush-hush",
        ),
        ("AWS_SESSION_TOKEN", "not-of-this-key"),
    ]);
    let config = from_text(file, environment).unwrap();
    assert_eq!(config.silos[0].root.url().as_str(), "s3://acme-eu/audit");
    assert!(config.silos[0].root.open().is_ok());
    assert!(config.control_root.is(&config.silos[0].root));
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    refuses(file, "silos.eu.store.secret_access_key");
    let typo = file.replace("region", "regoin");
    let error = from_text(&typo, []).unwrap_err().to_string();
    assert_eq!(
        error,
        "unknown setting `silos.eu.store.regoin`, did you mean `silos.eu.store.region`?"
    );
}

#[test]
fn clouds_are_kept_apart_like_folders() {
    let two = |one: &str, other: &str| TWO.replace("/srv/eu", one).replace("/srv/us", other);
    let listeners = from_text(&two("s3://acme/eu", "s3://acme/us"), []).unwrap();
    assert_eq!(listeners.silos.len(), 2);
    refuses(&two("s3://acme/eu", "s3://acme/eu/us"), "silos.us.root");
    refuses(&two("memory://x", "memory://x"), "silos.us.root");
    let control = |root: &str| {
        format!(
            "control.root = '{root}'\n{}",
            two("s3://acme/eu", "/srv/us")
        )
    };
    assert!(from_text(&control("/srv/control"), []).is_ok());
    assert!(from_text(&control("s3://acme/eu/"), []).is_ok());
    refuses(&control("s3://acme"), "control.root");
    refuses(&control("/srv/us/control"), "control.root");
    refuses("control.store.region = 'x'", "control.store");
}

#[test]
fn what_does_not_parse_is_not_shown() {
    for file in [
        "\n[silos.eu.store]\nsecret_access_key = 'hush-hush",
        "\n[silos.eu]\nstore = 'hush-hush'",
        "[silos.eu.store]\nsecret_access_key = [ 'hush-hush' ]",
    ] {
        let error = from_text(file, []).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("line "), "{shown}");
    }
}

#[test]
fn the_log_lies_apart_from_the_data_and_fits_its_bounds() {
    let config = from_text(TWO, []).unwrap();
    assert!(config.wal.folder.ends_with("trailhouse-wal"));
    assert_eq!(config.wal.lanes.ack, engine::sequencer::Ack::Wal);
    for (settings, setting) in [
        ("folder = '/srv/eu/wal'", "wal.folder"),
        ("folder = '/srv'", "wal.folder"),
        ("ack = 'never'", "wal.ack"),
        ("node = 'a/b'", "wal.node"),
        ("node = ''", "wal.node"),
        ("flush_age_ms = 0", "wal.flush_age_ms"),
        ("flush_age_ms = 60001", "wal.flush_age_ms"),
        ("idle_ms = 99", "wal.idle_ms"),
        ("idle_ms = 86400001", "wal.idle_ms"),
        ("flush_bytes = 0", "wal.flush_bytes"),
        ("flush_bytes = 300000000", "wal.flush_bytes"),
        ("segment_bytes = 1000", "wal.segment_bytes"),
        ("bytes_max = 100000000", "wal.bytes_max"),
        ("tenant_bytes_max = 2000000000", "wal.tenant_bytes_max"),
    ] {
        refuses(&format!("[wal]\n{settings}\n{TWO}"), setting);
    }
}

#[test]
fn what_queries_may_use_is_checked() {
    for (settings, setting) in [
        ("memory_bytes = 1000", "queries.memory_bytes"),
        ("query_memory_bytes = 1000", "queries.query_memory_bytes"),
        (
            "memory_bytes = 100000000\nquery_memory_bytes = 200000000",
            "queries.query_memory_bytes",
        ),
        (
            "memory_bytes = 100000000\ntenant_memory_bytes = 200000000",
            "queries.tenant_memory_bytes",
        ),
        ("time_s = 0", "queries.time_s"),
        ("at_once = 0", "queries.at_once"),
        ("at_once = 4\ntenant_at_once = 5", "queries.tenant_at_once"),
        ("threads = 0", "queries.threads"),
        ("wait_ms = 600001", "queries.wait_ms"),
        ("reuse_ms = 60001", "queries.reuse_ms"),
        ("spill_folder = '/srv/eu/spill'", "queries.spill_folder"),
    ] {
        refuses(&format!("[queries]\n{settings}\n{TWO}"), setting);
    }
    let config = from_text("[queries]\nspill_bytes = 0\nmemory_bytes = 100000000", []).unwrap();
    let budget = &config.queries.budget;
    assert_eq!(budget.spill, None);
    assert_eq!(budget.tenant_memory_bytes_max, 25_000_000);
    assert_eq!(config.queries.memory_bytes_max, 50_000_000);
}

#[test]
fn how_exports_are_made_is_checked() {
    for (settings, setting) in [
        ("at_once = 0", "exports.at_once"),
        ("at_once = 257", "exports.at_once"),
        ("at_once = 4\ntenant_at_once = 5", "exports.tenant_at_once"),
        ("tenant_at_once = 0", "exports.tenant_at_once"),
        ("tenant_open_max = 0", "exports.tenant_open_max"),
        ("tenant_open_max = 1001", "exports.tenant_open_max"),
        ("chunk_mib = 0", "exports.chunk_mib"),
        ("chunk_mib = 1025", "exports.chunk_mib"),
        ("keep_hours = 0", "exports.keep_hours"),
        ("keep_hours = 8761", "exports.keep_hours"),
        ("time_max_hours = 0", "exports.time_max_hours"),
        ("time_max_hours = 169", "exports.time_max_hours"),
        ("beat_ms = 9", "exports.beat_ms"),
        ("beat_ms = 600001", "exports.beat_ms"),
        ("weights = { a = 0 }", "exports.weights.a"),
        ("weights = { a = 1, b = 101 }", "exports.weights.b"),
        ("weights = { '' = 1 }", "exports.weights."),
    ] {
        refuses(&format!("[exports]\n{settings}\n{TWO}"), setting);
    }
    let usual = ExportSettings::of(&from_text("", []).unwrap());
    let stores = [(
        catalog::ids::SiloId::parse("local").unwrap(),
        "file".to_owned(),
    )];
    let wanted = engine::export::Settings {
        weights: [("enterprise".to_owned(), 4)].into(),
        host: "node-1".to_owned(),
        stores: stores.into(),
        ..engine::export::Settings::default()
    };
    assert_eq!(usual, wanted);
    let file = "wal.node = 'n-7'\n[exports]\nat_once = 9\ntenant_at_once = 3\ntenant_open_max = 5\n\
        chunk_mib = 1\nkeep_hours = 2\ntime_max_hours = 3\nbeat_ms = 50\nweights = { gold = 100 }";
    let changed = ExportSettings::of(&from_text(file, []).unwrap());
    assert_eq!((changed.at_once, changed.tenant_at_once), (9, 3));
    assert_eq!((changed.tenant_open_max, changed.chunk_bytes), (5, 1 << 20));
    assert_eq!(changed.kept, Duration::from_secs(7_200));
    assert_eq!(changed.time_max, Duration::from_secs(10_800));
    assert_eq!(changed.beat, Duration::from_millis(50));
    assert_eq!(changed.weights, [("gold".to_owned(), 100)].into());
    assert_eq!(changed.host, "n-7");
}

#[test]
fn the_example_file_is_a_configuration() {
    let text = include_str!("../../../trailhouse.example.toml");
    let config = from_text(text, []).unwrap();
    assert_eq!(config.limits, Limits::default());
    let default = from_text("", []).unwrap();
    assert_eq!(config.wal, default.wal);
    assert_eq!(config.queries, default.queries);
    assert_eq!(config.exports, default.exports);
    assert!(config.auth.developer);
}

#[test]
fn a_tenant_s_own_limits_differ_only_where_they_say_so() {
    let file = "[limits]\nburst = 3\nquery_requests_per_s = 0\n\
        [limits.tenants.Acme]\nwrite_requests_per_s = 7\n[limits.tenants.'globex.eu']\nburst = 1";
    let rates = from_text(file, []).unwrap().limits.rates;
    assert_eq!((rates.each.burst, rates.each.query_requests_per_s), (3, 0));
    let of = |name: &str| rates.tenants[&catalog::ids::TenantId::parse(name).unwrap()];
    assert_eq!((of("acme").write_requests_per_s, of("acme").burst), (7, 3));
    assert_eq!(of("globex.eu").write_requests_per_s, 2_000);
    assert_eq!(of("globex.eu").burst, 1);
}

#[test]
fn rates_that_cannot_be_are_refused() {
    for (file, setting) in [
        ("[limits]\nburst = 0", "limits.burst"),
        ("[limits]\nburst = 61", "limits.burst"),
        (
            "[limits]\nwrite_requests_per_s = 1000001",
            "limits.write_requests_per_s",
        ),
        (
            "[limits]\nwrite_bytes_per_s = 1000",
            "limits.write_bytes_per_s",
        ),
        (
            "[limits.tenants.a]\nwrite_bytes_per_s = 1",
            "limits.tenants.a.write_bytes_per_s",
        ),
        (
            "[limits.tenants.'no such']\nburst = 1",
            "limits.tenants.no such",
        ),
        ("[limits.tenants.a]\n[limits.tenants.A]", "limits.tenants.a"),
        (
            "[limits.tenants.a]\nwrites_at_once = 70000",
            "limits.tenants.a.writes_at_once",
        ),
    ] {
        refuses(file, setting);
    }
}
