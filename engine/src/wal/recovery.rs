//! Opening the log: lock, identity, scan, and a fresh segment that begins with what is perhaps not durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use catalog::clock::Random;
use uuid::Uuid;

use super::error::Error;
use super::identity::Identity;
use super::reserve;
use super::scan;
use super::segment;
use super::shared::Shared;
use super::writer::Writer;
use super::{Recovery, Settings, Wal};
use crate::disk::{Disk, DiskLock};

/// A log's folder that this process has taken and not opened yet: what is in it is as it was left.
///
/// Whether it may be opened is decided where all generations are known, so that a folder that is refused stays as old as
/// it is.
#[derive(Debug)]
pub struct Folder {
    settings: Settings,
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    identity: Identity,
    lock: DiskLock,
}

/// A log that is ready to be written.
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) generation: u64,
    pub(super) torn_bytes: u64,
}

/// Takes the folder for the node of this name.
pub(super) fn take(
    settings: Settings,
    node: &str,
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
) -> Result<Folder, Error> {
    let lock = lock(&settings, &*disk)?;
    let identity = match identity(&settings, &*disk)? {
        Some(identity) if identity.node != node => {
            return Err(Error::Elsewhere {
                node: identity.node,
            });
        }
        Some(identity) => identity,
        None => Identity::make(node, &*random),
    };
    Ok(Folder {
        settings,
        disk,
        random,
        identity,
        lock,
    })
}

impl Folder {
    /// Which log this is; made up if there is none yet.
    pub fn id(&self) -> Uuid {
        self.identity.id
    }

    /// The generation that the log was opened with last; 0 if it never was.
    pub fn generation(&self) -> u64 {
        self.identity.generation
    }

    /// Opens the log as of `generation`. Blocks: it reads every segment and makes a fresh one.
    pub fn open(self, generation: u64) -> Result<(Arc<Wal>, Recovery), Error> {
        let opened = self.writer(generation)?;
        let wal = Wal::serve(opened.writer, opened.generation)?;
        let recovery = wal.recovery(opened.torn_bytes);
        Ok((Arc::new(wal), recovery))
    }

    /// The frames behind the last certain mark of durability may exist only in the operating system's memory: a later
    /// loss of power would leave a hole that nobody could tell from damage. So they are written again before anything
    /// else.
    pub(super) fn writer(self, generation: u64) -> Result<Opened, Error> {
        let Self {
            settings,
            disk,
            random,
            mut identity,
            lock,
        } = self;
        let folder = &settings.folder;
        reserve::with_room(&*disk, folder, || {
            identity.raise(generation, &*disk, folder)
        })
        .map_err(Error::io("its identity cannot be written"))?;
        let loaded = scan::load(&*disk, folder, identity.id)?;
        let shared = Shared::new(disk, folder.clone(), identity.id, loaded.index);
        let mut writer = Writer {
            shared: Arc::new(shared),
            settings,
            random,
            chain: loaded.chain,
            last: loaded.last,
            behind: loaded.behind,
            current: None,
            ailing: false,
            _lock: lock,
        };
        let shared = Arc::clone(&writer.shared);
        shared.last.store(writer.chain.position, Ordering::Release);
        reserve::with_room(&*shared.disk, &shared.folder, || writer.start(&loaded.tail))
            .map_err(Error::io("no segment can be made"))?;
        writer.forget(&loaded.leftovers);
        writer.keep_reserve();
        Ok(Opened {
            writer,
            generation,
            torn_bytes: loaded.torn_bytes,
        })
    }
}

/// Takes the folder for this process, and clears it of files that never got their name.
pub(super) fn lock(settings: &Settings, disk: &dyn Disk) -> Result<DiskLock, Error> {
    let folder = &settings.folder;
    disk.create_directories(folder)
        .map_err(Error::io("it cannot be made"))?;
    let lock = disk.lock(&folder.join("lock"));
    let lock = lock.map_err(Error::io("it cannot be locked"))?;
    let lock = lock.ok_or(Error::Locked)?;
    segment::remove_staged(disk, folder).map_err(Error::io("it cannot be cleared"))?;
    Ok(lock)
}

/// The log's identity; `None` if there is no log yet.
pub(super) fn identity(settings: &Settings, disk: &dyn Disk) -> Result<Option<Identity>, Error> {
    let identity = Identity::read(disk, &settings.folder)?;
    if identity.is_none() && !scan::segments(disk, &settings.folder)?.is_empty() {
        return Err(Error::Foreign {
            what: "segments without an identity",
        });
    }
    Ok(identity)
}

/// The id of a log that must exist.
pub(super) fn known_id(settings: &Settings, disk: &dyn Disk) -> Result<Uuid, Error> {
    let known = identity(settings, disk)?.ok_or(Error::Foreign {
        what: "no identity",
    })?;
    Ok(known.id)
}
