//! The session of one request: what its decision gives it, and nothing that could be added.
//!
//! The only place that builds a session state. There is no setting a client could change, no function that is not listed,
//! no table function, file format or object store. Memory and disk are those of the query's share.

use std::sync::Arc;

use catalog::guard::Decision;
use chrono::DateTime;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::config::SessionConfig;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use object_store::ObjectStore;
use url::Url;

use super::error::Error;
use super::functions::{FUNCTIONS, Functions};
use super::gauge::GaugeMemory;
use super::limits::Limits;
use super::planning::Planning;
use super::resources::Share;
use super::table_name::AUDIT;
use super::tables::{OneCatalog, SessionTables};
use super::verify_logical::VerifyLogical;
use super::verify_physical::VerifyPhysical;
use super::verify_scans::VerifyScans;
use super::yielding::YieldAboveJoins;
use super::zoned::ZONE;

/// Bytes that a sort keeps for merging, at most.
const SORT_MERGE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Parts of a query's memory of which a sort keeps one for merging.
const MERGES_MAX: usize = 32;

/// Builds the session of one request.
pub(crate) fn state(planning: &Planning) -> Result<SessionState, Error> {
    let (tables, limits) = (&planning.tables, &planning.limits);
    let started = DateTime::from_timestamp_micros(planning.now.as_micros());
    let started = started.ok_or(Error::Internal)?;
    let viewer = tables.viewer();
    let verify = VerifyLogical {
        viewer: Arc::clone(viewer),
        limits: limits.clone(),
    };
    let state = SessionStateBuilder::new()
        .with_config(config(tables, limits)?)
        .with_runtime_env(runtime(&planning.share)?)
        .with_catalog_list(Arc::new(OneCatalog(Arc::clone(tables))))
        .with_scalar_functions(FUNCTIONS.scalar())
        .with_aggregate_functions(FUNCTIONS.aggregate())
        .with_window_functions(FUNCTIONS.window())
        .with_expr_planners(Functions::planners())
        .with_analyzer_rule(Arc::new(verify))
        .with_physical_optimizer_rules(physical_rules(viewer.decision(), limits))
        .with_execution_props(ExecutionProps::new().with_query_execution_start_time(started))
        .build();
    Ok(state)
}

fn config(tables: &SessionTables, limits: &Limits) -> Result<SessionConfig, Error> {
    let viewer = tables.viewer();
    let mut config = SessionConfig::new()
        .with_default_catalog_and_schema(viewer.tenant(), AUDIT)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(false)
        .with_target_partitions(limits.target_partitions)
        .with_batch_size(limits.batch_rows)
        .with_extension(Arc::clone(viewer));
    let options = config.options_mut();
    options.execution.time_zone = Some(ZONE.to_owned());
    options.execution.collect_statistics = false;
    // What a sort keeps for merging what it spilled: every one of them, before it has sorted anything.
    options.execution.sort_spill_reservation_bytes =
        (limits.memory_bytes_max / MERGES_MAX).min(SORT_MERGE_BYTES_MAX);
    options.sql_parser.map_string_types_to_utf8view = false;
    options.explain.show_statistics = false;
    Ok(config)
}

/// The memory and disk of one query, and no cache of files, no store.
fn runtime(share: &Share) -> Result<Arc<RuntimeEnv>, Error> {
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::clone(share.memory()))
        .with_disk_manager_builder(share.disk())
        .with_metadata_cache_limit(0)
        .with_object_list_cache_limit(0)
        .with_file_statistics_cache_limit(0)
        .with_object_store_registry(Arc::new(NoStores))
        .build_arc()
        .map_err(|_| Error::Internal)
}

/// The engine's rules between two looks of the verifier: before the first, because statistics can fold a scan away and
/// leave nothing to look at, and after the last, because that is what runs.
fn physical_rules(
    decision: &Arc<Decision>,
    limits: &Limits,
) -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let look = || -> [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 2] {
        let decision_id = decision.id;
        let decision = Arc::clone(decision);
        [
            Arc::new(VerifyPhysical { decision_id }),
            Arc::new(VerifyScans { decision }),
        ]
    };
    let gauge = GaugeMemory {
        batch_bytes_max: limits.memory_bytes_max,
        batch_rows: limits.batch_rows,
        recursion_rounds_max: limits.recursion_rounds_max,
    };
    look()
        .into_iter()
        .chain(PhysicalOptimizer::new().rules)
        .chain([
            Arc::new(YieldAboveJoins) as Arc<_>,
            Arc::new(gauge) as Arc<_>,
        ])
        .chain(look())
        .collect()
}

/// A session reaches no store by name: scans bring their own.
#[derive(Debug)]
struct NoStores;

impl ObjectStoreRegistry for NoStores {
    fn register_store(
        &self,
        _url: &Url,
        _store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        tracing::error!("something tried to add a store to a session");
        None
    }

    fn deregister_store(&self, _url: &Url) -> Result<Arc<dyn ObjectStore>> {
        Err(DataFusionError::from(Error::Internal))
    }

    fn get_store(&self, _url: &Url) -> Result<Arc<dyn ObjectStore>> {
        Err(DataFusionError::from(Error::Internal))
    }
}
