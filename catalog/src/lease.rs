//! Which node numbers a tenant's records: one at a time, for as long as it has promised numbers that are in no table.
//!
//! `tenants/<tenant>/control/leases/records/<version>` in the tenant's silo, changed by compare-and-set:
//!
//! ```text
//! none, released ──acquire──▶ held by a node's volume ──release──▶ released
//!                    held by the same volume ──acquire──▶ held, once more     by the generation that is registered now
//!                    held by a volume that was drained or abandoned ──acquire──▶ held
//! ```
//! Time frees no lease: a node that died may come back with acknowledged records in its log, and their receipts name
//! the numbers. Taking a lease always writes a version, so that of two that take it at once one is told.
//!
//! An operator may abandon a node that still runs, or start a copy of its volume. So whoever takes a lease from another
//! process that has not released it also raises its **fence**, to the version taken, and first of all brings that into
//! the table that the lease is for; a table with another fence than one's own is not written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::documents::{DocumentError, Documents};
use crate::ids::{SiloId, TenantId};
use crate::node::{Holder, NodeError, Nodes};

const KIND: &str = "leases";
const ID: &str = "records";
/// Times a lease is read again after somebody else changed it.
const ATTEMPTS_MAX: usize = 8;

/// Why there is no lease, or it was not given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another node numbers the tenant's records.
    #[error("another node holds the tenant's lease")]
    HeldBy {
        /// Which.
        node: String,
    },
    /// An operator has given up the asking node's volume, or has started another process with a copy of it.
    #[error("this node was abandoned, or started elsewhere: its tenants are free for others")]
    Abandoned,
    /// The lease is not held, or no longer.
    #[error("the tenant's lease is not held any more")]
    Lost,
    /// It changes faster than it can be taken: try again.
    #[error("the tenant's lease has changed")]
    Changed,
    /// This process does not serve the tenant's silo.
    #[error("the tenant's silo is not served here")]
    WrongSilo,
    /// The documents: try again. The lease may have been taken or not.
    #[error("the tenant's lease cannot be read or written")]
    Documents(#[from] DocumentError),
    /// The holder's registration.
    #[error("the holder of the tenant's lease cannot be looked up")]
    Node(#[from] NodeError),
    /// The document is none of ours.
    #[error("the tenant's lease cannot be read")]
    Malformed(#[from] serde_json::Error),
}

/// The right to number the records of a tenant.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    tenant: TenantId,
    silo: SiloId,
    version: u64,
    fence: u64,
}

impl Lease {
    /// The version at which the lease was last taken from a node that had not released it; 0 if it never was.
    #[must_use]
    pub fn fence(&self) -> u64 {
        self.fence
    }
}

/// One version of the document.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    node: String,
    wal: String,
    generation: u64,
    state: State,
    #[serde(default)]
    fence: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Held,
    Released,
}

/// The leases of all tenants.
#[derive(Debug)]
pub struct Leases {
    stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    nodes: Arc<Nodes>,
    documents: Mutex<HashMap<(SiloId, TenantId), Arc<Documents>>>,
}

impl Leases {
    /// Leases in the stores of the silos, each rooted at its silo.
    pub fn new(stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>, nodes: Arc<Nodes>) -> Self {
        Self {
            stores,
            nodes,
            documents: Mutex::default(),
        }
    }

    /// Takes the lease of a tenant.
    ///
    /// # Errors
    /// [`LeaseError::HeldBy`] while another node has it, [`LeaseError::Abandoned`] for ever after that was done to the
    /// holder.
    pub async fn acquire(
        &self,
        tenant: &TenantId,
        silo: &SiloId,
        holder: &Holder,
    ) -> Result<Lease, LeaseError> {
        let documents = self.documents(tenant, silo)?;
        let (wal, generation) = (holder.wal.to_string(), holder.generation);
        for _ in 0..ATTEMPTS_MAX {
            let found = latest(&documents).await?;
            // After the lease was read: a start elsewhere in between takes the version that is next here.
            if !self.nodes.is_current(holder).await? {
                return Err(LeaseError::Abandoned);
            }
            let (version, fence) = match found {
                None => (1, 0),
                Some((last, entry)) if entry.state == State::Held => {
                    let same_volume = entry.wal == wal;
                    if !same_volume && !self.nodes.is_over(&entry.node, &entry.wal).await? {
                        return Err(LeaseError::HeldBy { node: entry.node });
                    }
                    let same_process = same_volume && entry.generation == generation;
                    (last + 1, if same_process { entry.fence } else { last + 1 })
                }
                Some((last, entry)) => (last + 1, entry.fence),
            };
            let held = Entry {
                node: holder.node.clone(),
                wal: wal.clone(),
                generation,
                state: State::Held,
                fence,
            };
            if put(&documents, version, &held).await? {
                return Ok(Lease {
                    tenant: tenant.clone(),
                    silo: silo.clone(),
                    version,
                    fence,
                });
            }
        }
        Err(LeaseError::Changed)
    }

