//! What checks the records of a stream, compiled and kept ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::guard::Decision;
use crate::ids::StreamName;

use super::definition::{Compiled, Mismatch};
use super::error::Error;
use super::registered::{Registered, StreamSchemas};
use super::store::{Place, Schemas};
use super::version::SchemaVersion;

/// The schemas of one stream, ready to check records.
#[derive(Debug)]
pub struct Checker {
    etag: u64,
    schemas: StreamSchemas,
    compiled: BTreeMap<SchemaVersion, Arc<Compiled>>,
}

impl Schemas {
    /// What checks the records of a stream; `None` if it has no schemas.
    ///
    /// # Errors
    /// When it cannot be said which schemas there are, or one cannot be read.
    pub async fn checker(
        &self,
        decision: &Decision,
        stream: &StreamName,
    ) -> Result<Option<Arc<Checker>>, Error> {
        let place = (decision.silo.clone(), decision.tenant.clone());
        let all = self.current(&place).await?;
        let Some(schemas) = all.streams.get(stream) else {
            return Ok(None);
        };
        let at = (place, stream.clone());
        if let Some(checker) = self.checkers.get(&at)
            && checker.etag == all.etag
        {
            return Ok(Some(checker));
        }
        let mut compiled = BTreeMap::new();
        for known in &schemas.versions {
            let one = self.compiled(&at.0, stream, known).await?;
            compiled.insert(known.version, one);
        }
        let checker = Arc::new(Checker {
            etag: all.etag,
            schemas: schemas.clone(),
            compiled,
        });
        self.checkers
            .insert(at, self.clock.now(), Arc::clone(&checker));
        Ok(Some(checker))
    }

    async fn compiled(
        &self,
        place: &Place,
        stream: &StreamName,
        known: &Registered,
    ) -> Result<Arc<Compiled>, Error> {
        let at = (place.1.clone(), known.digest.clone());
        if let Some(compiled) = self.compiled.get(&at) {
            return Ok(compiled);
        }
        let definition = self.definition(place, stream, known).await?;
        let compiled = definition
            .compile()
            .map_err(|fault| Error::Invalid(vec![fault]))?;
        let compiled = Arc::new(compiled);
        self.compiled
            .insert(at, self.clock.now(), Arc::clone(&compiled));
        Ok(compiled)
    }
}

impl Checker {
    /// The schemas it checks by.
    #[must_use]
    pub fn schemas(&self) -> &StreamSchemas {
        &self.schemas
    }

    /// What of a record its schema does not allow. Of a minor version that is not registered nothing is said but that
    /// its major version is.
    #[must_use]
    pub fn mismatches(&self, version: SchemaVersion, record: &Value) -> Vec<Mismatch> {
        if let Some(compiled) = self.compiled.get(&version) {
            return compiled.mismatches(record);
        }
        if self.schemas.majors().contains(&version.major) {
            return Vec::new();
        }
        let known: Vec<String> = self.compiled.keys().map(ToString::to_string).collect();
        vec![Mismatch {
            pointer: "/schemaVersion".to_owned(),
            message: format!("this stream takes records of schema {}", known.join(", ")),
        }]
    }
}
