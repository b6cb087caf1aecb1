//! Which log of acknowledged records belongs to which node, so that a log that is missing, old or doubled is noticed
//! before anything is served.
//!
//! A node's log volume holds records that were acknowledged and are in no table yet. `control/nodes/<node>/<version>`
//! says which volume that is: its id, made with its folder, and its generation, which the log raises whenever it is
//! opened and before the node registers.
//!
//! ```text
//!                 another volume              same volume, generation not higher   elsewhere active
//! active     ──▶  Replaced: put it back       Restored: a copy, or from a backup   Elsewhere
//! drained    ──▶  registered                  Restored                             Elsewhere
//! abandoned  ──▶  registered                  Abandoned: its records were given up
//! ```
//! An abandoned volume is remembered for ever: its frames may not come back after others have taken their numbers.

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
        "the log's folder is a copy, or was restored from a backup: put the newest one back, or abandon the node"
    )]
    Restored {
        /// The generation that was registered last.
        registered: u64,
        /// The folder's.
        found: u64,
    },
    /// The folder belongs to another node, which may be running.
    #[error("the log's folder belongs to another node")]
    Elsewhere {
        /// Which.
        node: String,
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
    state: NodeState,
    /// Every volume of this node that was abandoned.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    abandoned: BTreeSet<String>,
    /// The last abandonment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    abandonment: Option<Abandonment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Abandonment {
    reason: String,
    by: String,
    at: Timestamp,
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

    /// Registers the volume that `node` has opened, before it serves anything. `generation` has been raised already.
    ///
    /// # Errors
    /// When the volume is not what was left; then nothing may be served. After any other error the volume is opened, and
    /// its generation raised, once more before this is called again.
    pub async fn register(&self, node: &str, wal: Uuid, generation: u64) -> Result<(), NodeError> {
        let id = wal.to_string();
        self.check_elsewhere(node, &id).await?;
        self.change(node, |registered| {
            let abandoned = match registered {
                None => BTreeSet::new(),
                Some(registered) => {
                    registered.admit(&id, generation)?;
                    registered.abandoned
                }
            };
            Ok(Registration {
                wal: id.clone(),
                generation,
                state: NodeState::Active,
                abandoned,
                abandonment: None,
            })
        })
        .await
    }

    /// Says that every record of the volume is in its table, and that the node has stopped: it may come back with
    /// another volume.
    ///
    /// # Errors
    /// When the node is not registered with this volume.
    pub async fn drained(&self, node: &str, wal: Uuid) -> Result<(), NodeError> {
        let id = wal.to_string();
        self.change(node, |registered| match registered {
            Some(registered) if registered.wal == id && registered.state == NodeState::Active => {
                Ok(Registration {
                    state: NodeState::Drained,
                    ..registered
                })
            }
            _ => Err(NodeError::Unknown),
        })
        .await
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
        let decision = permit.decision();
        if !decision.about().is_system() {
            return Err(NodeError::Refused("the permit is not about the system"));
        }
        if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(NodeError::Refused("a reason has 1 to 1024 bytes"));
        }
        self.change(node, |registered| {
            let mut registered = registered.ok_or(NodeError::Unknown)?;
            registered.state = NodeState::Abandoned;
            registered.abandoned.insert(registered.wal.clone());
            registered.abandonment = Some(Abandonment {
                reason: reason.to_owned(),
                by: decision.subject.clone(),
                at: decision.made_at,
            });
            Ok(registered)
        })
        .await
    }

    /// Whether a volume has no record left that is not in its table: it was drained and is not in use, or abandoned.
    pub(crate) async fn is_over(&self, node: &str, wal: &str) -> Result<bool, NodeError> {
        let latest = self.latest(node).await?;
        Ok(latest.is_some_and(|(_, registered)| {
            let drained = registered.wal == wal && registered.state == NodeState::Drained;
            drained || registered.abandoned.contains(wal)
        }))
    }

    /// A folder that was copied to another node shows here.
    async fn check_elsewhere(&self, node: &str, id: &str) -> Result<(), NodeError> {
        for other in self.documents.list(KIND).await? {
            if other == node {
                continue;
            }
            match self.latest(&other).await? {
                Some((_, theirs)) if theirs.abandoned.contains(id) => {
                    return Err(NodeError::Abandoned);
                }
                Some((_, theirs)) if theirs.wal == id && theirs.state == NodeState::Active => {
                    return Err(NodeError::Elsewhere { node: other });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Compare-and-set.
    async fn change(
        &self,
        node: &str,
        next: impl Fn(Option<Registration>) -> Result<Registration, NodeError> + Send,
    ) -> Result<(), NodeError> {
        for _ in 0..ATTEMPTS_MAX {
            let (version, registered) = self.latest(node).await?.unzip();
            let bytes = Bytes::from(serde_json::to_vec(&next(registered)?)?);
            let put = self
                .documents
                .claim(KIND, node, version.unwrap_or(0) + 1, bytes)
                .await;
            match put {
                Ok(()) => return Ok(()),
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
    /// Whether the node may go on with this volume.
    fn admit(&self, id: &str, generation: u64) -> Result<(), NodeError> {
        if self.abandoned.contains(id) {
            return Err(NodeError::Abandoned);
        }
        if self.wal == id {
            return if generation > self.generation {
                Ok(())
            } else {
                Err(NodeError::Restored {
                    registered: self.generation,
                    found: generation,
                })
            };
        }
        match self.state {
            NodeState::Active => Err(NodeError::Replaced {
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

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    #[tokio::test]
    async fn a_node_comes_back_with_the_volume_it_left_and_no_other() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        nodes.register("a", ONE, 1).await.unwrap();
        nodes.register("a", ONE, 2).await.unwrap();
        for generation in [0, 1, 2] {
            let restored = nodes.register("a", ONE, generation).await;
            assert!(
                matches!(restored, Err(NodeError::Restored { registered: 2, found }) if found == generation),
                "{restored:?}"
            );
        }
        let replaced = nodes.register("a", TWO, 9).await;
        assert!(matches!(replaced, Err(NodeError::Replaced { missed: ONE })));
        let elsewhere = nodes.register("b", ONE, 9).await;
        assert!(matches!(elsewhere, Err(NodeError::Elsewhere { node }) if node == "a"));
        nodes.register("b", TWO, 1).await.unwrap();
        nodes.register("a", ONE, 7).await.unwrap();
    }

    #[tokio::test]
    async fn a_drained_volume_may_be_exchanged() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        nodes.register("a", ONE, 1).await.unwrap();
        assert!(matches!(
            nodes.drained("a", TWO).await,
            Err(NodeError::Unknown)
        ));
        assert!(matches!(
            nodes.drained("b", ONE).await,
            Err(NodeError::Unknown)
        ));
        assert!(!nodes.is_over("a", &ONE.to_string()).await.unwrap());
        nodes.drained("a", ONE).await.unwrap();
        assert!(nodes.is_over("a", &ONE.to_string()).await.unwrap());
        let restored = nodes.register("a", ONE, 1).await;
        assert!(matches!(restored, Err(NodeError::Restored { .. })));
        nodes.register("a", TWO, 1).await.unwrap();
        let replaced = nodes.register("a", ONE, 2).await;
        assert!(matches!(replaced, Err(NodeError::Replaced { missed: TWO })));
    }

    #[tokio::test]
    async fn an_abandoned_volume_never_comes_back() {
        let world = World::new().await;
        let nodes = nodes(&world).await;
        let permit = world.admin("_system").await;
        let unknown = nodes.abandon(&permit, "a", "it burnt").await;
        assert!(matches!(unknown, Err(NodeError::Unknown)));
        nodes.register("a", ONE, 1).await.unwrap();
        for reason in ["", " \n", &"x".repeat(REASON_BYTES_MAX + 1)] {
            let refused = nodes.abandon(&permit, "a", reason).await;
            assert!(matches!(refused, Err(NodeError::Refused(_))), "{reason:?}");
        }
        let other = world.admin("acme").await;
        let refused = nodes.abandon(&other, "a", "it burnt").await;
        assert!(matches!(refused, Err(NodeError::Refused(_))));
        nodes.abandon(&permit, "a", "it burnt").await.unwrap();
        for node in ["a", "b"] {
            let back = nodes.register(node, ONE, 2).await;
            assert!(matches!(back, Err(NodeError::Abandoned)), "{back:?}");
        }
        nodes.register("a", TWO, 1).await.unwrap();
        nodes.drained("a", TWO).await.unwrap();
        for wal in [ONE, TWO] {
            assert!(nodes.is_over("a", &wal.to_string()).await.unwrap());
        }
        let back = nodes.register("a", ONE, 3).await;
        assert!(matches!(back, Err(NodeError::Abandoned)));
    }

    #[tokio::test]
    async fn of_many_copies_that_start_at_once_one_serves() {
        let world = World::new().await;
        let starts = (0..16).map(|_| async {
            let nodes = nodes(&world).await;
            nodes.register("a", ONE, 1).await
        });
        let started = futures::future::join_all(starts).await;
        assert_eq!(started.iter().filter(|start| start.is_ok()).count(), 1);
        let refused = started.into_iter().filter_map(Result::err);
        for error in refused {
            assert!(matches!(error, NodeError::Restored { .. }), "{error:?}");
        }
    }
}