    /// Gives a lease back, once every record that was numbered under it is in its table.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when it was given away in between.
    pub async fn release(&self, lease: Lease) -> Result<(), LeaseError> {
        let documents = self.documents(&lease.tenant, &lease.silo)?;
        let (version, entry) = latest(&documents).await?.ok_or(LeaseError::Lost)?;
        if version != lease.version {
            return Err(LeaseError::Lost);
        }
        let released = Entry {
            state: State::Released,
            ..entry
        };
        if put(&documents, version + 1, &released).await? {
            Ok(())
        } else {
            Err(LeaseError::Lost)
        }
    }

    /// The same documents for the same tenant, so that the highest version seen is remembered.
    fn documents(&self, tenant: &TenantId, silo: &SiloId) -> Result<Arc<Documents>, LeaseError> {
        let store = self.stores.get(silo).ok_or(LeaseError::WrongSilo)?;
        let mut documents = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let of_tenant = documents
            .entry((silo.clone(), tenant.clone()))
            .or_insert_with(|| {
                let prefix = Path::from_iter(["tenants", tenant.as_str(), "control"]);
                Arc::new(Documents::new(Arc::clone(store), prefix))
            });
        Ok(Arc::clone(of_tenant))
    }
}

async fn latest(documents: &Documents) -> Result<Option<(u64, Entry)>, LeaseError> {
    match documents.latest(KIND, ID).await? {
        None => Ok(None),
        Some((version, bytes)) => Ok(Some((version, serde_json::from_slice(&bytes)?))),
    }
}

