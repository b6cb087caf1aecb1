//! The file-system store whose puts are durable when they return.
//!
//! `object_store`'s own file-system store never calls fsync. This one keeps its reads and lists, and does every write
//! itself, through [`super::objects`]. A put-if-absent is a hard link, which the file system refuses when the name is
//! taken, also between processes.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use super::objects::{Objects, Publish, Staged, parent_of};
use super::{Error, StoreFault};
use crate::disk::{Disk, SystemDisk};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, UploadPart,
};

/// A file-system store that acknowledges nothing before it is on disk.
///
/// After one failed sync the kernel may have dropped dirty pages and would report success on the next try, so this
/// store refuses every later write until it is opened again; reads go on.
#[derive(Debug)]
pub struct FsyncStore {
    local: LocalFileSystem,
    objects: Arc<Objects>,
}

impl FsyncStore {
    /// Opens the store rooted at `root`, which is created when absent.
    pub fn open(root: &FsPath) -> Result<Self, Error> {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        let create = |root: &FsPath| {
            disk.create_directories(root)?;
            disk.sync_directory(root)?;
            root.canonicalize()
        };
        let fault = |kind| Error::Unavailable {
            what: "the silo root cannot be opened",
            source: StoreFault::of_file_system(kind),
        };
        let root = create(root).map_err(|error| fault(Some(error.kind())))?;
        let local = LocalFileSystem::new_with_prefix(&root).map_err(|_| fault(None))?;
        Ok(Self {
            local,
            objects: Arc::new(Objects::new(disk)),
        })
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Objects) -> io::Result<T> + Send + 'static,
    ) -> object_store::Result<T> {
        let objects = Arc::clone(&self.objects);
        blocking(move || work(&objects)).await.map_err(generic)
    }

    async fn sync_parents(&self, locations: &[&Path]) -> object_store::Result<()> {
        let mut parents = HashSet::new();
        for location in locations {
            let path = self.local.path_to_filesystem(location)?;
            parents.insert(parent_of(&path).map_err(generic)?.to_path_buf());
        }
        self.on_disk(move |objects| {
            parents.iter().try_for_each(|parent| {
                objects.make_durable(parent)?;
                objects.sync_directory(parent)
            })
        })
        .await
    }
}

impl fmt::Display for FsyncStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FsyncStore")
    }
}

#[async_trait]
impl ObjectStore for FsyncStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let how = match options.mode {
            PutMode::Create => Publish::Create,
            PutMode::Overwrite => Publish::Replace,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "put with an expected version".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let target = self.local.path_to_filesystem(location)?;
        let objects = Arc::clone(&self.objects);
        let written =
            blocking(move || objects.put(&target, payload.iter().map(AsRef::as_ref), how)).await;
        match written {
            Ok(()) => Ok(PutResult {
                e_tag: None,
                version: None,
            }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                Err(object_store::Error::AlreadyExists {
                    path: location.to_string(),
                    source: Box::new(error),
                })
            }
            Err(error) => Err(generic(error)),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let target = self.local.path_to_filesystem(location)?;
        let staging = target.clone();
        let staged = self.on_disk(move |objects| objects.stage(&staging)).await?;
        Ok(Box::new(FsyncUpload {
            objects: Arc::clone(&self.objects),
            target,
            staged: Some(Arc::new(staged)),
            offset: 0,
        }))
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.local.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[Range<u64>],
    ) -> object_store::Result<Vec<Bytes>> {
        self.local.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let local = self.local.clone();
        let objects = Arc::clone(&self.objects);
        self.local
            .delete_stream(locations)
            .then(move |deleted| {
                let (local, objects) = (local.clone(), Arc::clone(&objects));
                async move {
                    let location = deleted?;
                    let path = local.path_to_filesystem(&location)?;
                    blocking(move || objects.sync_directory(parent_of(&path)?))
                        .await
                        .map_err(generic)?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.local.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.local.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.local.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.on_disk(Objects::check).await?;
        self.local.copy_opts(from, to, options).await?;
        self.sync_parents(&[to]).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: RenameOptions,
    ) -> object_store::Result<()> {
        self.on_disk(Objects::check).await?;
        self.local.rename_opts(from, to, options).await?;
        self.sync_parents(&[from, to]).await
    }
}

#[derive(Debug)]
struct FsyncUpload {
    objects: Arc<Objects>,
    target: PathBuf,
    /// None once the upload is closed; parts that are still being written hold the file.
    staged: Option<Arc<Staged>>,
    offset: u64,
}

#[async_trait]
impl MultipartUpload for FsyncUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let staged = self.staged.clone();
        let mut offset = self.offset;
        self.offset += payload.content_length() as u64;
        blocking(move || {
            let staged = staged.ok_or_else(closed)?;
            payload.iter().try_for_each(|bytes| {
                staged.write_at(bytes, offset)?;
                offset += bytes.len() as u64;
                Ok(())
            })
        })
        .map(|written| written.map_err(generic))
        .boxed()
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let staged = self.staged.take().ok_or_else(|| generic(closed()))?;
        let (objects, target) = (Arc::clone(&self.objects), self.target.clone());
        blocking(move || objects.publish(&staged, &target, Publish::Replace))
            .await
            .map_err(generic)?;
        Ok(PutResult {
            e_tag: None,
            version: None,
        })
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.staged.take();
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("the blocking task did not finish")),
    }
}

