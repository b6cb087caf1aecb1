//! The registry: which versions each stream of a tenant has, sealed and versioned like all that is a tenant's own.
//!
//! ```text
//! tenants/<tenant>/control/schemas/registry/<n>   all streams: versions, upcasters, deprecations; never a schema's text
//! tenants/<tenant>/control/schema/<stream>/<n>    the text of the n-th schema that was sent for the stream
//! ```
//! Creating the next version of the first is what registers; a text that no version names was never registered. Both
//! are sealed under a secret of the tenant.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;

use crate::clock::{Clock, Random};
use crate::documents::Documents;
use crate::guard::{Decision, Permit, SchemaRead, SchemaWrite};
use crate::ids::{SiloId, StreamName, TenantId};
use crate::keys::{Cache, KeyRing};
use crate::tenant::{Registry, TenantRecord};

use super::checker::Checker;
use super::compatibility::{Comparison, compare};
use super::definition::{Compiled, Definition};
use super::documents::Known;
use super::error::Error;
use super::registered::{
    DEPRECATED_DAYS_MAX, DEPRECATED_DAYS_MIN, Deprecation, Registered, Required, StreamSchemas,
    TenantSchemas, VERSIONS_MAX,
};
use super::upcaster::Upcaster;
use super::version::SchemaVersion;

/// How long what was read is remembered. While the store says that nothing has changed, no key is needed again.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3_600);
const TENANTS_CACHED_MAX: usize = 2_000;
/// Compiled schemas that are kept ready.
const COMPILED_MAX: usize = 256;
/// How often a lost race for a document version is run again.
pub(super) const RACES_MAX: usize = 8;
/// Levels by which all upcasters of a stream together may make a record deeper.
const DEEPENING_MAX: usize = 32;
/// Steps of all upcasters of a stream together. What a record can grow by is what so many defaults and their keys hold.
pub(super) const CHAIN_STEPS_MAX: usize = 512;

/// A schema to be registered, or to be checked whether it could be.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Of which stream.
    pub stream: StreamName,
    /// As which version.
    pub version: SchemaVersion,
    /// JSON text of the schema.
    pub schema: Vec<u8>,
    /// How records of the version before are read as records of this one.
    pub upcaster: Option<Upcaster>,
    /// What this and later versions must be able to; `None` leaves it as it is.
    pub required: Option<Required>,
}

/// All tenants' schemas.
#[derive(Debug)]
pub struct Schemas {
    pub(super) stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
    pub(super) registry: Arc<Registry>,
    pub(super) keys: Arc<KeyRing>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) documents: Mutex<HashMap<Place, Arc<Documents>>>,
    pub(super) current: Cache<Place, Known>,
    pub(super) checkers: Cache<(Place, StreamName), Checker>,
    pub(super) compiled: Cache<(TenantId, String), Compiled>,
}

/// A tenant in its silo.
pub(super) type Place = (SiloId, TenantId);

impl Schemas {
    /// Schemas in the stores of the silos, each rooted at its silo.
    pub fn new(
        stores: BTreeMap<SiloId, Arc<dyn ObjectStore>>,
        registry: Arc<Registry>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let cache_clock = || Arc::clone(&clock);
        Self {
            stores,
            registry,
            keys,
            random,
            documents: Mutex::default(),
            current: Cache::new(cache_clock(), KNOWN_FOR, TENANTS_CACHED_MAX),
            checkers: Cache::new(cache_clock(), KNOWN_FOR, COMPILED_MAX),
            compiled: Cache::new(cache_clock(), KNOWN_FOR, COMPILED_MAX),
            clock,
        }
    }

    /// All that the tenant of a decision has registered. While the store does not answer, what it had at most
    /// five minutes ago.
    ///
    /// # Errors
    /// When that cannot be said.
    pub async fn of(&self, decision: &Decision) -> Result<Arc<TenantSchemas>, Error> {
        self.current(&(decision.silo.clone(), decision.tenant.clone()))
            .await
    }

    /// All that the tenant of a permit has registered, for people to look at.
    ///
    /// # Errors
    /// When that cannot be said.
    pub async fn list(&self, permit: &Permit<SchemaRead>) -> Result<Arc<TenantSchemas>, Error> {
        let (_, place) = self.subject(permit).await?;
        self.current(&place).await
    }

