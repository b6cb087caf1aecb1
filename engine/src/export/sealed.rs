//! The files of exports as they lie in a store: encrypted, in frames, so that any range of them can be read.
//!
//! ```text
//! object  = frame 0 | frame 1 | … | frame n-1
//! frame i = AES-256-GCM( key, nonce, AAD, clear bytes i × 65,536 … ) with its tag of 16 bytes
//! nonce   = 0x01 in the last frame, 0x00 in the others | 3 zero bytes | i as 8 bytes, big endian
//! AAD     = "trailhouse export object 1\0" | path of the object below the silo's root
//! key     = HKDF(the export's key, "object " | that path)
//! ```
//! Every frame but the last is full, and the last one says that it is (Hoang, Reyhanitabar, Rogaway and Vizár, "Online
//! Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", the STREAM construction), so that nothing can be cut
//! off, put elsewhere or left out. An empty file is one empty frame. A path is written once, so no nonce occurs twice.

use std::ops::Range;
use std::sync::Arc;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use bytes::Bytes;
use catalog::keys::SecretKey;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};

use super::error::Error;

const DOMAIN: &[u8] = b"trailhouse export object 1\0";
const FRAME: usize = 64 * 1024;
const TAG: usize = 16;
/// Bytes of one part of an upload: stores want at least 5 MiB, and at most 10,000 parts.
const PART: usize = 8 << 20;
/// Frames that are read at a time.
const FRAMES_AT_ONCE: u64 = 32;

/// What seals the frames of one object.
struct Frames {
    cipher: Aes256Gcm,
    aad: Vec<u8>,
}

impl Frames {
    fn new(key: &SecretKey, path: &Path) -> Self {
        let key = key.derive(&format!("object {path}"));
        Self {
            cipher: Aes256Gcm::new(key.expose().into()),
            aad: [DOMAIN, path.as_ref().as_bytes()].concat(),
        }
    }

    fn seal(&self, number: u64, is_last: bool, frame: &mut Vec<u8>) -> Result<(), Error> {
        let nonce = nonce(number, is_last);
        let buffer = InOutBuf::from(frame.as_mut_slice());
        let sealed = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), &self.aad, buffer);
        let tag = sealed.map_err(|_| Error::Internal)?;
        frame.extend_from_slice(&tag);
        Ok(())
    }

    fn open(&self, number: u64, is_last: bool, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let (clear, tag) = sealed
            .split_last_chunk::<TAG>()
            .ok_or(Error::ChecksumMismatch)?;
        let mut clear = clear.to_vec();
        let nonce = nonce(number, is_last);
        let buffer = InOutBuf::from(clear.as_mut_slice());
        let opened =
            self.cipher
                .decrypt_inout_detached(&nonce.into(), &self.aad, buffer, &(*tag).into());
        opened.map_err(|_| Error::ChecksumMismatch)?;
        Ok(clear)
    }
}

fn nonce(number: u64, is_last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = u8::from(is_last);
    nonce[4..].copy_from_slice(&number.to_be_bytes());
    nonce
}

/// A file on its way into a store. Dropped before its end, it leaves at most parts that nothing names.
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    path: Path,
    frames: Frames,
    number: u64,
    /// Clear bytes that fill no frame yet.
    clear: Vec<u8>,
    /// Sealed bytes that fill no part yet.
    sealed: Vec<u8>,
    parts: Option<Box<dyn MultipartUpload>>,
    hash: Sha256,
    bytes: u64,
}

/// What a file came to.
pub(super) struct Uploaded {
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

impl Upload {
    /// A file of this path, under the key of its export.
    pub(super) fn new(store: Arc<dyn ObjectStore>, path: Path, key: &SecretKey) -> Self {
        Self {
            frames: Frames::new(key, &path),
            store,
            path,
            number: 0,
            clear: Vec::new(),
            sealed: Vec::new(),
            parts: None,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    /// Clear bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() {
            // A full frame waits until something follows it: it may be the last one.
            if self.clear.len() == FRAME {
                self.seal(false)?;
            }
            let room = FRAME - self.clear.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.clear.extend_from_slice(now);
            rest = later;
            if self.sealed.len() >= PART {
                self.put_part().await?;
            }
        }
        Ok(())
    }

