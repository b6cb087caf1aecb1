//! Settings as they were written: the file and the environment laid over each other, every key known, every value of
//! its type. What they mean together is `resolved`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use super::Error;

/// What environment variables that change a setting begin with.
pub(super) const ENVIRONMENT_PREFIX: &str = "TRAILHOUSE_";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    Integer,
    Boolean,
}

/// Every setting there is. `*` stands for a name the user chooses, `[]` for the entries of a list.
const SETTINGS: &[(&str, Kind)] = &[
    ("control.root", Kind::Text),
    ("control.store.*", Kind::Text),
    ("keys.folder", Kind::Text),
    ("wal.folder", Kind::Text),
    ("wal.node", Kind::Text),
    ("wal.ack", Kind::Text),
    ("wal.flush_age_ms", Kind::Integer),
    ("wal.idle_ms", Kind::Integer),
    ("wal.flush_bytes", Kind::Integer),
    ("wal.segment_bytes", Kind::Integer),
    ("wal.bytes_max", Kind::Integer),
    ("wal.tenant_bytes_max", Kind::Integer),
    ("tables.maintenance", Kind::Boolean),
    ("tables.grace_hours", Kind::Integer),
    ("silos.*.root", Kind::Text),
    ("silos.*.store.*", Kind::Text),
    ("silos.*.flight", Kind::Text),
    ("silos.*.http", Kind::Text),
    ("admin.listen", Kind::Text),
    ("admin.plaintext", Kind::Boolean),
    ("tls.certificate", Kind::Text),
    ("tls.key", Kind::Text),
    ("tls.client_ca", Kind::Text),
    ("tls.plaintext", Kind::Boolean),
    ("auth.developer", Kind::Boolean),
    ("auth.leeway_s", Kind::Integer),
    ("auth.jwks_refresh_s", Kind::Integer),
    ("auth.operator_token", Kind::Text),
    ("auth.issuers.[].issuer", Kind::Text),
    ("auth.issuers.[].audience", Kind::Text),
    ("auth.issuers.[].jwks", Kind::Text),
    ("auth.issuers.[].profile", Kind::Text),
    ("auth.issuers.[].tenants", Kind::Text),
    ("limits.record_bytes", Kind::Integer),
    ("limits.batch_bytes", Kind::Integer),
    ("limits.batch_lines", Kind::Integer),
    ("limits.metric_tenants", Kind::Integer),
    ("limits.shutdown_s", Kind::Integer),
    ("limits.write_requests_per_s", Kind::Integer),
    ("limits.write_bytes_per_s", Kind::Integer),
    ("limits.query_requests_per_s", Kind::Integer),
    ("limits.burst", Kind::Integer),
    ("limits.writes_at_once", Kind::Integer),
    ("limits.tenants.*.write_requests_per_s", Kind::Integer),
    ("limits.tenants.*.write_bytes_per_s", Kind::Integer),
    ("limits.tenants.*.query_requests_per_s", Kind::Integer),
    ("limits.tenants.*.burst", Kind::Integer),
    ("limits.tenants.*.writes_at_once", Kind::Integer),
    ("queries.memory_bytes", Kind::Integer),
    ("queries.tenant_memory_bytes", Kind::Integer),
    ("queries.query_memory_bytes", Kind::Integer),
    ("queries.time_s", Kind::Integer),
    ("queries.reuse_ms", Kind::Integer),
    ("queries.at_once", Kind::Integer),
    ("queries.tenant_at_once", Kind::Integer),
    ("queries.wait_ms", Kind::Integer),
    ("queries.threads", Kind::Integer),
    ("queries.spill_folder", Kind::Text),
    ("queries.spill_bytes", Kind::Integer),
    ("exports.at_once", Kind::Integer),
    ("exports.tenant_at_once", Kind::Integer),
    ("exports.tenant_open_max", Kind::Integer),
    ("exports.chunk_mib", Kind::Integer),
    ("exports.keep_hours", Kind::Integer),
    ("exports.time_max_hours", Kind::Integer),
    ("exports.beat_ms", Kind::Integer),
    ("exports.weights.*", Kind::Integer),
    ("witnesses.*.key", Kind::Text),
    ("witnesses.*.url", Kind::Text),
    ("log.filter", Kind::Text),
    ("log.format", Kind::Text),
];

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) control: RawControl,
    pub(super) keys: RawKeys,
    pub(super) wal: RawWal,
    pub(super) tables: RawTables,
    pub(super) silos: BTreeMap<String, RawSilo>,
    pub(super) admin: RawAdmin,
    pub(super) tls: RawTls,
    pub(super) auth: RawAuth,
    pub(super) limits: RawLimits,
    pub(super) queries: RawQueries,
    pub(super) exports: RawExports,
    pub(super) witnesses: BTreeMap<String, RawWitness>,
    pub(super) log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawWitness {
    pub(super) key: String,
    pub(super) url: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawControl {
    pub(super) root: Option<String>,
    pub(super) store: RawStore,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawKeys {
    pub(super) folder: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTables {
    pub(super) maintenance: Option<bool>,
    pub(super) grace_hours: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawWal {
    pub(super) folder: Option<String>,
    pub(super) node: Option<String>,
    pub(super) ack: Option<String>,
    pub(super) flush_age_ms: Option<u64>,
    pub(super) idle_ms: Option<u64>,
    pub(super) flush_bytes: Option<usize>,
    pub(super) segment_bytes: Option<u64>,
    pub(super) bytes_max: Option<u64>,
    pub(super) tenant_bytes_max: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSilo {
    pub(super) root: Option<String>,
    pub(super) store: RawStore,
    pub(super) flight: Option<String>,
    pub(super) http: Option<String>,
}

/// Settings of a store, as texts: what they mean is the store's client's business.
#[derive(Default)]
pub(super) struct RawStore(pub(super) BTreeMap<String, String>);

impl fmt::Debug for RawStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<'de> Deserialize<'de> for RawStore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Value::Table(table) = Value::deserialize(deserializer)? else {
            return Err(D::Error::custom("`store` takes a section of settings"));
        };
        let text = |(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Integer(number) => Ok((name, number.to_string())),
            Value::Boolean(on) => Ok((name, on.to_string())),
            Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                Err(D::Error::custom("a setting of a `store` takes text"))
            }
        };
        let settings = table.into_iter().map(text).collect::<Result<_, _>>()?;
        Ok(Self(settings))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<String>,
    pub(super) plaintext: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) client_ca: Option<String>,
    pub(super) plaintext: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAuth {
    pub(super) developer: Option<bool>,
    pub(super) leeway_s: Option<u64>,
    pub(super) jwks_refresh_s: Option<u64>,
    pub(super) operator_token: Option<String>,
    pub(super) issuers: Vec<RawIssuer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) jwks: Option<String>,
    pub(super) profile: Option<String>,
    pub(super) tenants: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) record_bytes: Option<usize>,
    pub(super) batch_bytes: Option<usize>,
    pub(super) batch_lines: Option<usize>,
    pub(super) metric_tenants: Option<usize>,
    pub(super) shutdown_s: Option<u64>,
    // What each tenant may send; the same names stand in a tenant's own section.
    pub(super) write_requests_per_s: Option<u32>,
    pub(super) write_bytes_per_s: Option<u64>,
    pub(super) query_requests_per_s: Option<u32>,
    pub(super) burst: Option<u32>,
    pub(super) writes_at_once: Option<u32>,
    pub(super) tenants: BTreeMap<String, RawTenantLimits>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawQueries {
    pub(super) memory_bytes: Option<usize>,
    pub(super) tenant_memory_bytes: Option<usize>,
    pub(super) query_memory_bytes: Option<usize>,
    pub(super) time_s: Option<u64>,
    pub(super) reuse_ms: Option<u64>,
    pub(super) at_once: Option<usize>,
    pub(super) tenant_at_once: Option<usize>,
    pub(super) wait_ms: Option<u64>,
    pub(super) threads: Option<usize>,
    pub(super) spill_folder: Option<String>,
    pub(super) spill_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawExports {
    pub(super) at_once: Option<usize>,
    pub(super) tenant_at_once: Option<usize>,
    pub(super) tenant_open_max: Option<usize>,
    pub(super) chunk_mib: Option<u64>,
    pub(super) keep_hours: Option<u64>,
    pub(super) time_max_hours: Option<u64>,
    pub(super) beat_ms: Option<u64>,
    pub(super) weights: Option<BTreeMap<String, u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTenantLimits {
    pub(super) write_requests_per_s: Option<u32>,
    pub(super) write_bytes_per_s: Option<u64>,
    pub(super) query_requests_per_s: Option<u32>,
    pub(super) burst: Option<u32>,
    pub(super) writes_at_once: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) filter: Option<String>,
    pub(super) format: Option<String>,
}

/// Lays the environment over the file's text.
pub(super) fn read(file: &str, environment: &[(String, String)]) -> Result<RawConfig, Error> {
    let mut table: Table = toml::from_str(file).map_err(|error| syntax(file, &error))?;
    check_keys(&table, &mut Vec::new(), &mut String::new())?;
    for (name, value) in environment {
        // `TRAILHOUSE_CONFIG` and whatever the command line reads have no section.
        if let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX)
            && rest.contains("__")
        {
            apply(&mut table, name, rest, value.clone())?;
        }
    }
    RawConfig::deserialize(table).map_err(|error| syntax(file, &error))
}

fn syntax(file: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| file.get(..span.start));
    Error::Syntax {
        line: before.unwrap_or_default().matches('\n').count() + 1,
        message: error.message().to_owned(),
    }
}

/// Refuses the first key that is not in `SETTINGS`. `pattern` is the path with `*` and `[]`, `shown` as written.
fn check_keys(table: &Table, pattern: &mut Vec<String>, shown: &mut String) -> Result<(), Error> {
    for (key, value) in table {
        let segment = known_segment(pattern, key).ok_or_else(|| unknown(pattern, shown, key))?;
        let length = shown.len();
        if !shown.is_empty() {
            shown.push('.');
        }
        shown.push_str(key);
        pattern.push(segment);
        match value {
            Value::Table(inner) => check_keys(inner, pattern, shown)?,
            Value::Array(entries) => {
                pattern.push("[]".to_owned());
                for entry in entries.iter().filter_map(Value::as_table) {
                    check_keys(entry, pattern, shown)?;
                }
                pattern.pop();
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_) => {}
        }
        pattern.pop();
        shown.truncate(length);
    }
    Ok(())
}

/// Sets one value from the environment, of the type that the setting has.
fn apply(table: &mut Table, variable: &str, path: &str, text: String) -> Result<(), Error> {
    let mut pattern = Vec::new();
    let mut shown = String::new();
    let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
    for key in &keys {
        let segment = known_segment(&pattern, key).ok_or_else(|| unknown(&pattern, &shown, key))?;
        pattern.push(segment);
        if !shown.is_empty() {
            shown.push('.');
        }
        shown.push_str(key);
    }
    let pattern = pattern.join(".");
    let kind = SETTINGS
        .iter()
        .find(|(setting, _)| *setting == pattern)
        .map(|(_, kind)| *kind)
        .ok_or_else(|| Error::NotASetting {
            variable: variable.to_owned(),
        })?;
    let wrong = || Error::WrongType {
        setting: shown.clone(),
        expected: match kind {
            Kind::Text => "text",
            Kind::Integer => "a whole number",
            Kind::Boolean => "true or false",
        },
    };
    let value = match kind {
        Kind::Text => Value::String(text),
        Kind::Integer => Value::Integer(text.trim().parse().map_err(|_| wrong())?),
        Kind::Boolean => Value::Boolean(text.trim().parse().map_err(|_| wrong())?),
    };
    insert(table, &keys, value).ok_or_else(wrong)
}

/// Puts the value at its place, making sections that are missing. `None` if a section of the file is not a table.
fn insert(table: &mut Table, keys: &[String], value: Value) -> Option<()> {
    let (last, sections) = keys.split_last()?;
    let mut inner = table;
    for section in sections {
        inner = inner
            .entry(section.clone())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()?;
    }
    inner.insert(last.clone(), value);
    Some(())
}

/// What may come after this path.
fn segments_after(pattern: &[String]) -> BTreeSet<&'static str> {
    SETTINGS
        .iter()
        .filter_map(|(setting, _)| {
            let mut segments = setting.split('.');
            for wanted in pattern {
                if segments.next()? != wanted {
                    return None;
                }
            }
            segments.next()
        })
        .collect()
}

