//! Which log of acknowledged records belongs to which node, so that a log that is missing, old or doubled is noticed
//! before anything is served.
//!
//! A node's log volume holds records that were acknowledged and are in no table yet. `control/nodes/<node>/<version>`
//! says which volume that is: its id, made with its folder, and its generation, which grows with every start. The folder
//! says the same, so that one that was copied, or restored from a backup, shows itself by an older generation. The two
//! cannot change at once; a start goes through
//!
//! ```text
//! claim    the document: opening, the next generation, after the folder's        refused: nothing was changed
//! raise    the folder: that generation
//! confirm  the document: active                                                  refused: another start came between
//! ```
//! and nothing is served before the end, so wherever a start breaks off, what the folder says is still known here.
//!
//! ```text
//!                 another volume              same volume, the generation known here     any other generation
//! opening    ──▶  taken if it was never used  opening                                    Restored
//! active     ──▶  Replaced: put it back       opening                                    Restored: a copy, or a backup
//! drained    ──▶  opening                     opening                                    Restored
//! abandoned  ──▶  opening                     Abandoned: its records were given up       Abandoned
//! ```
//! An abandoned volume is remembered for ever: its frames may not come back after others have taken their numbers.
//! Whose volume it is its folder says itself, so a copy of it is no other node's.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::documents::{DocumentError, Documents};
use crate::guard::{Permit, TenantAdmin};

const CONTROL: &str = "control";
const KIND: &str = "nodes";
/// Times a change is made again after somebody else changed the same document, or after no answer.
const ATTEMPTS_MAX: usize = 8;
/// Bytes of the longest reason.
const REASON_BYTES_MAX: usize = 1_024;

/// Why a node may not serve, or its registration was not changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The folder is not the one that this node used last, and that one may hold acknowledged records.
    #[error(
        "the log's folder is another than this node used last, and that one was not drained: put it back, or abandon the node"
    )]
    Replaced {
        /// The volume that is missed.
        missed: Uuid,
    },
    /// The folder is older than the one that was used last: it was copied, or restored from a backup.
    #[error(
        "the log's folder is a copy, was restored from a backup, or a copy of it was started: put the newest one back, readmit it if it is the newest, or abandon the node"
    )]
    Restored {
        /// The generation that was registered last.
        registered: u64,
        /// The folder's.
        found: u64,
    },
    /// The folder was abandoned by an operator.
    #[error("the log's folder was abandoned: begin a new one")]
    Abandoned,
    /// No such node, or it has another volume than is said.
    #[error("no such node")]
    Unknown,
    /// The permit is not about the system, or the reason is empty or too long.
    #[error("{0}")]
    Refused(&'static str),
    /// The registration changes faster than it can be changed.
    #[error("the node's registration has changed")]
    Changed,
    /// The documents.
    #[error("the nodes' documents cannot be used")]
    Documents(#[from] DocumentError),
    /// A document is there and is none of ours.
    #[error("a node's registration cannot be read")]
    Malformed(#[from] serde_json::Error),
    /// A document names a volume that cannot be one.
    #[error("a node's registration names no volume")]
    Volume(#[from] uuid::Error),
}

/// What is known of a node's volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// About to be in use: nothing was served yet since the generation before.
    Opening,
    /// In use, or stopped with acknowledged records in it.
    Active,
    /// Stopped, and all its records are in their tables.
    Drained,
    /// Given up by an operator, with whatever was in it.
    Abandoned,
}

/// One version of a node's document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registration {
    wal: String,
    generation: u64,
    /// The generation that the folder showed when this one was claimed; 0 for a new folder.
    previous: u64,
    state: NodeState,
    /// Every volume of this node that was abandoned.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    abandoned: BTreeSet<String>,
    /// What an operator did that led to this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act: Option<Act>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Act {
    reason: String,
    by: String,
    at: Timestamp,
}

impl Act {
    fn of(permit: &Permit<TenantAdmin>, reason: &str) -> Result<Self, NodeError> {
        let decision = permit.decision();
        if !decision.about().is_system() {
            return Err(NodeError::Refused("the permit is not about the system"));
        }
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(NodeError::Refused("a reason has 1 to 1024 bytes"));
        }
        Ok(Self {
            reason: reason.to_owned(),
            by: decision.subject.clone(),
            at: decision.made_at,
        })
    }
}

