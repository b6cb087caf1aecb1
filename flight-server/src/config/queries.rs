//! What queries may use: `[queries]`.

use std::num::NonZero;
use std::time::Duration;

use engine::query::{Budget, Limits, SpillRoom};

use super::Error;
use super::raw::RawQueries;
use super::resolved::{absolute, refused};

const MIB: usize = 1 << 20;
const DEFAULT_SPILL_FOLDER: &str = "./trailhouse-spill";
/// What a machine is taken for that does not say how much memory it has.
const MACHINE_BYTES: usize = 4096 * MIB;
/// The part of a machine's memory that is for queries.
const MACHINE_PART: usize = 4;
const QUERY_BYTES_MIN: usize = 16 * MIB;
const AT_ONCE_CEILING: usize = 4_096;
const THREADS_CEILING: usize = 1_024;
const WAIT_MS_CEILING: u64 = 600_000;
const REUSE_MS: u64 = 500;
/// What a policy has taken back is not given for longer.
const REUSE_MS_CEILING: u64 = 60_000;

/// What queries may use, each and together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuerySettings {
    /// Memory for the sorts, joins and aggregates of one query.
    pub memory_bytes_max: usize,
    /// How long one may run.
    pub time_max: Duration,
    /// How long an answer may be given again to the same caller.
    pub reuse: Duration,
    /// All of them together.
    pub budget: Budget,
}

impl QuerySettings {
    /// The limits of one query.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes_max: self.memory_bytes_max,
            deadline: self.time_max,
            reuse: self.reuse,
            ..Limits::default()
        }
    }
}

pub(super) fn resolve(raw: &RawQueries) -> Result<QuerySettings, Error> {
    let memory_bytes_max = raw
        .memory_bytes
        .unwrap_or_else(|| (machine_bytes() / MACHINE_PART).max(2 * QUERY_BYTES_MIN));
    let folder = raw.spill_folder.as_deref().unwrap_or(DEFAULT_SPILL_FOLDER);
    let room = SpillRoom {
        folder: absolute("queries.spill_folder", folder)?,
        bytes_max: raw.spill_bytes.unwrap_or(10 << 30),
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let settings = QuerySettings {
        memory_bytes_max: raw
            .query_memory_bytes
            .unwrap_or_else(|| (memory_bytes_max / 2).min(512 * MIB)),
        time_max: Duration::from_secs(raw.time_s.unwrap_or(300)),
        reuse: Duration::from_millis(raw.reuse_ms.unwrap_or(REUSE_MS)),
        budget: Budget {
            memory_bytes_max,
            tenant_memory_bytes_max: raw.tenant_memory_bytes.unwrap_or(memory_bytes_max / 4),
            queries_max: raw.at_once.unwrap_or(64),
            tenant_queries_max: raw.tenant_at_once.unwrap_or(16),
            wait_max: Duration::from_millis(raw.wait_ms.unwrap_or(10_000)),
            threads: raw.threads.unwrap_or(processors),
            spill: (room.bytes_max > 0).then_some(room),
        },
    };
    check(&settings)?;
    Ok(settings)
}

fn check(settings: &QuerySettings) -> Result<(), Error> {
    let within = |setting: &str, value: usize, least: usize, most: usize| {
        if (least..=most).contains(&value) {
            Ok(())
        } else {
            let reason = format!("{least} to {most}");
            Err(refused(format!("queries.{setting}"), reason))
        }
    };
    let budget = &settings.budget;
    let all = budget.memory_bytes_max;
    within("memory_bytes", all, 2 * QUERY_BYTES_MIN, usize::MAX)?;
    let each = settings.memory_bytes_max;
    within("query_memory_bytes", each, QUERY_BYTES_MIN, all)?;
    let tenant = budget.tenant_memory_bytes_max;
    within("tenant_memory_bytes", tenant, 0, all)?;
    within("at_once", budget.queries_max, 1, AT_ONCE_CEILING)?;
    let tenant = budget.tenant_queries_max;
    within("tenant_at_once", tenant, 1, budget.queries_max)?;
    within("threads", budget.threads, 1, THREADS_CEILING)?;
    if settings.time_max.is_zero() {
        return Err(refused("queries.time_s", "1 at least"));
    }
    if budget.wait_max > Duration::from_millis(WAIT_MS_CEILING) {
        let reason = format!("at most {WAIT_MS_CEILING}");
        return Err(refused("queries.wait_ms", reason));
    }
    if settings.reuse > Duration::from_millis(REUSE_MS_CEILING) {
        let reason = format!("at most {REUSE_MS_CEILING}");
        return Err(refused("queries.reuse_ms", reason));
    }
    Ok(())
}

/// Memory that this process may have: what its group is allowed, or what the machine has.
fn machine_bytes() -> usize {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let allowed = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let allowed = allowed.iter().filter_map(|path| number(&read(path)));
    let kib = read("/proc/meminfo");
    let kib = kib.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let machine = kib.and_then(number).map(|kib| kib.saturating_mul(1024));
    allowed.chain(machine).min().unwrap_or(MACHINE_BYTES)
}

/// The number that a text begins with; a group without a limit says "max".
fn number(text: &str) -> Option<usize> {
    text.split_whitespace().next()?.parse().ok()
}