fn known_segment(pattern: &[String], key: &str) -> Option<String> {
    let known = segments_after(pattern);
    if known.contains(key) && key != "*" && key != "[]" {
        Some(key.to_owned())
    } else {
        known.contains("*").then(|| "*".to_owned())
    }
}

fn unknown(pattern: &[String], shown: &str, key: &str) -> Error {
    let place = |key: &str| match shown {
        "" => key.to_owned(),
        _ => format!("{shown}.{key}"),
    };
    let known = segments_after(pattern)
        .into_iter()
        .filter(|known| *known != "[]");
    Error::UnknownSetting {
        setting: place(key),
        nearest: nearest(known, key).map(place),
    }
}

/// The known name that looks most like this one.
pub(super) fn nearest(
    known: impl Iterator<Item = &'static str>,
    name: &str,
) -> Option<&'static str> {
    known.max_by(|left, right| {
        strsim::jaro_winkler(left, name).total_cmp(&strsim::jaro_winkler(right, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[track_caller]
    fn refused(file: &str, pairs: &[(&str, &str)], message: &str) {
        let error = read(file, &environment(pairs)).unwrap_err();
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn nothing_is_a_configuration() {
        let raw = read("", &[]).unwrap();
        assert!(raw.silos.is_empty());
        assert_eq!(raw.auth.developer, None);
    }

    #[test]
    fn unknown_keys_are_refused_naming_the_nearest() {
        refused(
            "[silos.eu]\nrot = 'x'",
            &[],
            "unknown setting `silos.eu.rot`, did you mean `silos.eu.root`?",
        );
        refused(
            "[limit]\nrecord_bytes = 1",
            &[],
            "unknown setting `limit`, did you mean `limits`?",
        );
        refused(
            "[[auth.issuers]]\nisuer = 'x'",
            &[],
            "unknown setting `auth.issuers.isuer`, did you mean `auth.issuers.issuer`?",
        );
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let raw = read(
            "[limits]\nrecord_bytes = 10\nbatch_lines = 7\n[silos.eu]\nroot = 'a'",
            &environment(&[
                ("TRAILHOUSE_LIMITS__RECORD_BYTES", "20"),
                ("TRAILHOUSE_SILOS__EU__ROOT", "b"),
                ("TRAILHOUSE_SILOS__US__HTTP", "127.0.0.1:1"),
                ("TRAILHOUSE_AUTH__DEVELOPER", "false"),
                ("TRAILHOUSE_CONFIG", "elsewhere"),
                ("PATH", "/bin"),
            ]),
        )
        .unwrap();
        assert_eq!(raw.limits.record_bytes, Some(20));
        assert_eq!(raw.limits.batch_lines, Some(7));
        assert_eq!(raw.silos["eu"].root.as_deref(), Some("b"));
        assert_eq!(raw.silos["us"].http.as_deref(), Some("127.0.0.1:1"));
        assert_eq!(raw.auth.developer, Some(false));
    }

    #[test]
    fn the_environment_is_as_strict_as_the_file() {
        refused(
            "",
            &[("TRAILHOUSE_LIMITS__RECORD_BITES", "1")],
            "unknown setting `limits.record_bites`, did you mean `limits.record_bytes`?",
        );
        refused(
            "",
            &[("TRAILHOUSE_LIMITS__RECORD_BYTES", "many")],
            "`limits.record_bytes` takes a whole number",
        );
        refused(
            "",
            &[("TRAILHOUSE_SILOS__EU", "x")],
            "`TRAILHOUSE_SILOS__EU` names a section, not a setting",
        );
    }

    #[test]
    fn the_table_of_settings_and_the_structures_agree() {
        for (setting, kind) in SETTINGS {
            let value = match kind {
                Kind::Text => "'x'",
                Kind::Integer => "1",
                Kind::Boolean => "true",
            };
            if setting.contains("[]") {
                continue;
            }
            let line = format!("{} = {value}", setting.replace('*', "eu"));
            assert!(read(&line, &[]).is_ok(), "{line}");
        }
        let issuer =
            "[[auth.issuers]]\nissuer='i'\naudience='a'\njwks='j'\nprofile='okta'\ntenants=['a']";
        assert!(read(issuer, &[]).is_ok());
    }
}
