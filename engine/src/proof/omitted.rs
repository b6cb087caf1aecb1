//! What a log has besides some of its leaves: the hashes that make its root together with theirs.

use super::{Error, LogName, Logs};
use crate::seal::included::Step;
use crate::seal::{Hash, Included, tile};

/// Tiles that are kept while one side of the tree is walked.
const TILES_MAX: usize = 4_096;

impl Logs {
    /// The hashes of the subtrees that have none of the included leaves, in the order in which
    /// [`Included::root`] takes them.
    ///
    /// # Errors
    /// If the log is out of reach, or its tiles do not have them.
    pub(crate) async fn omitted(
        &self,
        log: &LogName,
        included: &Included,
    ) -> Result<Vec<Hash>, Error> {
        let mut hashes = Vec::new();
        if included.size() == 0 {
            return Ok(hashes);
        }
        let prover = self.prover(log).await?;
        let mut prover = prover.ok_or(Error::tampered("a log has no leaves any more"))?;
        for step in included.steps() {
            let Step::Omitted { first, height } = step else {
                continue;
            };
            let part = vec![tile::Node::new(height, first >> height)];
            hashes.extend(prover.hashes(&[part]).await?);
            prover.keep_tiles(TILES_MAX);
        }
        Ok(hashes)
    }
}
