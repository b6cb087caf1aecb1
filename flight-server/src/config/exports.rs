//! How exports are made: `[exports]`.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::export::Settings;

use super::Error;
use super::raw::RawExports;
use super::resolved::{Config, refused};

const MIB: u64 = 1 << 20;
const AT_ONCE_CEILING: u64 = 256;
/// The jobs of a tenant that are under way are all looked at when one more is asked for.
const OPEN_CEILING: u64 = 1_000;
const CHUNK_MIB_CEILING: u64 = 1_024;
const KEEP_HOURS_CEILING: u64 = 8_760;
const TIME_HOURS_CEILING: u64 = 168;
/// A beat is a document in the store.
const BEAT_MS_MIN: u64 = 10;
const BEAT_MS_CEILING: u64 = 600_000;
const WEIGHT_CEILING: u32 = 100;
const EDITION_CHARACTERS_MAX: usize = 64;
/// The share of tenants of this edition, where nothing else is said.
const WEIGHTS: [(&str, u32); 1] = [("enterprise", 4)];

/// How exports are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// So many that are worked on at the same time.
    pub at_once: usize,
    /// Of one tenant.
    pub tenant_at_once: usize,
    /// Of one tenant that are under way, in all processes.
    pub tenant_open_max: usize,
    /// Bytes that end a file of records.
    pub chunk_bytes: u64,
    /// How long a finished one can be fetched.
    pub kept: Duration,
    /// How long one may take.
    pub time_max: Duration,
    /// How often whoever works on one says so.
    pub beat: Duration,
    /// The share of tenants of an edition, where it is not 1.
    pub weights: BTreeMap<String, u32>,
}

impl ExportSettings {
    /// The same for the engine, with what manifests say of this machine and its stores.
    #[must_use]
    pub fn of(config: &Config) -> Settings {
        let own = config.exports.clone();
        let kinds = config.silos.iter().map(|silo| {
            let kind = silo.root.url().scheme().to_owned();
            (silo.id.clone(), kind)
        });
        Settings {
            at_once: own.at_once,
            tenant_at_once: own.tenant_at_once,
            tenant_open_max: own.tenant_open_max,
            chunk_bytes: own.chunk_bytes,
            kept: own.kept,
            time_max: own.time_max,
            beat: own.beat,
            weights: own.weights,
            host: config.wal.node.clone(),
            stores: kinds.collect(),
            ..Settings::default()
        }
    }
}

pub(super) fn resolve(raw: RawExports) -> Result<ExportSettings, Error> {
    let at_once = count("at_once", raw.at_once.unwrap_or(2), AT_ONCE_CEILING)?;
    let tenant_at_once = raw.tenant_at_once.unwrap_or(1);
    let tenant_open_max = raw.tenant_open_max.unwrap_or(8);
    let chunk_mib = raw.chunk_mib.unwrap_or(160);
    let keep_hours = raw.keep_hours.unwrap_or(7 * 24);
    let time_hours = raw.time_max_hours.unwrap_or(24);
    let beat_ms = raw.beat_ms.unwrap_or(5_000);
    Ok(ExportSettings {
        at_once,
        tenant_at_once: count("tenant_at_once", tenant_at_once, at_once as u64)?,
        tenant_open_max: count("tenant_open_max", tenant_open_max, OPEN_CEILING)?,
        chunk_bytes: within("chunk_mib", chunk_mib, 1, CHUNK_MIB_CEILING)? * MIB,
        kept: hours("keep_hours", keep_hours, KEEP_HOURS_CEILING)?,
        time_max: hours("time_max_hours", time_hours, TIME_HOURS_CEILING)?,
        beat: Duration::from_millis(within("beat_ms", beat_ms, BEAT_MS_MIN, BEAT_MS_CEILING)?),
        weights: weights(raw.weights)?,
    })
}

fn within(setting: &str, value: u64, least: u64, most: u64) -> Result<u64, Error> {
    if (least..=most).contains(&value) {
        Ok(value)
    } else {
        let reason = format!("{least} to {most}");
        Err(refused(format!("exports.{setting}"), reason))
    }
}

fn count(setting: &str, value: usize, most: u64) -> Result<usize, Error> {
    within(setting, value as u64, 1, most)?;
    Ok(value)
}

fn hours(setting: &str, value: u64, most: u64) -> Result<Duration, Error> {
    let hours = within(setting, value, 1, most)?;
    Ok(Duration::from_secs(hours * 3_600))
}

fn weights(raw: Option<BTreeMap<String, u32>>) -> Result<BTreeMap<String, u32>, Error> {
    let Some(weights) = raw else {
        let usual = WEIGHTS.map(|(edition, weight)| (edition.to_owned(), weight));
        return Ok(BTreeMap::from(usual));
    };
    for (edition, weight) in &weights {
        let setting = || format!("exports.weights.{edition}");
        if edition.is_empty() || edition.chars().count() > EDITION_CHARACTERS_MAX {
            let reason = format!("an edition has 1 to {EDITION_CHARACTERS_MAX} characters");
            return Err(refused(setting(), reason));
        }
        if !(1..=WEIGHT_CEILING).contains(weight) {
            return Err(refused(setting(), format!("1 to {WEIGHT_CEILING}")));
        }
    }
    Ok(weights)
}
