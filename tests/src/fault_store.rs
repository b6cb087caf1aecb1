//! An object store that fails when a test says so, and that notices when a name is given other content.
//!
//! A plan strikes one step, so often, in one of these ways. Everything else passes through.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// How long a slow step takes longer.
const SLOW: Duration = Duration::from_millis(300);

/// What a server does with its stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It stores a data file.
    DataPut,
    /// It commits.
    LogPut,
    /// It stores a document: a key, a lease, a tenant, a policy.
    DocumentPut,
    /// It reads.
    Get,
    /// It looks what there is.
    List,
}

/// How a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing is done.
    Lost,
    /// It is done, and the answer is an error.
    Unanswered,
    /// It is done, late.
    Slow,
    /// Half of it is done, and then there is an error.
    Torn,
    /// It fails as lost does, and so does everything after it for a while.
    Burst,
}

/// What goes wrong, and what was seen.
#[derive(Debug, Default)]
pub struct Plan(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    armed: Option<(Step, Fault)>,
    left: u64,
    hits: u64,
    /// Digests of what names were given.
    written: HashMap<(String, Path), u64>,
    overwritten: u64,
}

impl Plan {
    /// From now on this step fails so, so often.
    pub fn arm(&self, step: Step, fault: Fault, times: u64) {
        let mut state = self.lock();
        state.armed = Some((step, fault));
        (state.left, state.hits) = (times, 0);
    }

    /// Nothing fails any more; gives how often something did.
    pub fn disarm(&self) -> u64 {
        let mut state = self.lock();
        state.armed = None;
        state.hits
    }

    /// How often a name that had content was given other content. An empty document in the place of a superseded one is
    /// how such are removed.
    pub fn overwritten(&self) -> u64 {
        self.lock().overwritten
    }

    /// The store with this plan around it.
    pub fn around(self: &Arc<Self>, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(FaultStore {
            store,
            plan: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strike(&self, step: Step) -> Option<Fault> {
        let mut state = self.lock();
        let (armed, fault) = state.armed?;
        let spreads = fault == Fault::Burst && state.hits > 0;
        if state.left == 0 || (step != armed && !spreads) {
            return None;
        }
        state.left -= 1;
        state.hits += 1;
        Some(fault)
    }

    fn wrote(&self, store: String, location: &Path, bytes: &Bytes) {
        // What says what is newest is the one object that changes.
        if location.filename() == Some("checkpoint") {
            return;
        }
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let digest = hasher.finish();
        let mut state = self.lock();
        let before = state.written.insert((store, location.clone()), digest);
        if before.is_some_and(|before| before != digest) && !bytes.is_empty() {
            state.overwritten += 1;
        }
    }
}

fn unavailable() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "503 Slow Down".into(),
    }
}

fn step_of_put(location: &Path) -> Step {
    if location.extension() == Some("parquet") {
        Step::DataPut
    } else if location.as_ref().contains("/_delta_log/") {
        Step::LogPut
    } else {
        Step::DocumentPut
    }
}

#[derive(Debug)]
struct FaultStore {
    store: Arc<dyn ObjectStore>,
    plan: Arc<Plan>,
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.store)
    }
}

