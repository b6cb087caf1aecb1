//! One chunk: records as they come, cut, encoded, sealed and stored.
//!
//! ```text
//! slices ──task──▶ pages of records with their leaves ──Cutter──▶ ChunkWriter ──Upload──▶ store
//! ```
//! The task that reads is one page ahead of what is encoded.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use catalog::clock::Timestamp;
use futures::TryStreamExt;
use object_store::path::Path;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Exports;
use super::asked::Asked;
use super::error::Error;
use super::job::{Chunk, Pinned, StoredFile};
use super::manifest::Manifest;
use super::package::{ChunkWriter, Cutter, with_parts};
use super::run::Running;
use super::sealed::{Upload, Uploaded};
use super::select::{LEAF_INDEX, Place, SLICE_RECORDS, Selection, Slice, column};
use crate::receipt::hexadecimal;

/// Bytes of a row group: what is held of one while it is encoded.
const GROUP_BYTES_MIN: u64 = 256 << 10;
const GROUP_BYTES_MAX: u64 = 48 << 20;

/// Records as they come, cut into batches.
pub(super) struct Feed {
    pages: mpsc::Receiver<Result<RecordBatch, Error>>,
    /// Reads, and ends with this.
    _reading: JoinSet<()>,
    cutter: Cutter,
    is_end: bool,
}

impl Feed {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        loop {
            if let Some(batch) = self.cutter.next(self.is_end)? {
                return Ok(Some(batch));
            }
            if self.is_end {
                return Ok(None);
            }
            match self.pages.recv().await {
                Some(page) => self.cutter.push(page?),
                None => self.is_end = true,
            }
        }
    }
}

impl Exports {
    /// Fixes what is in the export, if nobody has, and begins to read behind its last chunk.
    pub(super) async fn feed(self: &Arc<Self>, running: &mut Running) -> Result<(), Error> {
        let selection = self.selection(running.job());
        let pinned = match running.job().pinned.clone() {
            Some(pinned) => pinned,
            None => self.beating(running, selection.pin()).await?,
        };
        let slices = self.beating(running, selection.slices(&pinned)).await?;
        let records = slices.iter().map(|slice| slice.records).sum();
        let records_max = running.job().records_max;
        Asked::check_records(records, records_max)?;
        if running.job().pinned.is_none() {
            running.job_mut().pinned = Some(Pinned {
                records,
                ..pinned.clone()
            });
            running.save().await?;
        }
        let (pages, received) = mpsc::channel(1);
        let after = running.place();
        let (raw, read_so_far) = mpsc::channel(1);
        let mut reading = JoinSet::new();
        let (proving, whole) = (selection.clone(), pinned.clone());
        reading.spawn(async move {
            if let Err(error) = read(&selection, &pinned, slices, after, &raw).await {
                // Whoever waits for pages is gone, if nobody takes it.
                drop(raw.send(Err(error)).await);
            }
        });
        // The next page is read while the leaves of this one are opened.
        reading.spawn(prove(proving, whole, read_so_far, pages));
        running.feed = Some(Feed {
            pages: received,
            _reading: reading,
            cutter: Cutter::default(),
            is_end: false,
        });
        Ok(())
    }

    /// Makes the next chunk; `None` if there are no more records.
    pub(super) async fn chunk(&self, running: &mut Running) -> Result<Option<Chunk>, Error> {
        let mut feed = running.feed.take().ok_or(Error::Internal)?;
        let Some(first) = self.beating(running, feed.next()).await? else {
            running.feed = Some(feed);
            return Ok(None);
        };
        let mut files = Files::new(self, running)?;
        let made = self.fill(running, &mut feed, first, &mut files).await;
        running.feed = Some(feed);
        match made {
            Ok(made) => Ok(Some(files.finish(made).await?)),
            Err(error) => {
                files.abort().await;
                Err(error)
            }
        }
    }

    async fn fill(
        &self,
        running: &mut Running,
        feed: &mut Feed,
        first: RecordBatch,
        files: &mut Files,
    ) -> Result<ChunkWriter, Error> {
        let schema = first.schema();
        let group_bytes = (self.settings.chunk_bytes / 4).clamp(GROUP_BYTES_MIN, GROUP_BYTES_MAX);
        let group_bytes = usize::try_from(group_bytes).map_err(|_| Error::Internal)?;
        let format = running.job().asked.format;
        let mut writer = ChunkWriter::new(format, &schema, group_bytes)?;
        let mut next = Some(first);
        let before = running.finished();
        let mut beat = Instant::now();
        while let Some(batch) = next {
            let encoding = tokio::task::spawn_blocking(move || {
                writer.write(&batch)?;
                let taken = writer.take();
                Ok::<_, Error>((writer, taken))
            });
            let (encoder, (rows, leaves)) = encoding.await.map_err(|_| Error::Internal)??;
            writer = encoder;
            files.rows.upload.write(&rows).await?;
            if let Some(file) = &mut files.leaves {
                file.upload.write(&leaves).await?;
            }
            running.job_mut().progress.records = before.records + writer.count();
            running.job_mut().progress.bytes = before.bytes + writer.arrow_bytes();
            if beat.elapsed() >= self.settings.beat {
                beat = Instant::now();
                running.save().await?;
            }
            if writer.is_between_groups() && files.rows.upload.bytes() >= self.settings.chunk_bytes
            {
                break;
            }
            next = self.beating(running, feed.next()).await?;
        }
        Ok(writer)
    }

    /// Stores a small file of an export.
    pub(super) async fn store_file(
        &self,
        running: &Running,
        path: &str,
        bytes: &[u8],
    ) -> Result<StoredFile, Error> {
        let file = Storing::new(self, running, path.to_owned())?;
        file.finish(bytes).await
    }
}

