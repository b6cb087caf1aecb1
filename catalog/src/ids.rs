//! The names of things, parsed once at the edge: a value of one of these types is a valid name.
//!
//! Tenant, silo and stream names share one grammar: `[A-Za-z0-9][A-Za-z0-9._-]*`, folded to lower case at parse, so
//! that two spellings of a name are one name everywhere, in paths and in file systems that ignore case too.
//! No error carries the text that was refused.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::clock::{self, Clock, Random};

/// The longest tenant id, in characters.
pub const TENANT_ID_MAX: usize = 128;
/// The longest silo id, in characters.
pub const SILO_ID_MAX: usize = 32;
/// The longest stream name, in characters.
pub const STREAM_NAME_MAX: usize = 64;
/// The longest correlation id, in characters.
pub const CORRELATION_ID_MAX: usize = 128;
/// How many tenants [`RecordIds`] remembers one by one.
const TENANTS_REMEMBERED_MAX: usize = 16_384;

/// Why a text is not a name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid {kind}: {fault}")]
pub struct IdError {
    kind: &'static str,
    fault: IdFault,
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// There is nothing.
    #[error("empty")]
    Empty,
    /// There is too much.
    #[error("longer than {max} characters")]
    TooLong {
        /// The longest allowed.
        max: usize,
    },
    /// A character that no name of this kind has.
    #[error("character {position} is not allowed")]
    Character {
        /// Its place, the first being 1.
        position: usize,
    },
    /// Not of the shape of its kind.
    #[error("malformed")]
    Malformed,
}

impl IdError {
    pub(crate) const fn new(kind: &'static str, fault: IdFault) -> Self {
        Self { kind, fault }
    }

    /// What is wrong.
    pub const fn fault(&self) -> IdFault {
        self.fault
    }
}

/// Checks the shared grammar and folds to lower case.
fn fold(kind: &'static str, text: &str, max: usize) -> Result<Arc<str>, IdError> {
    check(kind, text, max, |index, byte| {
        byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'.' | b'_' | b'-'))
    })?;
    Ok(text.to_ascii_lowercase().into())
}

fn check(
    kind: &'static str,
    text: &str,
    max: usize,
    allowed: impl Fn(usize, u8) -> bool,
) -> Result<(), IdError> {
    let fault = if text.is_empty() {
        IdFault::Empty
    } else if text.len() > max {
        IdFault::TooLong { max }
    } else if let Some(index) =
        (0..text.len()).find(|&index| !allowed(index, text.as_bytes()[index]))
    {
        IdFault::Character {
            position: index + 1,
        }
    } else {
        return Ok(());
    };
    Err(IdError::new(kind, fault))
}

/// The traits every textual name has; each goes through `parse` and `as_str`.
macro_rules! textual {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// A tenant, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);
textual!(TenantId);

impl TenantId {
    const KIND: &'static str = "tenant id";
    const SYSTEM: &'static str = "_system";

    /// Parses and folds a tenant id from outside. The reserved tenant is not one of them.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold(Self::KIND, text, TENANT_ID_MAX).map(Self)
    }

    /// Parses a tenant id that this product wrote itself, in a frame or a path: the reserved tenant is among those.
    pub fn from_stored(text: &str) -> Result<Self, IdError> {
        if text == Self::SYSTEM {
            return Ok(Self::system());
        }
        Self::parse(text)
    }

    /// The reserved tenant `_system`, which takes the evidence of denials that have no tenant. It lies outside the
    /// grammar, so that no token and no header can name it.
    pub fn system() -> Self {
        Self(Self::SYSTEM.into())
    }

    /// Whether this is the reserved tenant.
    pub fn is_system(&self) -> bool {
        &*self.0 == Self::SYSTEM
    }
}

/// A data silo, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiloId(Arc<str>);
textual!(SiloId);

impl SiloId {
    /// Parses and folds a silo id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold("silo id", text, SILO_ID_MAX).map(Self)
    }
}

/// A stream of a tenant's records, in folded form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName(Arc<str>);
textual!(StreamName);

impl StreamName {
    /// Parses and folds a stream name. Whether a tenant has that stream is the registry's to say.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        fold("stream name", text, STREAM_NAME_MAX).map(Self)
    }

    /// `audit.default`: where records go that name no stream.
    pub fn audit_default() -> Self {
        Self("audit.default".into())
    }

    /// `audit.evidence`: the decisions themselves.
    pub fn evidence() -> Self {
        Self("audit.evidence".into())
    }
}

/// What ties one request's answer, logs and evidence together. Chosen by the caller or made here; never a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationId(Arc<str>);
textual!(CorrelationId);

