//! Everything a listener needs, built once from the configuration and handed to each.
//!
//! ```text
//! config --> stores, KMS --> key ring --> registry --> policies
//!               |                    '--> tables --> lanes --> evidence --> gate
//!               '--> volume ------------------'         '----> ingest, queries --> exports
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use catalog::clock::{Clock, Random};
use catalog::context::{IngressHeaders, TenantContext};
use catalog::guard::{Denial, Gate};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyError, KeyRing, Kms, LocalKms, RootSecret, SecretKey};
use catalog::node::Nodes;
use catalog::policy::Policies;
use catalog::schema::Schemas;
use catalog::tenant::{self, OnboardError, Registry};
use engine::evidence::EvidenceLog;
use engine::export::Exports;
use engine::ingest::{Ingest, Review};
use engine::proof::{Logs, Publisher};
use engine::query::Queries;
use engine::receipt::Receipts;
use engine::sequencer::Sequencer;
use engine::table::Tables;
use http::{HeaderMap, header};
use tokio::time::Instant;

use crate::assembly::{self, Engine};
use crate::auth::developer::{self, Developer};
use crate::auth::jobs::JobTokens;
use crate::auth::{self, Authenticator};
use crate::config::Config;
use crate::limits::Rates;
use crate::observe::{self, Metrics};
use crate::problem::Problem;
use crate::stores::{self, Stores};
use crate::volume::{self, Volume};

pub use crate::surroundings::Surroundings;