    fn seal(&mut self, is_last: bool) -> Result<(), Error> {
        let mut frame = std::mem::replace(&mut self.clear, Vec::with_capacity(FRAME + TAG));
        self.frames.seal(self.number, is_last, &mut frame)?;
        self.number += 1;
        self.sealed.extend_from_slice(&frame);
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "engine::export writes the files of exports here"
    )]
    async fn put_part(&mut self) -> Result<(), Error> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                let begun = self.store.put_multipart(&self.path).await;
                self.parts.insert(begun.map_err(Error::of_store)?)
            }
        };
        let part = std::mem::take(&mut self.sealed);
        let put = parts.put_part(PutPayload::from(part)).await;
        put.map_err(Error::of_store)
    }

    /// Ends the file; it is durable afterwards.
    #[expect(
        clippy::disallowed_methods,
        reason = "engine::export writes the files of exports here"
    )]
    pub(super) async fn finish(mut self) -> Result<Uploaded, Error> {
        self.seal(true)?;
        if self.parts.is_some() {
            self.put_part().await?;
        }
        match self.parts {
            Some(mut parts) => drop(parts.complete().await.map_err(Error::of_store)?),
            None => {
                let put = self.store.put(&self.path, self.sealed.into()).await;
                drop(put.map_err(Error::of_store)?);
            }
        }
        Ok(Uploaded {
            bytes: self.bytes,
            sha256: self.hash.finalize().into(),
        })
    }

    /// Gives the file up.
    pub(super) async fn abort(self) {
        if let Some(mut parts) = self.parts
            && parts.abort().await.is_err()
        {
            tracing::debug!("parts of an export's file stay in the store");
        }
    }
}

/// A file in a store.
#[derive(Clone)]
pub(super) struct SealedFile {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) key: Arc<SecretKey>,
    /// Clear bytes.
    pub(super) bytes: u64,
}

impl SealedFile {
    /// The clear bytes of a range, which lies in the file.
    pub(super) fn read(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        let file = self.clone();
        let frames = Arc::new(Frames::new(&self.key, &self.path));
        let end = range.end;
        let steps = stream::try_unfold(range.start, move |at| {
            let (file, frames) = (file.clone(), Arc::clone(&frames));
            async move {
                if at >= end {
                    return Ok(None);
                }
                let first = at / FRAME as u64;
                let until = (first + FRAMES_AT_ONCE).min(end.div_ceil(FRAME as u64));
                let clear = file.frames(&frames, first..until).await?;
                let begin = usize::try_from(at - first * FRAME as u64).unwrap_or(usize::MAX);
                let next = end.min(until * FRAME as u64);
                let length = usize::try_from(next - at).unwrap_or(usize::MAX);
                let part = clear.get(begin..begin.saturating_add(length));
                let part = Bytes::copy_from_slice(part.ok_or(Error::ChecksumMismatch)?);
                Ok(Some((part, next)))
            }
        });
        steps.boxed()
    }

    /// All of a file that is known to be small.
    pub(super) async fn read_all(&self) -> Result<Vec<u8>, Error> {
        let parts: Vec<Bytes> = self.read(0..self.bytes).try_collect().await?;
        Ok(parts.concat())
    }