fn closed() -> io::Error {
    io::Error::other("the upload is already closed")
}

fn generic(error: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "FsyncStore",
        source: Box::new(error),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the store's own tests")]
mod tests {
    use super::*;
    use object_store::ObjectStoreExt;

    fn opened() -> (tempfile::TempDir, Arc<FsyncStore>) {
        let directory = tempfile::tempdir().unwrap();
        let store = FsyncStore::open(directory.path()).unwrap();
        (directory, Arc::new(store))
    }

    async fn put(
        store: &FsyncStore,
        path: &str,
        bytes: &'static [u8],
        mode: PutMode,
    ) -> object_store::Result<PutResult> {
        store
            .put_opts(
                &Path::from(path),
                PutPayload::from_static(bytes),
                mode.into(),
            )
            .await
    }

    async fn get(store: &FsyncStore, path: &str) -> Bytes {
        store
            .get(&Path::from(path))
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap()
    }

    fn names(directory: &FsPath) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn put_if_absent_keeps_the_first_and_leaves_nothing_behind() {
        let (directory, store) = opened();
        put(&store, "a/b/one", b"first", PutMode::Create)
            .await
            .unwrap();
        let second = put(&store, "a/b/one", b"second", PutMode::Create).await;
        assert!(
            matches!(second, Err(object_store::Error::AlreadyExists { .. })),
            "{second:?}"
        );
        assert_eq!(get(&store, "a/b/one").await, "first");
        put(&store, "a/b/one", b"third", PutMode::Overwrite)
            .await
            .unwrap();
        assert_eq!(get(&store, "a/b/one").await, "third");
        assert_eq!(names(&directory.path().join("a/b")), ["one"]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_many_racing_creators_exactly_one_wins() {
        let (directory, first) = opened();
        let second = Arc::new(FsyncStore::open(directory.path()).unwrap());
        for round in 0..20 {
            let path = format!("log/{round:020}.json");
            let racers: Vec<_> = (0..8_u8)
                .map(|n| {
                    let store = if n % 2 == 0 {
                        Arc::clone(&first)
                    } else {
                        Arc::clone(&second)
                    };
                    let path = Path::from(path.as_str());
                    tokio::spawn(async move {
                        let payload = PutPayload::from(vec![n; 4096]);
                        store
                            .put_opts(&path, payload, PutMode::Create.into())
                            .await
                            .map(|_| n)
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for racer in racers {
                match racer.await.unwrap() {
                    Ok(n) => winners.push(n),
                    Err(object_store::Error::AlreadyExists { .. }) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert_eq!(winners.len(), 1);
            assert_eq!(get(&first, &path).await, vec![winners[0]; 4096]);
        }
    }

    #[tokio::test]
    async fn a_multipart_upload_appears_whole_or_not_at_all() {
        let (directory, store) = opened();
        let path = Path::from("data/big");
        let mut upload = store
            .put_multipart_opts(&path, PutMultipartOptions::default())
            .await
            .unwrap();
        upload
            .put_part(PutPayload::from(vec![1; 10_000]))
            .await
            .unwrap();
        upload
            .put_part(PutPayload::from(vec![2; 5_000]))
            .await
            .unwrap();
        assert!(store.head(&path).await.is_err());
        assert!(store.list(None).collect::<Vec<_>>().await.is_empty());
        upload.complete().await.unwrap();
        let bytes = get(&store, "data/big").await;
        assert_eq!((bytes.len(), bytes[9_999], bytes[10_000]), (15_000, 1, 2));

        let mut upload = store
            .put_multipart_opts(&path, PutMultipartOptions::default())
            .await
            .unwrap();
        upload
            .put_part(PutPayload::from(vec![3; 10]))
            .await
            .unwrap();
        upload.abort().await.unwrap();
        assert_eq!(get(&store, "data/big").await.len(), 15_000);
        assert_eq!(names(&directory.path().join("data")), ["big"]);
    }

    #[tokio::test]
    async fn delete_copy_and_rename_reach_the_disk() {
        let (_directory, store) = opened();
        put(&store, "x/one", b"1", PutMode::Create).await.unwrap();
        store
            .copy(&Path::from("x/one"), &Path::from("y/two"))
            .await
            .unwrap();
        store
            .rename(&Path::from("y/two"), &Path::from("z/three"))
            .await
            .unwrap();
        store.delete(&Path::from("x/one")).await.unwrap();
        let listed: Vec<_> = store
            .list(None)
            .map(|m| m.unwrap().location.to_string())
            .collect()
            .await;
        assert_eq!(listed, ["z/three"]);
        assert_eq!(get(&store, "z/three").await, "1");
    }
}