impl CorrelationId {
    /// Parses a correlation id: 1 to 128 of `A-Z a-z 0-9 . _ - : / + =`, kept as written.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check("correlation id", text, CORRELATION_ID_MAX, |_, byte| {
            byte.is_ascii_alphanumeric() || b"._-:/+=".contains(&byte)
        })?;
        Ok(Self(text.into()))
    }

    /// A fresh one: 32 hexadecimal digits, the shape of a W3C trace id.
    pub fn generate(random: &dyn Random) -> Self {
        let number = u128::from_le_bytes(clock::array(random));
        Self(format!("{number:032x}").into())
    }
}

/// One version of one tenant's policy, `tenant:<id>@<n>`, n from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyVersion {
    /// Whose policy.
    pub tenant: TenantId,
    /// Which of its versions.
    pub number: u64,
}

impl PolicyVersion {
    /// Parses `tenant:<id>@<n>`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let malformed = IdError::new("policy version", IdFault::Malformed);
        let (tenant, number) = text
            .strip_prefix("tenant:")
            .and_then(|rest| rest.rsplit_once('@'))
            .ok_or(malformed)?;
        Ok(Self {
            tenant: TenantId::from_stored(tenant)?,
            number: parse_version(number).ok_or(malformed)?,
        })
    }
}

/// A number from 1 written one way only: no sign, no leading zero.
pub(crate) fn parse_version(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if canonical { text.parse().ok() } else { None }
}

impl fmt::Display for PolicyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant:{}@{}", self.tenant, self.number)
    }
}

impl FromStr for PolicyVersion {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Serialize for PolicyVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PolicyVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// A record: a ULID, 48 bits of milliseconds and 80 of chance, written as 26 characters of Crockford's base 32.
/// The order of the values is the order of the texts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(Ulid);

impl RecordId {
    /// Characters in the textual form.
    pub const LEN: usize = ulid::ULID_LEN;

    /// Parses the canonical form only: 26 characters, upper case, no aliases, no more than 128 bits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let malformed = IdError::new("record id", IdFault::Malformed);
        let id = Ulid::from_string(text).map(Self).map_err(|_| malformed)?;
        if id.encode(&mut [0; Self::LEN]) == text {
            Ok(id)
        } else {
            Err(malformed)
        }
    }

    /// The textual form, in the caller's buffer: no allocation.
    pub fn encode<'buffer>(&self, buffer: &'buffer mut [u8; Self::LEN]) -> &'buffer str {
        self.0.array_to_str(buffer)
    }

    /// The 128 bits, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.0.to_be_bytes()
    }

    /// The id with these 128 bits, most significant first.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid(u128::from_be_bytes(bytes)))
    }

    /// The milliseconds since 1970 it was made at (or a little later, see [`RecordIds`]).
    pub fn timestamp_millis(&self) -> u64 {
        self.0.timestamp_ms()
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.encode(&mut [0; Self::LEN]))
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RecordId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

impl Serialize for RecordId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.encode(&mut [0; Self::LEN]))
    }
}

impl<'de> Deserialize<'de> for RecordId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Makes record ids: per tenant each is greater than the one before, also when the clock stands still or goes back.
///
/// Inside one millisecond the 80 random bits grow by a random step, so that an id does not tell its neighbours.
/// Memory is bounded: tenants whose last millisecond is over are forgotten together, and their highest millisecond
/// stays as a floor that no later id of a forgotten tenant goes below.
#[derive(Debug)]
pub struct RecordIds {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    state: Mutex<LastIds>,
    remembered_max: usize,
}

#[derive(Debug, Default)]
struct LastIds {
    by_tenant: HashMap<TenantId, RecordId>,
    /// A tenant that is not in `by_tenant` gets ids of later milliseconds than this.
    floor_millis: Option<u64>,
}