    /// One version of a stream, or its latest, and the author's text.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that never was.
    pub async fn get(
        &self,
        permit: &Permit<SchemaRead>,
        stream: &StreamName,
        version: Option<SchemaVersion>,
    ) -> Result<(Registered, String), Error> {
        let (_, place) = self.subject(permit).await?;
        let all = self.current(&place).await?;
        let schemas = all.streams.get(stream).ok_or(Error::NotFound)?;
        let known = match version {
            Some(version) => schemas.get(version),
            None => schemas.latest(),
        };
        let known = known.ok_or(Error::NotFound)?;
        let definition = self.definition(&place, stream, known).await?;
        Ok((known.clone(), definition.text().to_owned()))
    }

    /// Compares two registered versions.
    ///
    /// # Errors
    /// [`Error::NotFound`] for one that never was.
    pub async fn compare(
        &self,
        permit: &Permit<SchemaRead>,
        stream: &StreamName,
        [old, new]: [SchemaVersion; 2],
    ) -> Result<Comparison, Error> {
        let (_, place) = self.subject(permit).await?;
        let all = self.current(&place).await?;
        let schemas = all.streams.get(stream).ok_or(Error::NotFound)?;
        let known = |version| schemas.get(version).ok_or(Error::NotFound);
        let old = self.definition(&place, stream, known(old)?).await?;
        let new = self.definition(&place, stream, known(new)?).await?;
        Ok(compare(old.value(), new.value()))
    }

    /// Says whether a schema could be registered, and how it compares with the latest one. Changes nothing.
    ///
    /// # Errors
    /// Those that registering it would have now.
    pub async fn check(
        &self,
        permit: &Permit<SchemaRead>,
        registration: &Registration,
    ) -> Result<Comparison, Error> {
        let (record, place) = self.subject(permit).await?;
        let definition = Definition::parse(&registration.schema).map_err(Error::Invalid)?;
        let all = self.newest(&place).await?;
        self.admitted(&record, &place, &all, registration, &definition)
            .await
    }

    /// Registers a version. Registering the very same again is fine.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::Incompatible`] with every reason.
    pub async fn register(
        &self,
        permit: &Permit<SchemaWrite>,
        registration: &Registration,
    ) -> Result<Comparison, Error> {
        let (record, place) = self.subject(permit).await?;
        let definition = Definition::parse(&registration.schema).map_err(Error::Invalid)?;
        let documents = self.sealed(&place).await?;
        for _ in 0..RACES_MAX {
            let all = self.newest(&place).await?;
            let stream = all.streams.get(&registration.stream);
            let same = stream.and_then(|stream| stream.get(registration.version));
            if same.is_some_and(|same| {
                same.digest == definition.digest() && same.upcaster == registration.upcaster
            }) {
                return Ok(compare(definition.value(), definition.value()));
            }
            let comparison = self
                .admitted(&record, &place, &all, registration, &definition)
                .await?;
            let document = self
                .put_text(&documents, &registration.stream, &definition)
                .await?;
            let mut next = (*all).clone();
            let schemas = next.streams.entry(registration.stream.clone()).or_default();
            schemas.required = registration.required.unwrap_or(schemas.required);
            schemas.versions.push(Registered {
                version: registration.version,
                registered_at: self.clock.now(),
                digest: definition.digest(),
                document,
                upcaster: registration.upcaster.clone(),
                deprecated: None,
            });
            if self.put(&documents, &place, next).await? {
                return Ok(comparison);
            }
        }
        Err(Error::Raced)
    }

    /// Announces the end of a version, so many days from now. The latest version has no end.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the notice is too short or the version is the latest.
    pub async fn deprecate(
        &self,
        permit: &Permit<SchemaWrite>,
        stream: &StreamName,
        version: SchemaVersion,
        days: u32,
    ) -> Result<Deprecation, Error> {
        let (_, place) = self.subject(permit).await?;
        if !(DEPRECATED_DAYS_MIN..=DEPRECATED_DAYS_MAX).contains(&days) {
            return Err(Error::Invalid(vec![format!(
                "the notice has {DEPRECATED_DAYS_MIN} to {DEPRECATED_DAYS_MAX} days"
            )]));
        }
        let documents = self.sealed(&place).await?;
        for _ in 0..RACES_MAX {
            let mut next = (*self.newest(&place).await?).clone();
            let schemas = next.streams.get_mut(stream).ok_or(Error::NotFound)?;
            let latest = schemas.latest().map(|latest| latest.version);
            let mut versions = schemas.versions.iter_mut();
            let known = versions
                .find(|known| known.version == version)
                .ok_or(Error::NotFound)?;
            if latest == Some(version) {
                let reason = "the latest version has no end; register its successor first";
                return Err(Error::Invalid(vec![reason.to_owned()]));
            }
            if let Some(announced) = known.deprecated {
                return Ok(announced);
            }
            let announced = Deprecation::announced(self.clock.now(), days);
            known.deprecated = Some(announced);
            if self.put(&documents, &place, next).await? {
                return Ok(announced);
            }
        }
        Err(Error::Raced)
    }

