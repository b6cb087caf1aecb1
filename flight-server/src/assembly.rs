//! The engine of a service, its parts put together.

use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::guard::Gate;
use catalog::ids::RecordIds;
use engine::evidence::EvidenceLog;
use engine::export::{self, Exports};
use engine::ingest::dedupe::Dedup;
use engine::ingest::{Ingest, Review};
use engine::proof::{Logs, Publisher, Witness};
use engine::query::{Queries, Resources};
use engine::receipt::Receipts;
use engine::sequencer::{Feed, Parts, Sequencer};
use engine::table::{TableKind, Tables};

use crate::config::{Config, ExportSettings};
use crate::service::Control;
use crate::stores::Stores;
use crate::volume::Volume;
use crate::witness::asked::HttpWitness;

/// What happens to records.
pub(crate) struct Engine {
    pub(crate) tables: Arc<Tables>,
    pub(crate) sequencer: Arc<Sequencer>,
    pub(crate) evidence: Arc<EvidenceLog>,
    pub(crate) queries: Arc<Queries>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) publisher: Publisher,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) review: Review,
}

impl Engine {
    pub(crate) fn open(
        config: &Config,
        stores: &Stores,
        control: &Control,
        volume: Option<&Volume>,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
    ) -> std::io::Result<Self> {
        let tables = Arc::new(Tables::new(
            stores.silos(),
            Arc::clone(&control.keys),
            Arc::clone(clock),
            Arc::clone(random),
        ));
        let ids = Arc::new(RecordIds::new(Arc::clone(clock), Arc::clone(random)));
        let logs = Arc::new(Logs::new(
            Arc::clone(&tables),
            (
                Arc::clone(&control.registry),
                Arc::clone(&control.keys),
                Arc::clone(&control.schemas),
            ),
            Arc::clone(clock),
            witnesses(config)?,
        ));
        let (feed, heard) = Feed::new();
        let publisher = Publisher::start(Arc::clone(&logs), heard);
        let parts = Parts {
            tables: Arc::clone(&tables),
            registry: Arc::clone(&control.registry),
            keys: Arc::clone(&control.keys),
            clock: Arc::clone(clock),
            random: Arc::clone(random),
            ids: Arc::clone(&ids),
            feed,
        };
        let log = volume.map(|volume| (Arc::clone(&volume.wal), volume.standing()));
        let sequencer = Arc::new(Sequencer::new(parts, log, config.wal.lanes.clone()));
        let evidence = Arc::new(EvidenceLog::new(&sequencer));
        let index = volume.map_or_else(Dedup::in_memory, |volume| volume.index.clone());
        let lease = volume.map(|volume| (Arc::clone(&volume.leases), volume.holder.clone()));
        let keys = Arc::clone(&control.keys);
        let schemas = Arc::clone(&control.schemas);
        let witness = Arc::clone(&evidence) as _;
        let ingest = Ingest::new(&sequencer, keys, schemas, lease, index, witness);
        let ingest = Arc::new(ingest);
        if let Some(volume) = volume {
            evidence.recover(volume.unreleased(TableKind::Evidence));
            ingest.recover_records(volume.unreleased(TableKind::Records));
            ingest.recover_quarantine(volume.unreleased(TableKind::Quarantine));
            publisher.look_back();
        }
        let receipts = Arc::new(Receipts::new(
            Arc::clone(&evidence) as _,
            Arc::clone(&tables),
            Arc::clone(clock),
        ));
        let (read, clock_of) = (Arc::clone(&tables), Arc::clone(clock));
        let resources = Resources::start(&config.queries.budget, Arc::clone(random))?;
        let queries = Queries::new(
            Arc::clone(&tables),
            Arc::clone(&control.schemas),
            (Arc::clone(&receipts), Arc::clone(&control.root)),
            Arc::clone(clock),
            config.queries.limits(),
            resources,
        );
        Ok(Self {
            queries: Arc::new(queries),
            logs,
            publisher,
            receipts,
            tables,
            sequencer,
            evidence,
            review: Review::new(read, Arc::clone(&ingest), ids, clock_of),
            ingest,
        })
    }
}

/// What makes exports, over what answers queries.
pub(crate) fn exports(
    config: &Config,
    stores: &Stores,
    (control, engine, gate): (&Control, &Engine, &Arc<Gate>),
    clock: &Arc<dyn Clock>,
    random: &Arc<dyn Random>,
) -> Exports {
    let parts = export::Parts {
        queries: Arc::clone(&engine.queries),
        logs: Arc::clone(&engine.logs),
        gate: Arc::clone(gate),
        registry: Arc::clone(&control.registry),
        keys: Arc::clone(&control.keys),
        stores: stores.by_silo(),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
    };
    Exports::new(parts, ExportSettings::of(config))
}

fn witnesses(config: &Config) -> std::io::Result<Vec<Arc<dyn Witness>>> {
    let witnesses = config.witnesses.iter().map(|witness| {
        let asked = HttpWitness::new(witness.key.clone(), &witness.url);
        Ok(Arc::new(asked.map_err(std::io::Error::other)?) as Arc<dyn Witness>)
    });
    witnesses.collect()
}
