//! A machine that loses power: what was not synced is gone, in part or whole, and the disk fails when told to.
//!
//! Bytes: a file has what a reader sees and what is on disk. Writes are on disk after a successful sync; when the power
//! goes each of them is there whole, not at all, torn at a byte, or with holes of 512-byte sectors. A failed sync may
//! have written part of it, and drops the rest: readers still see it, no later sync writes it.
//!
//! Names: changes of a directory are on disk after it was synced; when the power goes the first few of those that were
//! not may be there, as a file system with a journal has it.
//!
//! Everything follows from the seed and the order of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile, DiskLock};

const SECTOR: usize = 512;

/// Chance that repeats with its seed.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound` (splitmix64).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    /// True `of` times in a thousand.
    pub(crate) fn permille(&mut self, of: u64) -> bool {
        self.below(1000) < of
    }
}

/// What goes wrong. Nothing does by default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Faults {
    /// How many syncs of a file in a thousand fail.
    pub(crate) sync_permille: u64,
    /// How many syncs of a file fail from now on, before that chance is asked.
    pub(crate) sync_failures: u64,
    /// Bytes that all files together may have.
    pub(crate) capacity: u64,
    /// Syncs of files say `Ok` and do nothing: a disk, or a build, that lies.
    pub(crate) sync_does_nothing: bool,
    /// After how many changes the power goes, in the middle of the next.
    pub(crate) power_after: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            sync_permille: 0,
            sync_failures: 0,
            capacity: u64::MAX,
            sync_does_nothing: false,
            power_after: u64::MAX,
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    seen: Vec<u8>,
    on_disk: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Change {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl Change {
    fn touches(&self, directory: &Path) -> bool {
        let in_it = |path: &PathBuf| path.parent() == Some(directory);
        match self {
            Self::Add(path, _) | Self::Remove(path) => in_it(path),
            Self::Rename(from, to, _) => in_it(from) || in_it(to),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, inode) => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct State {
    chance: Chance,
    faults: Faults,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    names_on_disk: BTreeMap<PathBuf, usize>,
    unsynced: Vec<Change>,
    locks: BTreeSet<PathBuf>,
    boot: u64,
    off: bool,
    changes: u64,
}

/// A machine with one disk.
#[derive(Debug, Clone)]
pub(crate) struct Machine(Arc<Mutex<State>>);

impl Machine {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            chance: Chance::new(seed),
            faults: Faults::default(),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            names_on_disk: BTreeMap::new(),
            unsynced: Vec::new(),
            locks: BTreeSet::new(),
            boot: 0,
            off: false,
            changes: 0,
        })))
    }

    /// Another machine with the same disk.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.state().clone())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The disk as the programs of this boot see it.
    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        let boot = self.state().boot;
        Arc::new(SimulatedDisk {
            machine: self.clone(),
            boot,
        })
    }

    /// Sets what goes wrong from now on; `power_after` counts from here.
    pub(crate) fn faults(&self, faults: Faults) {
        let mut state = self.state();
        state.faults = Faults {
            power_after: faults.power_after.saturating_add(state.changes),
            ..faults
        };
    }

    /// How many changes were asked for so far.
    pub(crate) fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Ends all programs, as a kill does: what readers saw is still there.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.boot += 1;
        state.off = false;
        state.locks.clear();
    }

    /// Cuts the power, if it has not gone already, and switches the machine on again.
    pub(crate) fn lose_power(&self) {
        let state = &mut *self.state();
        let kept = state.chance.index(state.unsynced.len() + 1);
        for change in state.unsynced.drain(..).take(kept) {
            change.apply(&mut state.names_on_disk);
        }
        state.names = state.names_on_disk.clone();
        for inode in &mut state.inodes {
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                tear(&mut state.chance, &mut inode.on_disk, offset, &bytes);
            }
            inode.seen.clone_from(&inode.on_disk);
        }
        state.boot += 1;
        state.off = false;
        state.locks.clear();
        state.faults.power_after = u64::MAX;
    }

    /// The bytes of a file as a reader sees them.
    pub(crate) fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = *state.names.get(path)?;
        Some(state.inodes[inode].seen.clone())
    }

    /// Changes a file behind everybody's back, on disk too.
    pub(crate) fn tamper(&self, path: &Path, change: impl Fn(&mut Vec<u8>)) {
        let mut state = self.state();
        let at = state.names[path];
        let inode = &mut state.inodes[at];
        change(&mut inode.seen);
        inode.on_disk.clone_from(&inode.seen);
        inode.unsynced.clear();
    }
}

/// What a write leaves behind that was under way when the power went.
fn tear(chance: &mut Chance, target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    match chance.below(4) {
        0 => {}
        1 => put(target, offset, bytes),
        2 => {
            let torn = chance.index(bytes.len() + 1);
            put(target, offset, &bytes[..torn]);
        }
        _ => {
            let mut start = 0;
            while start < bytes.len() {
                let end = ((offset + start) / SECTOR + 1) * SECTOR - offset;
                let end = end.min(bytes.len());
                if chance.permille(500) {
                    put(target, offset + start, &bytes[start..end]);
                }
                start = end;
            }
        }
    }
}

