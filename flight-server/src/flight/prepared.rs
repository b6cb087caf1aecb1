//! Prepared statements: held here, under a random handle, for the principal who made them.
//!
//! State is needed because of clients that bind parameters and then use the handle they had before: parameters are
//! stored under that handle and the same handle is returned. Another principal's handle is as unknown as a made-up one.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use catalog::clock::{Clock, Random, Timestamp, array};
use catalog::ids::TenantId;

use crate::problem::{Problem, Slug};

use super::limits::{
    PREPARED_BYTES_PER_PRINCIPAL_MAX, PREPARED_BYTES_PER_TENANT_MAX, PREPARED_IDLE_MAX,
    PREPARED_PER_PRINCIPAL_MAX, PREPARED_PER_TENANT_MAX, PREPARED_TOTAL_MAX,
};
use super::parameters::Bindings;
use super::statement::{Principal, Statement};

const HANDLE_BYTES: usize = 16;

/// How often the statements of principals who never came back are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

type Handle = [u8; HANDLE_BYTES];

struct Entry {
    statement: Statement,
    placeholders: Arc<[String]>,
    used_at: Timestamp,
    /// Orders entries used within one tick of the clock.
    used: u64,
}

impl Entry {
    fn is_idle(&self, now: Timestamp) -> bool {
        self.used_at.plus(PREPARED_IDLE_MAX) <= now
    }

    fn bytes(&self) -> usize {
        let bound = self.statement.bindings.as_ref();
        self.statement.sql.len() + bound.map_or(0, |bindings| bindings.bytes())
    }
}

type Own = HashMap<Handle, Entry>;

#[derive(Default)]
struct Held {
    owners: HashMap<Principal, Own>,
    uses: u64,
    swept_at: Option<Timestamp>,
}

/// The prepared statements of this process.
pub(crate) struct PreparedStatements {
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    held: Mutex<Held>,
}

impl fmt::Debug for PreparedStatements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedStatements").finish_non_exhaustive()
    }
}

impl PreparedStatements {
    /// None yet.
    pub(crate) fn new(clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self {
            clock,
            random,
            held: Mutex::default(),
        }
    }

    /// Keeps this text, which has these placeholders, for its owner, and returns its handle.
    pub(crate) fn create(
        &self,
        owner: &Principal,
        sql: &str,
        placeholders: Vec<String>,
    ) -> Result<Bytes, Problem> {
        let handle: Handle = array(&*self.random);
        let now = self.clock.now();
        let mut held = self.lock();
        held.sweep(now);
        if held.total() >= PREPARED_TOTAL_MAX && !held.owners.contains_key(owner) {
            let detail = "too many prepared statements are open";
            return Err(Problem::new(Slug::QueryLimitExceeded, detail));
        }
        let entry = Entry {
            statement: Statement::new(sql),
            placeholders: placeholders.into(),
            used_at: now,
            used: held.next_use(),
        };
        let own = held.owners.entry(owner.clone()).or_default();
        own.insert(handle, entry);
        make_room(own);
        held.make_room_of(&owner.tenant);
        Ok(handle.to_vec().into())
    }

    /// The statement under this handle, with the parameters bound last.
    pub(crate) fn get(&self, owner: &Principal, handle: &[u8]) -> Result<Statement, Problem> {
        self.with(owner, handle, |entry| entry.statement.clone())
    }

    /// Binds the rows of this batch to the statement under this handle, in place of those bound before.
    pub(crate) fn bind(
        &self,
        owner: &Principal,
        handle: &[u8],
        batch: &RecordBatch,
    ) -> Result<(), Problem> {
        let placeholders = self.with(owner, handle, |entry| Arc::clone(&entry.placeholders))?;
        let bindings = Bindings::new(batch, &placeholders)?.map(Arc::new);
        self.with(owner, handle, |entry| entry.statement.bindings = bindings)
    }

    /// Forgets the statement. There is nothing to say about one that is not there.
    pub(crate) fn close(&self, owner: &Principal, handle: &[u8]) {
        let mut held = self.lock();
        if let Some(own) = held.owners.get_mut(owner) {
            own.retain(|other, _| other.as_slice() != handle);
            if own.is_empty() {
                held.owners.remove(owner);
            }
        }
    }