/// Whether this was the next version.
async fn put(documents: &Documents, version: u64, entry: &Entry) -> Result<bool, LeaseError> {
    let bytes = Bytes::from(serde_json::to_vec(entry)?);
    match documents.claim(KIND, ID, version, bytes).await {
        Ok(()) => Ok(true),
        Err(DocumentError::VersionTaken) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use object_store::local::LocalFileSystem;
    use object_store::memory::InMemory;
    use uuid::Uuid;

    use super::*;
    use crate::world::{World, id, silo};

    /// A process: it remembers nothing of the others.
    fn process(store: &Arc<dyn ObjectStore>) -> (Arc<Nodes>, Leases) {
        let nodes = Arc::new(Nodes::new(Arc::clone(store)));
        let stores = BTreeMap::from([(silo(), Arc::clone(store))]);
        (Arc::clone(&nodes), Leases::new(stores, nodes))
    }

    fn holder(number: u128) -> Holder {
        Holder {
            node: format!("node-{number}"),
            wal: Uuid::from_u128(number),
            generation: 1,
        }
    }

    /// The node starts, with a folder of this generation.
    async fn start(nodes: &Nodes, node: &Holder, generation: u64) -> u64 {
        let claim = nodes.claim(&node.node, node.wal, generation).await.unwrap();
        let raised = claim.generation();
        nodes.confirm(&node.node, claim).await.unwrap();
        raised
    }

    #[track_caller]
    fn assert_held<T>(outcome: Result<T, LeaseError>, by: &str) {
        assert!(matches!(outcome, Err(LeaseError::HeldBy { node }) if node == by));
    }

    #[tokio::test]
    async fn one_node_at_a_time_and_a_restarted_one_goes_on() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (nodes, leases) = process(&store);
        for number in 1..=2 {
            start(&nodes, &holder(number), 0).await;
        }
        let (acme, silo) = (id("acme"), silo());
        let first = leases.acquire(&acme, &silo, &holder(1)).await.unwrap();
        let (_, other) = process(&store);
        assert_held(other.acquire(&acme, &silo, &holder(2)).await, "node-1");
        other
            .acquire(&id("other"), &silo, &holder(2))
            .await
            .unwrap();

        let (_, restarted) = process(&store);
        let again = restarted.acquire(&acme, &silo, &holder(1)).await.unwrap();
        assert!(matches!(leases.release(first).await, Err(LeaseError::Lost)));
        assert_held(other.acquire(&acme, &silo, &holder(2)).await, "node-1");
        restarted.release(again).await.unwrap();
        other.acquire(&acme, &silo, &holder(2)).await.unwrap();
        assert_held(leases.acquire(&acme, &silo, &holder(1)).await, "node-2");
        let elsewhere = leases
            .acquire(&acme, &SiloId::parse("us").unwrap(), &holder(1))
            .await;
        assert!(matches!(elsewhere, Err(LeaseError::WrongSilo)));
    }

    #[tokio::test]
    async fn a_node_that_is_over_holds_nothing() {
        let world = World::new().await;
        let store = Arc::clone(&world.store) as Arc<dyn ObjectStore>;
        let (nodes, leases) = process(&store);
        let (acme, silo) = (id("acme"), silo());
        for number in 1..=3 {
            start(&nodes, &holder(number), 0).await;
        }
        leases.acquire(&acme, &silo, &holder(1)).await.unwrap();
        assert_held(leases.acquire(&acme, &silo, &holder(2)).await, "node-1");
        nodes.drained("node-1", holder(1).wal, 1).await.unwrap();
        leases.acquire(&acme, &silo, &holder(2)).await.unwrap();
        assert_held(leases.acquire(&acme, &silo, &holder(3)).await, "node-2");
        let permit = world.admin("_system").await;
        nodes
            .abandon(&permit, "node-2", "its disk is gone")
            .await
            .unwrap();
        // The node goes on with another volume; what the old one held is free all the same.
        let other = Holder {
            wal: Uuid::from_u128(22),
            ..holder(2)
        };
        start(&nodes, &other, 0).await;
        leases.acquire(&acme, &silo, &holder(3)).await.unwrap();
        let abandoned = leases.acquire(&acme, &silo, &holder(2)).await;
        assert!(matches!(abandoned, Err(LeaseError::Abandoned)));
    }

    #[tokio::test]
    async fn what_is_taken_and_not_given_raises_the_fence_and_nothing_lowers_it() {
        let world = World::new().await;
        let store = Arc::clone(&world.store) as Arc<dyn ObjectStore>;
        let (nodes, leases) = process(&store);
        for number in 1..=3 {
            start(&nodes, &holder(number), 0).await;
        }
        let acquire = async |number| {
            let lease = leases.acquire(&id("acme"), &silo(), &holder(number)).await;
            lease.unwrap()
        };
        let first = acquire(1).await;
        assert_eq!(first.fence(), 0);
        leases.release(first).await.unwrap();
        assert_eq!(acquire(2).await.fence(), 0);
        let permit = world.admin("_system").await;
        nodes
            .abandon(&permit, "node-2", "it is gone")
            .await
            .unwrap();
        let taken = acquire(3).await;
        assert_eq!((taken.version, taken.fence()), (4, 4));
        let again = acquire(3).await;
        assert_eq!((again.version, again.fence()), (5, 4));
        leases.release(again).await.unwrap();
        assert_eq!(acquire(1).await.fence(), 4);
    }

    /// Somebody starts a copy of a running node's volume.
    #[tokio::test]
    async fn what_runs_is_fenced_off_by_a_copy_of_it_and_takes_nothing_any_more() {
        let world = World::new().await;
        let store = Arc::clone(&world.store) as Arc<dyn ObjectStore>;
        let (nodes, leases) = process(&store);
        let original = holder(1);
        start(&nodes, &original, 0).await;
        let first = leases.acquire(&id("acme"), &silo(), &original).await;
        let first = first.unwrap();
        let copy = Holder {
            generation: start(&nodes, &original, 1).await,
            ..holder(1)
        };
        for tenant in ["acme", "globex"] {
            let refused = leases.acquire(&id(tenant), &silo(), &original).await;
            assert!(matches!(refused, Err(LeaseError::Abandoned)));
        }
        let taken = leases.acquire(&id("acme"), &silo(), &copy).await.unwrap();
        assert!(taken.fence() > first.fence());
        assert!(matches!(leases.release(first).await, Err(LeaseError::Lost)));
    }

    #[tokio::test]
    async fn without_the_store_there_is_no_lease() {
        let world = World::new().await;
        let store = Arc::clone(&world.store) as Arc<dyn ObjectStore>;
        let (nodes, leases) = process(&store);
        start(&nodes, &holder(1), 0).await;
        world.store.off.store(true, Ordering::SeqCst);
        let outcome = leases.acquire(&id("acme"), &silo(), &holder(1)).await;
        assert!(matches!(
            outcome,
            Err(LeaseError::Documents(_) | LeaseError::Node(_))
        ));
        world.store.off.store(false, Ordering::SeqCst);
        leases
            .acquire(&id("acme"), &silo(), &holder(1))
            .await
            .unwrap();
    }

    /// Eight rounds in which many ask at once, each a process of its own; whoever wins gives the lease back.
    async fn race(store: Arc<dyn ObjectStore>) {
        const NODES: u128 = 24;
        let nodes = Nodes::new(Arc::clone(&store));
        for number in 0..NODES {
            start(&nodes, &holder(number), 0).await;
        }
        for round in 0..8 {
            let asking: Vec<_> = (0..NODES)
                .map(|number| {
                    let (_, leases) = process(&store);
                    tokio::spawn(async move {
                        let lease = leases.acquire(&id("acme"), &silo(), &holder(number)).await;
                        (lease, leases)
                    })
                })
                .collect();
            let mut won = Vec::new();
            for asked in asking {
                match asked.await.unwrap() {
                    (Ok(lease), leases) => won.push((lease, leases)),
                    (Err(LeaseError::HeldBy { .. }), _) => {}
                    (Err(error), _) => panic!("{error:?}"),
                }
            }
            assert_eq!(won.len(), 1, "round {round}");
            for (lease, leases) in won {
                leases.release(lease).await.unwrap();
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_that_ask_at_once_one_has_it_in_memory() {
        race(Arc::new(InMemory::new())).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_that_ask_at_once_one_has_it_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        race(Arc::new(
            LocalFileSystem::new_with_prefix(folder.path()).unwrap(),
        ))
        .await;
    }
}