impl RecordIds {
    /// Ids by this clock and this chance.
    pub fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            clock,
            random,
            state: Mutex::default(),
            remembered_max: TENANTS_REMEMBERED_MAX,
        }
    }

    /// The next id of this tenant.
    pub fn next(&self, tenant: &TenantId) -> RecordId {
        let now_millis = self.clock.now().as_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = state.by_tenant.get_mut(tenant) {
            *last = self.after(*last, now_millis);
            return *last;
        }
        let millis = state
            .floor_millis
            .map_or(now_millis, |floor| now_millis.max(floor + 1));
        let id = self.fresh(millis);
        self.remember(&mut state, tenant, id, now_millis);
        id
    }

    /// Makes every later id of this tenant greater than `seen`, an id found in storage at start.
    pub fn observe(&self, tenant: &TenantId, seen: RecordId) {
        let now_millis = self.clock.now().as_millis();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = state.by_tenant.get_mut(tenant) {
            *last = seen.max(*last);
        } else {
            self.remember(&mut state, tenant, seen, now_millis);
        }
    }

    fn remember(&self, state: &mut LastIds, tenant: &TenantId, id: RecordId, now_millis: u64) {
        if state.by_tenant.len() >= self.remembered_max {
            state.forget(|last| last.timestamp_millis() < now_millis);
        }
        if state.by_tenant.len() >= self.remembered_max {
            // Only a clock that was set back, or a thousand new tenants a millisecond, gets here.
            state.forget(|_| true);
        }
        state.by_tenant.insert(tenant.clone(), id);
    }

    fn after(&self, last: RecordId, now_millis: u64) -> RecordId {
        if last.timestamp_millis() < now_millis {
            return self.fresh(now_millis);
        }
        let step = u128::from(u64::from_le_bytes(clock::array(&*self.random)) >> 16) + 1;
        let random = last.0.random() + step;
        if random >> Ulid::RAND_BITS == 0 {
            RecordId(Ulid::from_parts(last.timestamp_millis(), random))
        } else {
            self.fresh(last.timestamp_millis() + 1)
        }
    }

    /// A first id of a millisecond. Its highest random bit is 0, which leaves room for 2^31 steps at least.
    fn fresh(&self, millis: u64) -> RecordId {
        let random =
            u128::from_le_bytes(clock::array(&*self.random)) >> (128 - Ulid::RAND_BITS + 1);
        RecordId(Ulid::from_parts(millis, random))
    }
}

impl LastIds {
    fn forget(&mut self, over: impl Fn(&RecordId) -> bool) {
        let mut floor = self.floor_millis;
        self.by_tenant.retain(|_, last| {
            let keep = !over(last);
            if !keep {
                floor = floor.max(Some(last.timestamp_millis()));
            }
            keep
        });
        self.floor_millis = floor;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{ManualClock, SeededRandom, Timestamp};

    #[track_caller]
    fn check_tenant(text: &str, expected: Result<&str, IdFault>) {
        let parsed = TenantId::parse(text);
        assert_eq!(
            parsed
                .as_ref()
                .map(TenantId::as_str)
                .map_err(IdError::fault),
            expected
        );
    }

    #[test]
    fn tenant_ids_are_folded_and_bounded() {
        check_tenant("Acme-EU.prod_1", Ok("acme-eu.prod_1"));
        check_tenant("0", Ok("0"));
        check_tenant(&"a".repeat(128), Ok(&"a".repeat(128)));
        check_tenant(&"a".repeat(129), Err(IdFault::TooLong { max: 128 }));
        check_tenant("", Err(IdFault::Empty));
        check_tenant("_system", Err(IdFault::Character { position: 1 }));
        check_tenant("..", Err(IdFault::Character { position: 1 }));
        check_tenant("a/b", Err(IdFault::Character { position: 2 }));
        check_tenant("a\u{212a}", Err(IdFault::Character { position: 2 }));
        check_tenant("a b", Err(IdFault::Character { position: 2 }));
        check_tenant("a\0", Err(IdFault::Character { position: 2 }));
    }

    #[test]
    fn the_reserved_tenant_is_named_only_from_storage() {
        assert!(TenantId::system().is_system());
        assert_eq!(TenantId::from_stored("_system"), Ok(TenantId::system()));
        assert!(serde_json::from_str::<TenantId>("\"_system\"").is_err());
        assert!(TenantId::from_stored("_other").is_err());
    }

    #[test]
    fn errors_name_the_fault_and_not_the_text() {
        let error = TenantId::parse("bad name").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid tenant id: character 4 is not allowed"
        );
        assert!(SiloId::parse(&"a".repeat(33)).is_err());
        assert!(StreamName::parse(&"a".repeat(65)).is_err());
    }

    #[test]
    fn correlation_ids_keep_their_case_and_cannot_split_a_log_line() {
        assert_eq!(
            CorrelationId::parse("Ab-1:x/Y+z=").unwrap().as_str(),
            "Ab-1:x/Y+z="
        );
        for text in ["", "a b", "a\nb", "a\"", "é"] {
            assert!(CorrelationId::parse(text).is_err(), "{text:?}");
        }
        let made = CorrelationId::generate(&SeededRandom::new(1));
        assert_eq!(made.as_str().len(), 32);
        assert_eq!(CorrelationId::parse(made.as_str()), Ok(made));
    }

