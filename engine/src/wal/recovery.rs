//! Opening the log: lock, identity, scan, and a fresh segment that begins with what is perhaps not durable.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use catalog::clock::Random;
use uuid::Uuid;

use super::Settings;
use super::error::Error;
use super::identity::Identity;
use super::reserve;
use super::scan;
use super::segment;
use super::shared::Shared;
use super::writer::Writer;
use crate::disk::{Disk, DiskLock};

/// A log that is ready to be written.
pub(super) struct Opened {
    pub(super) writer: Writer,
    pub(super) generation: u64,
    pub(super) torn_bytes: u64,
}

/// Opens the folder.
///
/// The frames behind the last certain mark of durability may exist only in the operating system's memory: a later loss
/// of power would leave a hole that nobody could tell from damage. So they are written again before anything else.
pub(super) fn open(
    settings: Settings,
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
) -> Result<Opened, Error> {
    let lock = lock(&settings, &*disk)?;
    let folder = &settings.folder;
    let identity = match identity(&settings, &*disk)? {
        Some(identity) => identity,
        None => Identity::make(&*random),
    };
    let identity = reserve::with_room(&*disk, folder, || identity.next(&*disk, folder))
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
        generation: identity.generation,
        torn_bytes: loaded.torn_bytes,
    })
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