/// Why a service cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stores.
    #[error("a storage root is not to be had")]
    Stores(#[from] stores::Error),
    /// The key folder, or a key in it.
    #[error("the keys cannot be opened")]
    Keys(#[from] KeyError),
    /// The reserved tenant, which takes the evidence that belongs to no other.
    #[error("the system tenant cannot be made")]
    System(#[from] OnboardError),
    /// The development issuer's key.
    #[error("the development issuer cannot be set up")]
    Developer(#[from] developer::Error),
    /// A trusted issuer.
    #[error("a trusted issuer cannot be set up")]
    Issuer(#[from] auth::Error),
    /// The node's own disk.
    #[error("the node's own disk cannot be used")]
    Volume(#[from] volume::Error),
    /// The threads that queries run on.
    #[error("the system gives no threads")]
    Threads(#[source] std::io::Error),
    /// Metrics.
    #[error("nothing can be observed")]
    Observe(#[from] observe::Error),
}

/// The parts of a running server. Handlers use them; none of them knows of a wire.
#[derive(Debug)]
pub struct Service {
    /// What was configured.
    pub config: Config,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where chance comes from.
    pub random: Arc<dyn Random>,
    /// The keys in use.
    pub keys: Arc<KeyRing>,
    /// Which tenants there are.
    pub registry: Arc<Registry>,
    /// What their policies say.
    pub policies: Arc<Policies>,
    /// Which nodes there are, and whose log is whose.
    pub nodes: Arc<Nodes>,
    /// What their records look like.
    pub schemas: Arc<Schemas>,
    /// Who decides.
    pub gate: Arc<Gate>,
    /// Where records lie.
    pub tables: Arc<Tables>,
    /// What reads them.
    pub queries: Arc<Queries>,
    /// What makes files of them.
    pub exports: Arc<Exports>,
    /// What proves that they are what they were.
    pub logs: Arc<Logs>,
    publisher: Publisher,
    /// What their answers were.
    pub receipts: Arc<Receipts>,
    /// What writes them.
    pub ingest: Arc<Ingest>,
    /// What becomes of those that were kept aside.
    pub review: Review,
    /// How tables are written.
    pub sequencer: Arc<Sequencer>,
    evidence: Arc<EvidenceLog>,
    volume: Option<Volume>,
    /// Who calls.
    pub authenticator: Authenticator,
    /// Gives tokens to jobs.
    pub(crate) jobs: Arc<JobTokens>,
    /// How much each tenant may ask for.
    pub rates: Rates,
    /// The development issuer, where it runs.
    pub developer: Option<Developer>,
    /// What is counted.
    pub metrics: Metrics,
    root: Arc<RootSecret>,
    home: SiloId,
    /// Whether the system tenant is known to be there.
    founded: AtomicBool,
    stopping: AtomicBool,
}

/// Chooses the TLS implementation of this process. Two are linked, and rustls does not choose between them.
/// Every `main` and every test harness that talks TLS calls this; [`Service::build`] does too.
pub fn install_tls_provider() {
    // An error says that one is installed already, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
}

impl Service {
    /// Builds a service that takes records, on the system's clock and chance.
    ///
    /// # Errors
    /// When storage, keys, the write-ahead log or metrics are not to be had.
    pub async fn build(config: Config) -> Result<Arc<Self>, Error> {
        Self::build_in(config, Surroundings::default()).await
    }

    /// Builds a service for a command that runs beside a server: it has no log of its own and takes no records.
    ///
    /// # Errors
    /// When storage, keys or metrics are not to be had.
    pub async fn beside(config: Config) -> Result<Arc<Self>, Error> {
        Self::assemble(config, Surroundings::default(), false).await
    }

    /// The same as [`Self::build`], with time, chance, key service and stores given.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub async fn build_in(config: Config, around: Surroundings) -> Result<Arc<Self>, Error> {
        let service = Self::assemble(config, around, true).await?;
        for tenant in service.volume.iter().flat_map(Volume::tenants) {
            service.metrics.introduce(tenant);
        }
        Ok(service)
    }

    async fn assemble(
        config: Config,
        around: Surroundings,
        takes_records: bool,
    ) -> Result<Arc<Self>, Error> {
        let Surroundings {
            clock,
            random,
            kms,
            stores,
        } = around;
        install_tls_provider();
        let metrics = Metrics::install(config.limits.metric_tenants_max)?;
        let rates = Rates::new(config.limits.rates.clone(), Arc::clone(&clock));
        let kms = match kms {
            Some(kms) => kms,
            None => Arc::new(LocalKms::open(&config.keys_folder, Arc::clone(&random))?),
        };
        let stores = match stores {
            Some(stores) => stores,
            None => Stores::open(&config, &*random).await?,
        };
        let control = Control::open(kms, &stores, &clock, &random).await?;
        let tokens = Tokens::open(&config, &control.root, &clock, &*random)?;
        let volume = if takes_records {
            let nodes = Arc::clone(&control.nodes);
            Some(Volume::open(&config.wal, nodes, stores.by_silo(), &random).await?)
        } else {
            None
        };
        let engine = Engine::open(&config, &stores, &control, volume.as_ref(), &clock, &random)
            .map_err(Error::Threads)?;
        let gate = Gate::new(
            Arc::clone(&control.registry),
            Arc::clone(&control.policies),
            Arc::clone(&engine.evidence) as _,
            Arc::clone(&clock),
        );
        let gate = Arc::new(gate);
        let parts = (&control, &engine, &gate);
        let exports = assembly::exports(&config, &stores, parts, &clock, &random);
        Ok(Arc::new(Self {
            config,
            clock,
            random,
            keys: control.keys,
            registry: control.registry,
            policies: control.policies,
            nodes: control.nodes,
            schemas: control.schemas,
            gate,
            tables: engine.tables,
            queries: engine.queries,
            exports: Arc::new(exports),
            logs: engine.logs,
            publisher: engine.publisher,
            receipts: engine.receipts,
            ingest: engine.ingest,
            review: engine.review,
            sequencer: engine.sequencer,
            evidence: engine.evidence,
            volume,
            authenticator: tokens.authenticator,
            jobs: tokens.jobs,
            rates,
            developer: tokens.developer,
            metrics,
            root: control.root,
            home: control.home,
            founded: AtomicBool::new(control.founded),
            stopping: AtomicBool::new(false),
        }))
    }

    /// What a request's headers say beside its token.
    #[must_use]
    pub fn ingress(&self, headers: &HeaderMap) -> IngressHeaders {
        let pairs = headers.iter().map(|(name, value)| {
            // What is not text cannot be a name of ours either: it is refused where it is looked at.
            let text = std::str::from_utf8(value.as_bytes()).unwrap_or("\u{fffd}");
            (name.as_str(), text)
        });
        IngressHeaders::from_pairs(pairs, &*self.random)
    }

    /// Who makes this request: its token verified, its tenant found. A refusal names the request, and what there is
    /// to record of it has been recorded.
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn context(&self, headers: &HeaderMap) -> Result<TenantContext, Problem> {
        let ingress = self.ingress(headers);
        match self.identify(headers, &ingress).await {
            Ok(context) => {
                observe::identified(context.tenant());
                self.introduce(context.tenant()).await;
                Ok(context)
            }
            Err(denial) => Err(Problem::from(denial).correlated(ingress.correlation())),
        }
    }

    /// Has a tenant counted under its name, if there is one of that name: a token may claim to be of any.
    async fn introduce(&self, tenant: &TenantId) {
        if !self.metrics.names(tenant) && matches!(self.registry.get(tenant).await, Ok(Some(_))) {
            self.metrics.introduce(tenant);
        }
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        ingress: &IngressHeaders,
    ) -> Result<TenantContext, Denial> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let authorization = match (values.next(), values.next()) {
            (None, _) => None,
            (Some(value), None) => Some(value.to_str().map_err(|_| Denial::InvalidToken)?),
            // Which of them would count is a question nobody should be able to ask.
            (Some(_), Some(_)) => return Err(Denial::InvalidToken),
        };
        let claims = self.authenticator.authenticate(authorization).await?;
        self.gate.identify(&claims, ingress).await
    }

    /// Seals Flight tickets. The same in every process over one control root, so that one redeems another's tickets.
    /// There is none before the key service has answered for the first time.
    pub(crate) fn ticket_key(&self) -> Option<SecretKey> {
        Some(self.root.kept()?.derive("tickets"))
    }

    /// Seals the cursors of pages; otherwise as that of tickets.
    pub(crate) fn cursor_key(&self) -> Option<SecretKey> {
        Some(self.root.kept()?.derive("cursors"))
    }

    /// Seals links to files of exports; otherwise as that of tickets.
    pub(crate) fn link_key(&self) -> Option<SecretKey> {
        Some(self.root.kept()?.derive("export links"))
    }

    /// Makes the system tenant, where the key service was away when this process started.
    pub async fn found(&self) {
        if self.founded.load(Ordering::Acquire) {
            return;
        }
        match tenant::onboard_system(&self.registry, &self.policies, &self.home).await {
            Ok(_) => self.founded.store(true, Ordering::Release),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "nothing is served before the key service answers"
            ),
        }
    }

    /// Says that this process is about to stop, so that nobody sends it new work.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Puts into the tables what is in the log alone, as far as the time goes, and closes the log. Gives how many tables
    /// lack something.
    pub async fn drain(&self, time_max: Duration) -> usize {
        let now = Instant::now();
        // Evidence last: the others' last requests leave some. Whatever they do, it has half of the time.
        let records = self.ingest.drain(now + time_max / 2).await;
        let left = records + self.evidence.drain(now + time_max).await;
        self.publisher.finish(now + time_max).await;
        if let Some(volume) = &self.volume {
            volume.close(left).await;
        }
        left
    }

    /// Whether this process can serve: the registry can be read, and nobody has asked it to stop.
    ///
    /// # Errors
    /// Why it cannot, in words for whoever watches it.
    pub async fn readiness(&self) -> Result<(), &'static str> {
        let registry = self.registry.get(&TenantId::system()).await;
        match (registry, self.is_stopping()) {
            (_, true) => Err("stopping"),
            (Ok(Some(_)), false) => Ok(()),
            (Err(tenant::Error::Keys(_)), false) => Err("the key service does not answer"),
            (Ok(None) | Err(_), false) => Err("the registry cannot be read"),
        }
    }

    /// Whether this process is about to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Who makes tokens, and who verifies them.
struct Tokens {
    authenticator: Authenticator,
    jobs: Arc<JobTokens>,
    developer: Option<Developer>,
}

impl Tokens {
    fn open(
        config: &Config,
        root: &Arc<RootSecret>,
        clock: &Arc<dyn Clock>,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let root = Arc::clone(root);
        let jobs = JobTokens::new(move || Some(root.kept()?.derive("job tokens")));
        let jobs = Arc::new(jobs);
        let developer = config.auth.developer;
        let developer = developer.then(|| Developer::open(&config.keys_folder, random));
        let developer = developer.transpose()?;
        let authenticator = Authenticator::new(
            &config.auth,
            developer.as_ref(),
            Arc::clone(&jobs),
            Arc::clone(clock),
        )?;
        Ok(Self {
            authenticator,
            jobs,
            developer,
        })
    }
}

/// Keys, tenants and policies.
pub(crate) struct Control {
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) root: Arc<RootSecret>,
    pub(crate) home: SiloId,
    pub(crate) founded: bool,
}

impl Control {
    async fn open(
        kms: Arc<dyn Kms>,
        stores: &Stores,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
    ) -> Result<Self, Error> {
        let home = stores.home()?;
        let keys = Arc::new(KeyRing::new(
            Arc::clone(&kms),
            stores.by_silo(),
            Arc::clone(clock),
            Arc::clone(random),
        ));
        let root = Arc::new(RootSecret::new(
            Arc::clone(&kms),
            Arc::clone(stores.control()),
            home.clone(),
            Arc::clone(random),
        ));
        let registry = Arc::new(Registry::new(
            Arc::clone(&root),
            Arc::clone(stores.control()),
            Arc::clone(&keys),
            Arc::clone(clock),
            Arc::clone(random),
        ));
        let policies = Arc::new(Policies::new(
            stores.by_silo(),
            Arc::clone(&registry),
            kms,
            Arc::clone(clock),
        ));
        let schemas = Schemas::new(
            stores.by_silo(),
            Arc::clone(&registry),
            Arc::clone(&keys),
            Arc::clone(clock),
            Arc::clone(random),
        );
        if let Err(error) = root.get().await
            && !error.is_outage()
        {
            return Err(error.into());
        }
        // What was acknowledged lies on this node's disk, so that an outage of the key service is no reason not to start:
        // everybody is told of it instead. Keys that do not fit the data are one.
        let founded = match tenant::onboard_system(&registry, &policies, home).await {
            Ok(_) => true,
            Err(error) if error.is_outage() => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the key service does not answer: starting without it"
                );
                false
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            keys,
            registry,
            policies,
            nodes: Arc::new(Nodes::new(Arc::clone(stores.control()))),
            schemas: Arc::new(schemas),
            root,
            home: home.clone(),
            founded,
        })
    }
}