    fn with<T>(
        &self,
        owner: &Principal,
        handle: &[u8],
        act: impl FnOnce(&mut Entry) -> T,
    ) -> Result<T, Problem> {
        let unknown = || {
            let detail = "there is no such prepared statement: it was closed, not used for long, or made room for newer ones";
            Problem::new(Slug::NotFound, detail)
        };
        let handle = Handle::try_from(handle).map_err(|_| unknown())?;
        let now = self.clock.now();
        let mut held = self.lock();
        let used = held.next_use();
        let own = held.owners.get_mut(owner).ok_or_else(unknown)?;
        let entry = own
            .get_mut(&handle)
            .filter(|entry| !entry.is_idle(now))
            .ok_or_else(unknown)?;
        (entry.used_at, entry.used) = (now, used);
        let done = act(entry);
        make_room(own);
        held.make_room_of(&owner.tenant);
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn next_use(&mut self) -> u64 {
        self.uses = self.uses.wrapping_add(1);
        self.uses
    }

    fn total(&self) -> usize {
        self.owners.values().map(HashMap::len).sum()
    }

    /// Drops the least recently used statements of one tenant until the rest is within bounds.
    fn make_room_of(&mut self, tenant: &TenantId) {
        let of_tenant = self
            .owners
            .iter()
            .filter(|(owner, _)| owner.tenant == *tenant);
        let mut newest_first: Vec<_> = of_tenant
            .flat_map(|(owner, own)| {
                own.iter()
                    .map(move |(handle, entry)| (owner, handle, entry))
            })
            .map(|(owner, handle, entry)| (entry.used, owner.clone(), *handle, entry.bytes()))
            .collect();
        newest_first.sort_unstable_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut total = 0_usize;
        for (count, (_, owner, handle, bytes)) in newest_first.into_iter().enumerate() {
            total = total.saturating_add(bytes);
            let is_within =
                count < PREPARED_PER_TENANT_MAX && total <= PREPARED_BYTES_PER_TENANT_MAX;
            if !is_within && let Some(own) = self.owners.get_mut(&owner) {
                own.remove(&handle);
            }
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        if self.swept_at.is_some_and(|at| now < at.plus(SWEEP_EVERY)) {
            return;
        }
        self.swept_at = Some(now);
        self.owners.retain(|_, own| {
            own.retain(|_, entry| !entry.is_idle(now));
            !own.is_empty()
        });
    }
}

/// Drops the least recently used statements of one owner until the rest is within bounds.
fn make_room(own: &mut Own) {
    let within = own.len() <= PREPARED_PER_PRINCIPAL_MAX
        && own.values().map(Entry::bytes).sum::<usize>() <= PREPARED_BYTES_PER_PRINCIPAL_MAX;
    if within {
        return;
    }
    let mut newest_first: Vec<_> = own
        .iter()
        .map(|(handle, entry)| (entry.used, *handle, entry.bytes()))
        .collect();
    newest_first.sort_unstable_by_key(|(used, _, _)| std::cmp::Reverse(*used));
    let mut total = 0_usize;
    for (count, (_, handle, bytes)) in newest_first.into_iter().enumerate() {
        total = total.saturating_add(bytes);
        if count >= PREPARED_PER_PRINCIPAL_MAX || total > PREPARED_BYTES_PER_PRINCIPAL_MAX {
            own.remove(&handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use catalog::clock::{ManualClock, SeededRandom};

    use super::*;

    struct World {
        clock: Arc<ManualClock>,
        prepared: PreparedStatements,
    }

    fn world() -> World {
        let clock = Arc::new(ManualClock::new(Timestamp::from_micros(0)));
        let prepared =
            PreparedStatements::new(Arc::clone(&clock) as _, Arc::new(SeededRandom::new(3)));
        World { clock, prepared }
    }

    fn principal(tenant: &str, subject: &str) -> Principal {
        Principal {
            tenant: TenantId::parse(tenant).unwrap(),
            subject: subject.to_owned(),
        }
    }

    fn row(value: i64) -> RecordBatch {
        let column = Arc::new(Int64Array::from(vec![value])) as _;
        RecordBatch::try_from_iter(vec![("p", column)]).unwrap()
    }

    impl World {
        fn create(&self, owner: &Principal, sql: &str) -> Bytes {
            let placeholders = sql.contains("$1").then(|| "$1".to_owned());
            let placeholders = placeholders.into_iter().collect();
            self.prepared.create(owner, sql, placeholders).unwrap()
        }
    }

    fn unknown(world: &World, owner: &Principal, handle: &[u8]) -> bool {
        match world.prepared.get(owner, handle) {
            Ok(_) => false,
            Err(problem) => problem.slug() == Slug::NotFound,
        }
    }

    #[test]
    fn parameters_stay_under_the_handle_and_are_replaced() {
        let world = world();
        let alice = principal("acme", "alice");
        let first = world.create(&alice, "SELECT $1");
        let second = world.create(&alice, "SELECT $1");
        world.prepared.bind(&alice, &first, &row(1)).unwrap();
        world.prepared.bind(&alice, &second, &row(2)).unwrap();
        world.prepared.bind(&alice, &first, &row(3)).unwrap();
        let bound = |handle| {
            world
                .prepared
                .get(&alice, handle)
                .unwrap()
                .bindings
                .unwrap()
        };
        let expected = |value| {
            Bindings::new(&row(value), &["$1".to_owned()])
                .unwrap()
                .unwrap()
        };
        assert_eq!(*bound(&first), expected(3));
        assert_eq!(*bound(&second), expected(2), "handles do not share");
    }

    #[test]
    fn a_handle_is_its_owners_alone() {
        let world = world();
        let alice = principal("acme", "alice");
        let handle = world.create(&alice, "SELECT 1");
        for other in [principal("acme", "bob"), principal("globex", "alice")] {
            assert!(unknown(&world, &other, &handle));
            assert!(world.prepared.bind(&other, &handle, &row(1)).is_err());
            world.prepared.close(&other, &handle);
        }
        let statement = world.prepared.get(&alice, &handle).unwrap();
        assert_eq!((&*statement.sql, statement.bindings), ("SELECT 1", None));
        world.prepared.close(&alice, &handle);
        assert!(unknown(&world, &alice, &handle));
        for garbage in [&b""[..], b"x", &[0; 16], &[0; 1000]] {
            assert!(unknown(&world, &alice, garbage));
            world.prepared.close(&alice, garbage);
        }
    }

    #[test]
    fn the_least_recently_used_makes_room_for_its_owner_only() {
        let world = world();
        let alice = principal("acme", "alice");
        let bob = principal("acme", "bob");
        let kept = world.create(&bob, "SELECT 1");
        let mut handles = Vec::new();
        for _ in 0..PREPARED_PER_PRINCIPAL_MAX {
            handles.push(world.create(&alice, "SELECT 1"));
        }
        world.prepared.get(&alice, &handles[0]).unwrap();
        world.create(&alice, "SELECT 2");
        assert!(unknown(&world, &alice, &handles[1]));
        assert!(!unknown(&world, &alice, &handles[0]), "used since");
        assert!(!unknown(&world, &bob, &kept));
    }

    #[test]
    fn large_statements_make_room_too() {
        let world = world();
        let alice = principal("acme", "alice");
        let large = "x".repeat(PREPARED_BYTES_PER_PRINCIPAL_MAX / 2);
        let first = world.create(&alice, &large);
        let second = world.create(&alice, &large);
        assert!(!unknown(&world, &alice, &first));
        world.create(&alice, "SELECT 1");
        assert!(unknown(&world, &alice, &second), "first was used since");
        assert!(!unknown(&world, &alice, &first));
    }

    #[test]
    fn idle_statements_are_forgotten() {
        let world = world();
        let alice = principal("acme", "alice");
        let handle = world.create(&alice, "SELECT 1");
        world
            .clock
            .advance(PREPARED_IDLE_MAX - Duration::from_secs(1));
        assert!(!unknown(&world, &alice, &handle));
        world
            .clock
            .advance(PREPARED_IDLE_MAX - Duration::from_secs(1));
        assert!(!unknown(&world, &alice, &handle), "use counts");
        world.clock.advance(PREPARED_IDLE_MAX);
        assert!(unknown(&world, &alice, &handle));
        world.create(&alice, "SELECT 2");
        assert_eq!(world.prepared.lock().total(), 1, "and swept");
    }

    #[test]
    fn a_tenant_makes_room_among_its_own() {
        let World { prepared, .. } = world();
        let other = principal("globex", "bob");
        let kept = prepared.create(&other, "SELECT 0", vec![]).unwrap();
        let first = prepared.create(&principal("acme", "0"), "SELECT 1", vec![]);
        for subject in 0..PREPARED_PER_TENANT_MAX {
            let owner = principal("acme", &subject.to_string());
            prepared.create(&owner, "SELECT 1", vec![]).unwrap();
        }
        let gone = prepared.get(&principal("acme", "0"), &first.unwrap());
        assert_eq!(gone.unwrap_err().slug(), Slug::NotFound);
        assert!(prepared.get(&other, &kept).is_ok());
        assert_eq!(prepared.lock().total(), PREPARED_PER_TENANT_MAX + 1);
    }
}