    #[test]
    fn policy_versions_have_one_spelling() {
        let version = PolicyVersion::parse("tenant:acme@7").unwrap();
        assert_eq!((version.tenant.as_str(), version.number), ("acme", 7));
        assert_eq!(version.to_string(), "tenant:acme@7");
        for text in [
            "acme@7",
            "tenant:acme",
            "tenant:acme@",
            "tenant:acme@0",
            "tenant:acme@07",
            "tenant:acme@+7",
            "tenant:@1",
        ] {
            assert!(PolicyVersion::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn record_ids_have_one_spelling() {
        let text = "01D39ZY06FGSCTVN4T2V9PKHFZ";
        let id = RecordId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(RecordId::from_bytes(id.to_bytes()), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        let too_big = "81D39ZY06FGSCTVN4T2V9PKHFZ";
        let lower = text.to_lowercase();
        for other in [
            "",
            too_big,
            &lower,
            "01D39ZY06FGSCTVN4T2V9PKHF",
            "01D39ZY06FGSCTVN4T2V9PKHFO",
        ] {
            assert!(RecordId::parse(other).is_err(), "{other}");
        }
    }

    fn ids_at(millis: i64) -> (Arc<ManualClock>, RecordIds) {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(millis * 1000)));
        let ids = RecordIds::new(
            Arc::clone(&clock) as Arc<dyn Clock>,
            Arc::new(SeededRandom::new(3)),
        );
        (clock, ids)
    }

    #[test]
    fn record_ids_grow_while_the_clock_stands_still_or_goes_back() {
        let (clock, ids) = ids_at(1_700_000_000_000);
        let tenant = TenantId::parse("acme").unwrap();
        let mut last = ids.next(&tenant);
        assert_eq!(last.timestamp_millis(), 1_700_000_000_000);
        for round in 0..1000 {
            if round == 500 {
                clock.set(Timestamp::from_micros(5));
            }
            let next = ids.next(&tenant);
            assert!(next > last);
            assert_ne!(next.0.0 - last.0.0, 1, "the step is random");
            last = next;
        }
        clock.set(Timestamp::from_micros(1_700_000_000_001_000));
        assert_eq!(ids.next(&tenant).timestamp_millis(), 1_700_000_000_001);
    }

    #[test]
    fn a_full_millisecond_runs_over_into_the_next() {
        let (_clock, ids) = ids_at(1000);
        let last = RecordId(Ulid::from_parts(1000, u128::MAX));
        let next = ids.after(last, 1000);
        assert!(next > last);
        assert_eq!(next.timestamp_millis(), 1001);
    }

    #[test]
    fn forgotten_tenants_never_go_backwards() {
        let (clock, mut ids) = ids_at(1_000_000);
        ids.remembered_max = 4;
        let tenants: Vec<_> = (0..40)
            .map(|n| TenantId::parse(&format!("t{n}")).unwrap())
            .collect();
        let mut highest: HashMap<TenantId, RecordId> = HashMap::new();
        for round in 0..20 {
            if round % 3 == 0 {
                clock.advance(Duration::from_millis(2));
            } else if round % 3 == 1 {
                clock.set(Timestamp::from_micros(500));
            }
            for tenant in &tenants {
                let id = ids.next(tenant);
                let before = highest.insert(tenant.clone(), id);
                assert!(before.is_none_or(|before| before < id));
            }
            assert!(ids.state.lock().unwrap().by_tenant.len() <= 4);
        }
    }

    #[test]
    fn an_observed_id_is_a_lower_bound() {
        let (_clock, ids) = ids_at(1000);
        let tenant = TenantId::parse("acme").unwrap();
        let seen = RecordId(Ulid::from_parts(9_999_999, 5));
        ids.observe(&tenant, seen);
        let next = ids.next(&tenant);
        assert!(next > seen);
        ids.observe(&tenant, seen);
        assert!(ids.next(&tenant) > next);
    }

    proptest! {
        #[test]
        fn parsing_is_total_and_folding_is_idempotent(text in "\\PC{0,140}") {
            if let Ok(tenant) = TenantId::parse(&text) {
                prop_assert_eq!(TenantId::parse(tenant.as_str()), Ok(tenant.clone()));
                prop_assert_eq!(tenant.as_str(), text.to_ascii_lowercase());
                prop_assert!(!tenant.is_system());
            }
            let _ = (SiloId::parse(&text), StreamName::parse(&text), CorrelationId::parse(&text));
            let _ = (PolicyVersion::parse(&text), RecordId::parse(&text));
        }

        #[test]
        fn every_text_of_the_grammar_is_a_tenant(text in "[A-Za-z0-9][A-Za-z0-9._-]{0,127}") {
            let tenant = TenantId::parse(&text).unwrap();
            let upper = TenantId::parse(&text.to_ascii_uppercase()).unwrap();
            prop_assert_eq!(&tenant, &upper);
            let json = serde_json::to_string(&tenant).unwrap();
            prop_assert_eq!(serde_json::from_str::<TenantId>(&json).unwrap(), tenant);
        }

        #[test]
        fn the_order_of_record_ids_is_the_order_of_their_texts(a in any::<u128>(), b in any::<u128>()) {
            let (a, b) = (RecordId(Ulid(a)), RecordId(Ulid(b)));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(RecordId::parse(&a.to_string()), Ok(a));
        }
    }
}