fn put(target: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if target.len() < end {
        target.resize(end, 0);
    }
    target[offset..end].copy_from_slice(bytes);
}

impl State {
    /// Counts a change, and says whether the power goes in the middle of it.
    fn change(&mut self) -> bool {
        self.changes += 1;
        if self.changes > self.faults.power_after {
            self.off = true;
        }
        self.off
    }

    fn rename(&mut self, change: Change) -> io::Result<()> {
        let going = self.change();
        if !going || self.chance.permille(500) {
            change.apply(&mut self.names);
            self.unsynced.push(change);
        }
        if going { Err(power()) } else { Ok(()) }
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn used(&self) -> u64 {
        let names: BTreeSet<_> = self
            .names
            .values()
            .chain(self.names_on_disk.values())
            .collect();
        let bytes = names
            .into_iter()
            .map(|inode| self.inodes[*inode].seen.len());
        bytes.sum::<usize>() as u64
    }
}

fn power() -> io::Error {
    io::Error::other("the power is off")
}

#[derive(Debug)]
struct SimulatedDisk {
    machine: Machine,
    boot: u64,
}

impl SimulatedDisk {
    fn on(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.machine.state();
        if state.off || state.boot != self.boot {
            return Err(power());
        }
        Ok(state)
    }

    fn file(&self, inode: usize) -> Box<dyn DiskFile> {
        Box::new(SimulatedFile {
            disk: Self {
                machine: self.machine.clone(),
                boot: self.boot,
            },
            inode,
        })
    }
}

impl Disk for SimulatedDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.on()?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let inode = state.inodes.len();
        state.inodes.push(Inode::default());
        state.rename(Change::Add(path.to_path_buf(), inode))?;
        drop(state);
        Ok(self.file(inode))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.on()?.inode(path)?;
        Ok(self.file(inode))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.on()?;
        let inode = state.inode(path)?;
        Ok(state.inodes[inode].seen.clone())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.on()?;
        let inside = state
            .names
            .keys()
            .filter(|path| path.parent() == Some(directory));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        let inode = state.inode(from)?;
        if state.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.rename(Change::Add(to.to_path_buf(), inode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        let inode = state.inode(from)?;
        state.rename(Change::Rename(from.to_path_buf(), to.to_path_buf(), inode))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        state.inode(path)?;
        state.rename(Change::Remove(path.to_path_buf()))
    }

    fn create_directories(&self, _path: &Path) -> io::Result<()> {
        self.on().map(drop)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut state = self.on()?;
        if state.change() {
            return Err(power());
        }
        let state = &mut *state;
        state.unsynced.retain(|change| {
            let synced = change.touches(path);
            if synced {
                change.apply(&mut state.names_on_disk);
            }
            !synced
        });
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        let mut state = self.on()?;
        if !state.locks.insert(path.to_path_buf()) {
            return Ok(None);
        }
        Ok(Some(Box::new(SimulatedLock {
            machine: self.machine.clone(),
            boot: self.boot,
            path: path.to_path_buf(),
        })))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl DiskFile for SimulatedFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.on()?;
        let offset = usize::try_from(offset).unwrap();
        let going = state.change();
        let room = state.faults.capacity.saturating_sub(state.used());
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let room = room.saturating_add(state.inodes[self.inode].seen.len());
        let fits = room.saturating_sub(offset).min(bytes.len());
        let inode = &mut state.inodes[self.inode];
        put(&mut inode.seen, offset, &bytes[..fits]);
        inode.unsynced.push((offset, bytes[..fits].to_vec()));
        if going {
            Err(power())
        } else if fits < bytes.len() {
            Err(ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.on()?;
        let start = usize::try_from(offset).unwrap();
        let seen = &state.inodes[self.inode].seen;
        let found = seen.get(start..start + bytes.len());
        bytes.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut guard = self.disk.on()?;
        let state = &mut *guard;
        let going = state.change();
        if state.faults.sync_does_nothing {
            return if going { Err(power()) } else { Ok(()) };
        }
        if going && state.chance.permille(500) {
            return Err(power());
        }
        let told = state.faults.sync_failures > 0;
        state.faults.sync_failures = state.faults.sync_failures.saturating_sub(1);
        let fails = told || state.chance.permille(state.faults.sync_permille);
        let inode = &mut state.inodes[self.inode];
        for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
            if fails {
                tear(&mut state.chance, &mut inode.on_disk, offset, &bytes);
            } else {
                put(&mut inode.on_disk, offset, &bytes);
            }
        }
        if going {
            Err(power())
        } else if fails {
            Err(io::Error::other("the disk failed"))
        } else {
            Ok(())
        }
    }
}

#[derive(Debug)]
struct SimulatedLock {
    machine: Machine,
    boot: u64,
    path: PathBuf,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.machine.state();
        if state.boot == self.boot {
            state.locks.remove(&self.path);
        }
    }
}