/// A generation of a volume that was claimed for one start.
#[derive(Debug)]
pub struct Claim {
    version: u64,
    claimed: Registration,
}

impl Claim {
    /// What the folder has to show next.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.claimed.generation
    }
}

/// A node with the volume of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node's name.
    pub node: String,
    /// The id of its log's volume.
    pub wal: Uuid,
    /// The volume's generation.
    pub generation: u64,
}

/// A running node, which can ask whether it still is the one that is registered.
#[derive(Debug, Clone)]
pub struct Standing {
    nodes: Arc<Nodes>,
    holder: Holder,
}

impl Standing {
    /// The node of this registry.
    pub fn new(nodes: Arc<Nodes>, holder: Holder) -> Self {
        Self { nodes, holder }
    }

    /// Whether nobody has started a copy of its volume since, and no operator has given it up.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn holds(&self) -> Result<bool, NodeError> {
        self.nodes.is_current(&self.holder).await
    }
}

/// All nodes.
#[derive(Debug)]
pub struct Nodes {
    documents: Documents,
}

impl Nodes {
    /// The nodes in the control folder of `store`, the control root.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            documents: Documents::new(store, Path::from(CONTROL)),
        }
    }

    /// Claims the next generation of the volume that `node` is about to open, whose folder is at `generation`: 0 if the
    /// folder is new.
    ///
    /// # Errors
    /// When the volume is not what was left; then the folder may not be touched. After any other error it can be tried
    /// again.
    pub async fn claim(&self, node: &str, wal: Uuid, generation: u64) -> Result<Claim, NodeError> {
        let id = wal.to_string();
        let (version, claimed) = self
            .change(node, |registered| {
                let (known, abandoned) = match registered {
                    None => (0, BTreeSet::new()),
                    Some(registered) => {
                        registered.admit(&id, generation)?;
                        (registered.generation, registered.abandoned)
                    }
                };
                Ok(Registration {
                    wal: id.clone(),
                    generation: known.max(generation) + 1,
                    previous: generation,
                    state: NodeState::Opening,
                    abandoned,
                    act: None,
                })
            })
            .await?;
        Ok(Claim { version, claimed })
    }

    /// Says that the folder shows the generation that was claimed. From then on the node may serve.
    ///
    /// # Errors
    /// When another start with a copy of the folder came between: nothing may be served. After any other error the node
    /// starts anew.
    pub async fn confirm(&self, node: &str, claim: Claim) -> Result<(), NodeError> {
        let Claim { version, claimed } = claim;
        let active = Registration {
            state: NodeState::Active,
            ..claimed
        };
        let bytes = Bytes::from(serde_json::to_vec(&active)?);
        match self.documents.claim(KIND, node, version + 1, bytes).await {
            Ok(()) => return Ok(()),
            Err(DocumentError::VersionTaken) => {}
            Err(error) => return Err(error.into()),
        }
        // Nobody else has this generation: a document that says it is active is the one put above, whose answer was lost.
        match self.latest(node).await? {
            Some((_, registered)) if registered == active => Ok(()),
            Some((_, registered)) => Err(NodeError::Restored {
                registered: registered.generation,
                found: active.generation,
            }),
            None => Err(NodeError::Unknown),
        }
    }

    /// Says that every record of the volume is in its table, and that the node has stopped: it may come back with
    /// another volume.
    ///
    /// # Errors
    /// When the node is not registered with this generation of this volume.
    pub async fn drained(&self, node: &str, wal: Uuid, generation: u64) -> Result<(), NodeError> {
        let id = wal.to_string();
        self.change(node, |registered| match registered {
            Some(registered) if registered.is_current(&id, generation) => Ok(Registration {
                state: NodeState::Drained,
                ..registered
            }),
            _ => Err(NodeError::Unknown),
        })
        .await?;
        Ok(())
    }

    /// Takes a volume of the node up again, whose folder is at `generation`, though a copy of it was started in between.
    /// Whatever runs with another generation takes no records any more. An operator's act, who says that this folder has
    /// the most of what was acknowledged; what it has and the tables lack gets there at the next start.
    ///
    /// # Errors
    /// When there is no such node, it has another volume or an abandoned one, the reason says nothing, or the permit is
    /// not about the system.
    pub async fn readmit(
        &self,
        permit: &Permit<TenantAdmin>,
        (node, wal, generation): (&str, Uuid, u64),
        reason: &str,
    ) -> Result<(), NodeError> {
        let act = Act::of(permit, reason)?;
        let id = wal.to_string();
        self.change(node, |registered| {
            let registered = registered.ok_or(NodeError::Unknown)?;
            if registered.abandoned.contains(&id) {
                return Err(NodeError::Abandoned);
            }
            if registered.wal != id {
                return Err(NodeError::Unknown);
            }
            Ok(Registration {
                generation: registered.generation.max(generation) + 1,
                previous: generation,
                state: NodeState::Opening,
                act: Some(act.clone()),
                ..registered
            })
        })
        .await?;
        Ok(())
    }

    /// Gives up a node's volume, with every acknowledged record in it that is in no table yet, and with it the leases
    /// that it holds. The node must not be running. An operator's act; its evidence is the permit's, and the reason stays
    /// in the document.
    ///
    /// # Errors
    /// When there is no such node, the reason says nothing, or the permit is not about the system.
    pub async fn abandon(
        &self,
        permit: &Permit<TenantAdmin>,
        node: &str,
        reason: &str,
    ) -> Result<(), NodeError> {
        let act = Act::of(permit, reason)?;
        self.change(node, |registered| {
            let mut registered = registered.ok_or(NodeError::Unknown)?;
            registered.state = NodeState::Abandoned;
            registered.abandoned.insert(registered.wal.clone());
            registered.act = Some(act.clone());
            Ok(registered)
        })
        .await?;
        Ok(())
    }

    /// Whether a volume has no record left that is not in its table: it was drained and is not in use, or abandoned.
    pub(crate) async fn is_over(&self, node: &str, wal: &str) -> Result<bool, NodeError> {
        let latest = self.latest(node).await?;
        Ok(latest.is_some_and(|(_, registered)| {
            let drained = registered.wal == wal && registered.state == NodeState::Drained;
            drained || registered.abandoned.contains(wal)
        }))
    }

    /// Whether this is what the node runs with now: of its log no newer generation was claimed, and it is not over.
    pub(crate) async fn is_current(&self, holder: &Holder) -> Result<bool, NodeError> {
        let latest = self.latest(&holder.node).await?;
        let wal = holder.wal.to_string();
        Ok(latest.is_some_and(|(_, registered)| registered.is_current(&wal, holder.generation)))
    }

    /// Compare-and-set; gives the version that was put.
    async fn change(
        &self,
        node: &str,
        next: impl Fn(Option<Registration>) -> Result<Registration, NodeError> + Send,
    ) -> Result<(u64, Registration), NodeError> {
        for _ in 0..ATTEMPTS_MAX {
            let (last, registered) = self.latest(node).await?.unzip();
            let (version, next) = (last.unwrap_or(0) + 1, next(registered)?);
            let bytes = Bytes::from(serde_json::to_vec(&next)?);
            match self.documents.claim(KIND, node, version, bytes).await {
                Ok(()) => return Ok((version, next)),
                Err(DocumentError::VersionTaken) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(NodeError::Changed)
    }

    async fn latest(&self, node: &str) -> Result<Option<(u64, Registration)>, NodeError> {
        match self.documents.latest(KIND, node).await? {
            None => Ok(None),
            Some((version, bytes)) => Ok(Some((version, serde_json::from_slice(&bytes)?))),
        }
    }
}

impl Registration {
    fn is_current(&self, id: &str, generation: u64) -> bool {
        self.state == NodeState::Active && self.wal == id && self.generation == generation
    }

    /// Whether the node may go on with this volume.
    fn admit(&self, id: &str, generation: u64) -> Result<(), NodeError> {
        if self.abandoned.contains(id) {
            return Err(NodeError::Abandoned);
        }
        if self.wal == id {
            let broke_off = self.state == NodeState::Opening && generation == self.previous;
            return if generation == self.generation || broke_off {
                Ok(())
            } else {
                Err(NodeError::Restored {
                    registered: self.generation,
                    found: generation,
                })
            };
        }
        match self.state {
            // A new folder that never served.
            NodeState::Opening if self.previous == 0 => Ok(()),
            NodeState::Opening | NodeState::Active => Err(NodeError::Replaced {
                missed: Uuid::parse_str(&self.wal)?,
            }),
            NodeState::Drained | NodeState::Abandoned => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    async fn nodes(world: &World) -> Nodes {
        Nodes::new(Arc::clone(&world.store) as Arc<dyn ObjectStore>)
    }

    /// A start with a folder that shows this generation; the one that it shows from then on.
    async fn start(nodes: &Nodes, wal: Uuid, generation: u64) -> Result<u64, NodeError> {
        let claim = nodes.claim("a", wal, generation).await?;
        let raised = claim.generation();
        nodes.confirm("a", claim).await?;
        Ok(raised)
    }

    /// The node with the volume ONE.
    fn holder(generation: u64) -> Holder {
        Holder {
            node: "a".to_owned(),
            wal: ONE,
            generation,
        }
    }

    #[track_caller]
    fn assert_restored<T: std::fmt::Debug>(outcome: Result<T, NodeError>) {
        assert!(
            matches!(outcome, Err(NodeError::Restored { .. })),
            "{outcome:?}"
        );
    }

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    #[tokio::test]
    async fn a_node_comes_back_with_the_volume_it_left_and_no_other() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let mut generation = 0;
        for _ in 0..3 {
            let old = generation;
            generation = start(&nodes, ONE, old).await.unwrap();
            assert!(generation > old);
        }
        // However often it is tried.
        for other in [0, 1, 2, 0, 1, 2, generation + 1] {
            let restored = nodes.claim("a", ONE, other).await;
            assert!(
                matches!(restored, Err(NodeError::Restored { registered, found }) if (registered, found) == (generation, other)),
                "{restored:?}"
            );
        }
        let replaced = nodes.claim("a", TWO, 9).await;
        assert!(matches!(replaced, Err(NodeError::Replaced { missed: ONE })));
        start(&nodes, ONE, generation).await.unwrap();
    }

    #[tokio::test]
    async fn a_start_that_broke_off_is_made_again_from_either_side() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        // A new folder that was lost before it served.
        nodes.claim("a", TWO, 0).await.unwrap();
        let first = start(&nodes, ONE, 0).await.unwrap();
        // Before the folder was raised, twice.
        nodes.claim("a", ONE, first).await.unwrap();
        let claim = nodes.claim("a", ONE, first).await.unwrap();
        // After it was.
        let raised = claim.generation();
        assert!(!nodes.is_current(&holder(raised)).await.unwrap());
        let second = start(&nodes, ONE, raised).await.unwrap();
        assert!(nodes.is_current(&holder(second)).await.unwrap());
        // A copy that was made in between.
        for old in [first, raised] {
            assert_restored(nodes.claim("a", ONE, old).await);
        }
        // A known volume is missed, though its start had only begun.
        nodes.claim("a", ONE, second).await.unwrap();
        let replaced = nodes.claim("a", TWO, 0).await;
        assert!(matches!(replaced, Err(NodeError::Replaced { missed: ONE })));
    }

    #[tokio::test]
    async fn of_two_starts_with_one_folder_the_later_serves() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let first = start(&nodes, ONE, 0).await.unwrap();
        let slow = nodes.claim("a", ONE, first).await.unwrap();
        let raised = slow.generation();
        let quick = start(&nodes, ONE, first).await.unwrap();
        assert_restored(nodes.confirm("a", slow).await);
        // Its folder was raised, and is refused for ever.
        assert_restored(nodes.claim("a", ONE, raised).await);
        // Nor does it say for the other that everything is in its table.
        let drained = nodes.drained("a", ONE, raised).await;
        assert!(matches!(drained, Err(NodeError::Unknown)));
        start(&nodes, ONE, quick).await.unwrap();
    }

    #[tokio::test]
    async fn a_drained_volume_may_be_exchanged() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let (one, two) = (ONE.to_string(), TWO.to_string());
        let generation = start(&nodes, ONE, 0).await.unwrap();
        for (node, wal) in [("a", TWO), ("b", ONE)] {
            let unknown = nodes.drained(node, wal, generation).await;
            assert!(matches!(unknown, Err(NodeError::Unknown)));
        }
        assert!(!nodes.is_over("a", &one).await.unwrap());
        nodes.drained("a", ONE, generation).await.unwrap();
        assert!(nodes.is_over("a", &one).await.unwrap());
        assert!(!nodes.is_current(&holder(generation)).await.unwrap());
        assert_restored(nodes.claim("a", ONE, 0).await);
        start(&nodes, TWO, 0).await.unwrap();
        let replaced = nodes.claim("a", ONE, generation).await;
        assert!(matches!(replaced, Err(NodeError::Replaced { missed: TWO })));
        assert!(!nodes.is_over("a", &two).await.unwrap());
    }

    #[tokio::test]
    async fn an_abandoned_volume_never_comes_back() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let permit = world.admin("_system").await;
        let unknown = nodes.abandon(&permit, "a", "it burnt").await;
        assert!(matches!(unknown, Err(NodeError::Unknown)));
        let generation = start(&nodes, ONE, 0).await.unwrap();
        for reason in ["", " \n", &"x".repeat(REASON_BYTES_MAX + 1)] {
            let refused = nodes.abandon(&permit, "a", reason).await;
            assert!(matches!(refused, Err(NodeError::Refused(_))), "{reason:?}");
        }
        let other = world.admin("acme").await;
        let refused = nodes.abandon(&other, "a", "it burnt").await;
        assert!(matches!(refused, Err(NodeError::Refused(_))));
        nodes.abandon(&permit, "a", "it burnt").await.unwrap();
        let back = nodes.claim("a", ONE, generation).await;
        assert!(matches!(back, Err(NodeError::Abandoned)), "{back:?}");
        let generation = start(&nodes, TWO, 0).await.unwrap();
        nodes.drained("a", TWO, generation).await.unwrap();
        for wal in [ONE, TWO] {
            assert!(nodes.is_over("a", &wal.to_string()).await.unwrap());
        }
        let back = nodes.claim("a", ONE, generation).await;
        assert!(matches!(back, Err(NodeError::Abandoned)));
    }

    #[tokio::test]
    async fn the_newest_folder_is_readmitted_after_a_copy_of_it_was_started() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let permit = world.admin("_system").await;
        let newest = start(&nodes, ONE, 0).await.unwrap();
        let copy = start(&nodes, ONE, newest).await.unwrap();
        assert_restored(nodes.claim("a", ONE, newest).await);
        for (node, wal) in [("a", TWO), ("b", ONE)] {
            let unknown = nodes.readmit(&permit, (node, wal, newest), "it is").await;
            assert!(matches!(unknown, Err(NodeError::Unknown)));
        }
        let readmitted = nodes.readmit(&permit, ("a", ONE, newest), "it is the newest");
        readmitted.await.unwrap();
        // The copy, should it still run, is out, and stays out.
        assert!(!nodes.is_current(&holder(copy)).await.unwrap());
        assert_restored(nodes.claim("a", ONE, copy).await);
        let back = start(&nodes, ONE, newest).await.unwrap();
        assert!(back > copy);
        start(&nodes, ONE, back).await.unwrap();
        nodes.abandon(&permit, "a", "it burnt").await.unwrap();
        let abandoned = nodes.readmit(&permit, ("a", ONE, back), "it did not");
        assert!(matches!(abandoned.await, Err(NodeError::Abandoned)));
    }

    #[tokio::test]
    async fn of_many_copies_that_start_at_once_one_serves() {
        let world = World::new().await;
        let first = start(&nodes(&world).await, ONE, 0).await.unwrap();
        let starts = (0..16).map(|_| async {
            let nodes = nodes(&world).await;
            start(&nodes, ONE, first).await
        });
        let started = futures::future::join_all(starts).await;
        let served: Vec<u64> = started.iter().flatten().copied().collect();
        assert!(served.len() <= 1, "{started:?}");
        for error in started.into_iter().filter_map(Result::err) {
            assert!(
                matches!(error, NodeError::Restored { .. } | NodeError::Changed),
                "{error:?}"
            );
        }
        // Whichever it is, no folder that was refused gets in later.
        let nodes = nodes(&world).await;
        let (_, registered) = nodes.latest("a").await.unwrap().unwrap();
        for generation in 0..40 {
            let known = generation == registered.generation
                || registered.state == NodeState::Opening && generation == first;
            assert_eq!(
                registered.admit(&ONE.to_string(), generation).is_ok(),
                known
            );
        }
    }
}