    async fn frames(&self, frames: &Frames, numbers: Range<u64>) -> Result<Vec<u8>, Error> {
        let stride = (FRAME + TAG) as u64;
        let count = self.bytes.div_ceil(FRAME as u64).max(1);
        let size = self.bytes + count * TAG as u64;
        let from = numbers.start * stride;
        let to = (numbers.end * stride).min(size);
        let sealed = self.store.get_range(&self.path, from..to).await;
        let sealed = sealed.map_err(Error::of_store)?;
        if sealed.len() as u64 != to - from {
            return Err(Error::ChecksumMismatch);
        }
        let mut clear = Vec::with_capacity(sealed.len());
        for (number, frame) in numbers.zip(sealed.chunks(FRAME + TAG)) {
            clear.extend(frames.open(number, number + 1 == count, frame)?);
        }
        Ok(clear)
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    async fn stored(length: usize) -> (SealedFile, Vec<u8>) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let key = Arc::new(SecretKey::new([7; 32]));
        let path = Path::from("tenants/acme/exports/a/part-00000.parquet");
        let clear: Vec<u8> = (0..=250).cycle().take(length).collect();
        let mut upload = Upload::new(Arc::clone(&store), path.clone(), &key);
        for piece in clear.chunks(100_000) {
            upload.write(piece).await.unwrap();
        }
        let done = upload.finish().await.unwrap();
        assert_eq!(done.bytes, length as u64);
        assert_eq!(done.sha256, <[u8; 32]>::from(Sha256::digest(&clear)));
        let file = SealedFile {
            store,
            path,
            key,
            bytes: done.bytes,
        };
        (file, clear)
    }

    async fn read(file: &SealedFile, range: Range<u64>) -> Result<Vec<u8>, Error> {
        let parts: Vec<Bytes> = file.read(range).try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn any_range_of_a_file_comes_back() {
        for length in [
            0,
            1,
            FRAME - 1,
            FRAME,
            FRAME + 1,
            3 * FRAME,
            20 * (1 << 20) + 7,
        ] {
            let (file, clear) = stored(length).await;
            assert_eq!(file.read_all().await.unwrap(), clear, "{length}");
            let end = length as u64;
            for (from, to) in [
                (0, end.min(1)),
                (end / 2, end),
                (end.saturating_sub(1), end),
                (end / 3, (end / 3 + 70_000).min(end)),
            ] {
                let at = |place: u64| usize::try_from(place).unwrap();
                let expected = &clear[at(from)..at(to)];
                assert_eq!(read(&file, from..to).await.unwrap(), expected);
            }
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "the test tampers with the store")]
    async fn what_was_changed_does_not_open() {
        let (file, clear) = stored(2 * FRAME + 10).await;
        let sealed = file.store.get(&file.path).await.unwrap();
        let sealed = sealed.bytes().await.unwrap().to_vec();
        assert!(sealed.windows(64).all(|window| window != &clear[..64]));
        let frame = FRAME + TAG;
        let flipped = |at: usize| {
            let mut bytes = sealed.clone();
            bytes[at] ^= 1;
            bytes
        };
        let swapped = [
            &sealed[frame..2 * frame],
            &sealed[..frame],
            &sealed[2 * frame..],
        ]
        .concat();
        for tampered in [
            flipped(0),
            flipped(frame),
            flipped(sealed.len() - 1),
            swapped,
            sealed[..2 * frame].to_vec(),
        ] {
            file.store.put(&file.path, tampered.into()).await.unwrap();
            assert!(file.read_all().await.is_err());
        }
        // Of two frames the second is not the last one of a file of two, and of another path nothing opens.
        let cut = SealedFile {
            bytes: 2 * FRAME as u64,
            ..file.clone()
        };
        file.store
            .put(&file.path, sealed[..2 * frame].to_vec().into())
            .await
            .unwrap();
        assert!(cut.read_all().await.is_err());
        let elsewhere = Path::from("tenants/acme/exports/a/part-00001.parquet");
        file.store.put(&elsewhere, sealed.into()).await.unwrap();
        let moved = SealedFile {
            path: elsewhere,
            ..file
        };
        assert!(moved.read_all().await.is_err());
    }
}