    /// Everything against a registration that what is registered already has to say.
    async fn admitted(
        &self,
        record: &TenantRecord,
        place: &Place,
        all: &TenantSchemas,
        registration: &Registration,
        definition: &Definition,
    ) -> Result<Comparison, Error> {
        if !record.streams.contains(&registration.stream) {
            return Err(Error::NotFound);
        }
        let none = StreamSchemas::default();
        let schemas = all.streams.get(&registration.stream).unwrap_or(&none);
        let comparison = match schemas.latest() {
            Some(latest) => {
                let before = self.definition(place, &registration.stream, latest).await?;
                compare(before.value(), definition.value())
            }
            None => compare(definition.value(), definition.value()),
        };
        let mut invalid = Vec::new();
        if schemas.versions.len() >= VERSIONS_MAX {
            invalid.push(format!("a stream has at most {VERSIONS_MAX} versions"));
        }
        if let Some(upcaster) = &registration.upcaster {
            invalid.extend(upcaster.faults());
            let deeper: usize = schemas
                .chain()
                .chain([upcaster])
                .map(Upcaster::deepens_by)
                .sum();
            let chain = schemas.chain().chain([upcaster]);
            let steps: usize = chain.map(|upcaster| upcaster.steps.len()).sum();
            if steps > CHAIN_STEPS_MAX {
                invalid.push(format!(
                    "upcaster: all upcasters together have at most {CHAIN_STEPS_MAX} steps"
                ));
            }
            if deeper > DEEPENING_MAX {
                invalid.push(format!(
                    "upcaster: all upcasters together may make a record {DEEPENING_MAX} levels deeper"
                ));
            }
        }
        if !invalid.is_empty() {
            return Err(Error::Invalid(invalid));
        }
        let reasons = obstacles(schemas, registration, &comparison);
        if reasons.is_empty() {
            Ok(comparison)
        } else {
            Err(Error::Incompatible(reasons))
        }
    }
}

/// What stands between the latest version of a stream and the one to come.
fn obstacles(
    schemas: &StreamSchemas,
    registration: &Registration,
    comparison: &Comparison,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let latest = schemas.latest().map(|latest| latest.version);
    let version = registration.version;
    if latest.is_some_and(|latest| version <= latest) {
        reasons.push("the version must be newer than every one that is registered".to_owned());
    }
    // Every stream has records of 1.0: those that say nothing.
    let before = latest.unwrap_or(SchemaVersion::DEFAULT);
    let is_new_major = version.major != before.major;
    if let Some(upcaster) = &registration.upcaster {
        if upcaster.to != version {
            reasons.push(format!("the upcaster must lead to {version}"));
        }
        if upcaster.from != before {
            reasons.push(format!("the upcaster must lead from {before}"));
        }
    } else if is_new_major {
        reasons.push(format!(
            "a new major version needs an upcaster from {before}, or older records would be left behind"
        ));
    }
    let required = registration.required.unwrap_or(schemas.required);
    if !required.admits(comparison.compatibility) && !is_new_major {
        reasons.push(format!(
            "the change is {}, and within a major version it must be {} compatible: make it so, or register {}.0 with an upcaster from {before}",
            comparison.compatibility.as_str(),
            required.as_str(),
            before.major.saturating_add(1)
        ));
        let backward = required != Required::Forward && !comparison.backward.is_empty();
        let forward = required != Required::Backward && !comparison.forward.is_empty();
        let told = [
            (backward, &comparison.backward),
            (forward, &comparison.forward),
        ];
        for (_, found) in told.iter().filter(|(counts, _)| *counts) {
            reasons.extend(found.iter().map(ToString::to_string));
        }
    }
    reasons
}