/// A file of the bundle on its way into the store.
struct Storing {
    path: String,
    object: String,
    upload: Upload,
}

impl Storing {
    fn new(exports: &Exports, running: &Running, path: String) -> Result<Self, Error> {
        let store = exports.jobs.store(running.job().mandate.silo())?;
        let object = running.object(&path);
        let place = Path::parse(format!("{}/{object}", running.job().folder()));
        let place = place.map_err(|_| Error::Internal)?;
        Ok(Self {
            upload: Upload::new(store, place, running.key()),
            path,
            object,
        })
    }

    /// Ends the file with these bytes.
    async fn finish(mut self, last: &[u8]) -> Result<StoredFile, Error> {
        self.upload.write(last).await?;
        let Uploaded { bytes, sha256 } = self.upload.finish().await?;
        Ok(StoredFile {
            path: self.path,
            object: self.object,
            bytes,
            sha256: hexadecimal(&sha256),
        })
    }
}

/// The files of a chunk that is being made.
struct Files {
    rows: Storing,
    leaves: Option<Storing>,
    places: Option<Storing>,
}

impl Files {
    fn new(exports: &Exports, running: &Running) -> Result<Self, Error> {
        let number = running.job().chunks.len();
        let rows = Manifest::chunk_name(number, running.job().asked.format);
        let pinned = running.job().pinned.as_ref();
        let is_whole = pinned.is_some_and(|pinned| pinned.tree_size.is_some());
        let when_whole = |path: String| {
            let file = is_whole.then(|| Storing::new(exports, running, path));
            file.transpose()
        };
        Ok(Self {
            rows: Storing::new(exports, running, rows)?,
            leaves: when_whole(Manifest::leaves_name(number))?,
            places: when_whole(format!("places-{number:05}"))?,
        })
    }

    async fn finish(self, writer: ChunkWriter) -> Result<Chunk, Error> {
        let arrow_bytes = writer.arrow_bytes();
        let encoding = tokio::task::spawn_blocking(move || writer.finish());
        let encoded = encoding.await.map_err(|_| Error::Internal)??;
        let (last_created_at, last_record_id) = encoded.last.ok_or(Error::Internal)?;
        Ok(Chunk {
            file: self.rows.finish(&encoded.rows).await?,
            rows: encoded.count,
            last_created_at,
            last_record_id,
            leaves: ended(self.leaves, &encoded.leaves).await?,
            places: ended(self.places, &encoded.places).await?,
            arrow_bytes,
        })
    }

    async fn abort(self) {
        let others = [self.leaves, self.places].into_iter().flatten();
        for file in [self.rows].into_iter().chain(others) {
            file.upload.abort().await;
        }
    }
}

async fn ended(file: Option<Storing>, last: &[u8]) -> Result<Option<StoredFile>, Error> {
    match file {
        Some(file) => file.finish(last).await.map(Some),
        None => Ok(None),
    }
}

/// Adds the leaves of their records to pages.
async fn prove(
    selection: Selection,
    pinned: Pinned,
    mut raw: mpsc::Receiver<Result<RecordBatch, Error>>,
    pages: mpsc::Sender<Result<RecordBatch, Error>>,
) {
    while let Some(page) = raw.recv().await {
        let page = match page {
            Ok(page) => proven(&selection, &pinned, page).await,
            Err(error) => Err(error),
        };
        if pages.send(page).await.is_err() {
            return;
        }
    }
}

/// Reads the slices behind a place, page by page.
async fn read(
    selection: &Selection,
    pinned: &Pinned,
    slices: Vec<Slice>,
    after: Option<Place>,
    pages: &mpsc::Sender<Result<RecordBatch, Error>>,
) -> Result<(), Error> {
    let is_left = |slice: &Slice| after.is_none_or(|(moment, _)| slice.until > moment);
    for slice in slices.into_iter().filter(is_left) {
        let records = selection.records(pinned, slice, after).await?;
        let mut records = std::pin::pin!(records);
        let (mut page, mut rows) = (Vec::new(), 0);
        loop {
            let batch = records.try_next().await?;
            let is_end = batch.is_none();
            if let Some(batch) = batch.filter(|batch| batch.num_rows() > 0) {
                rows += batch.num_rows();
                page.push(batch);
            }
            if rows > 0 && (is_end || rows as u64 >= SLICE_RECORDS) {
                let taken = std::mem::take(&mut page);
                rows = 0;
                let schema = taken.first().ok_or(Error::Internal)?.schema();
                let whole = concat_batches(&schema, &taken).map_err(|_| Error::Internal)?;
                if pages.send(Ok(whole)).await.is_err() {
                    return Ok(());
                }
            }
            if is_end {
                break;
            }
        }
    }
    Ok(())
}

/// A page with the leaves of its records, where there are any for this caller.
async fn proven(
    selection: &Selection,
    pinned: &Pinned,
    page: RecordBatch,
) -> Result<RecordBatch, Error> {
    if pinned.tree_size.is_none() {
        return Ok(page);
    }
    let moments = column::<TimestampMicrosecondType>(&page, "created_at")?.values();
    let places = column::<Int64Type>(&page, LEAF_INDEX)?.values();
    let places: Result<Vec<_>, _> = places.iter().map(|place| u64::try_from(*place)).collect();
    let places = places.map_err(|_| Error::Internal)?;
    let (Some(first), Some(last)) = (moments.first(), moments.last()) else {
        return Ok(page);
    };
    let within = (
        Timestamp::from_micros(*first),
        Timestamp::from_micros(*last),
    );
    let permit = selection.permit().await?.reading();
    let log = selection.log();
    let parts = selection
        .logs
        .opened(&permit, &log, within, &places)
        .await?;
    with_parts(&page, &parts)
}