impl FaultStore {
    #[expect(
        clippy::disallowed_methods,
        reason = "it passes on what came through the door"
    )]
    async fn put_now(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let bytes = Bytes::from(payload.clone());
        let result = self.store.put_opts(location, payload, options).await?;
        self.plan.wrote(self.to_string(), location, &bytes);
        Ok(result)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it passes on what came through the door"
    )]
    async fn put(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match self.plan.strike(step_of_put(location)) {
            None => self.put_now(location, payload, options).await,
            Some(Fault::Slow) => {
                tokio::time::sleep(SLOW).await;
                self.put_now(location, payload, options).await
            }
            Some(Fault::Unanswered) => {
                self.put_now(location, payload, options).await?;
                Err(unavailable())
            }
            Some(Fault::Torn) => {
                let bytes = Bytes::from(payload);
                let half = bytes.slice(..bytes.len() / 2);
                self.store.put_opts(location, half.into(), options).await?;
                Err(unavailable())
            }
            Some(Fault::Lost | Fault::Burst) => Err(unavailable()),
        }
    }

    async fn get(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.plan.strike(Step::Get);
        if fault == Some(Fault::Slow) {
            tokio::time::sleep(SLOW).await;
        }
        let is_head = options.head;
        let result = self.store.get_opts(location, options).await;
        match fault {
            None | Some(Fault::Slow) => result,
            Some(Fault::Torn) if !is_head => {
                let GetResult {
                    meta,
                    range,
                    attributes,
                    ..
                } = result?;
                let whole = self.store.get_range_of(location, range.clone()).await?;
                let half = whole.slice(..whole.len() / 2);
                let parts = stream::iter([Ok(half), Err(unavailable())]);
                Ok(GetResult {
                    payload: GetResultPayload::Stream(parts.boxed()),
                    meta,
                    range,
                    attributes,
                })
            }
            Some(_) => Err(unavailable()),
        }
    }
}

/// Reads a part of an object, past any plan.
trait RangeOf {
    async fn get_range_of(&self, location: &Path, range: std::ops::Range<u64>) -> Result<Bytes>;
}

impl RangeOf for Arc<dyn ObjectStore> {
    async fn get_range_of(&self, location: &Path, range: std::ops::Range<u64>) -> Result<Bytes> {
        let mut parts = self.get_ranges(location, &[range]).await?;
        Ok(parts.pop().unwrap_or_default())
    }
}

impl ObjectStore for FaultStore {
    fn put_opts<'s, 'l, 'f>(
        &'s self,
        location: &'l Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'f, Result<PutResult>>
    where
        's: 'f,
        'l: 'f,
        Self: 'f,
    {
        self.put(location, payload, options).boxed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it passes on what came through the door"
    )]
    fn put_multipart_opts<'s, 'l, 'f>(
        &'s self,
        location: &'l Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'f, Result<Box<dyn MultipartUpload>>>
    where
        's: 'f,
        'l: 'f,
        Self: 'f,
    {
        self.store.put_multipart_opts(location, options)
    }

    fn get_opts<'s, 'l, 'f>(
        &'s self,
        location: &'l Path,
        options: GetOptions,
    ) -> BoxFuture<'f, Result<GetResult>>
    where
        's: 'f,
        'l: 'f,
        Self: 'f,
    {
        self.get(location, options).boxed()
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.plan.strike(Step::List);
        let listed = self.store.list(prefix);
        match fault {
            None => listed,
            Some(Fault::Slow) => stream::once(tokio::time::sleep(SLOW))
                .flat_map(|()| stream::empty())
                .chain(listed)
                .boxed(),
            Some(Fault::Torn) => stream::once(listed.try_collect::<Vec<_>>())
                .flat_map(|listed| match listed {
                    Ok(mut all) => {
                        all.truncate(all.len() / 2);
                        let half = all.into_iter().map(Ok);
                        stream::iter(half.chain([Err(unavailable())])).boxed()
                    }
                    Err(error) => stream::iter([Err(error)]).boxed(),
                })
                .boxed(),
            Some(_) => stream::iter([Err(unavailable())]).boxed(),
        }
    }

    fn list_with_delimiter<'s, 'p, 'f>(
        &'s self,
        prefix: Option<&'p Path>,
    ) -> BoxFuture<'f, Result<ListResult>>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        async move {
            match self.plan.strike(Step::List) {
                None => {}
                Some(Fault::Slow) => tokio::time::sleep(SLOW).await,
                Some(_) => return Err(unavailable()),
            }
            self.store.list_with_delimiter(prefix).await
        }
        .boxed()
    }

    fn copy_opts<'s, 'a, 'b, 'f>(
        &'s self,
        from: &'a Path,
        to: &'b Path,
        options: CopyOptions,
    ) -> BoxFuture<'f, Result<()>>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        self.store.copy_opts(from, to, options)
    }
}
