//! Objects on a disk that loses power after every single change: what was acknowledged is there and whole, what was not is
//! whole or absent, and a name that was created never means anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::objects::{Objects, Publish};
use crate::disk::Disk;
use crate::disk::simulated::{Chance, Faults, Machine};

const SEEDS: u64 = 25;
const STEPS: usize = 14;
const NAMES: usize = 5;

/// What callers were told, and what they tried.
#[derive(Debug, Default)]
struct Told {
    /// The last acknowledged content of each name.
    acknowledged: BTreeMap<PathBuf, Vec<u8>>,
    /// Contents tried since then, of which nobody was told.
    tried: BTreeMap<PathBuf, BTreeSet<Vec<u8>>>,
}

impl Told {
    fn acknowledge(&mut self, path: &Path, content: &[u8]) {
        self.acknowledged.insert(path.into(), content.into());
        self.tried.remove(path);
    }

    fn tries(&mut self, path: &Path, content: &[u8]) {
        let tried = self.tried.entry(path.into()).or_default();
        tried.insert(content.into());
    }

    /// What is wrong with what is on the disk.
    fn fault(&self, disk: &dyn Disk) -> Option<String> {
        for path in self.acknowledged.keys().chain(self.tried.keys()) {
            let found = match disk.read(path) {
                Ok(found) => Some(found),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => panic!("{error}"),
            };
            let acknowledged = self.acknowledged.get(path);
            let tried = self.tried.get(path);
            let is_sound = found.as_ref() == acknowledged
                || found
                    .as_ref()
                    .is_some_and(|found| tried.is_some_and(|all| all.contains(found)));
            if !is_sound {
                let (had, has) = (acknowledged.map(Vec::len), found.map(|found| found.len()));
                return Some(format!("{}: {had:?} bytes became {has:?}", path.display()));
            }
        }
        None
    }
}

/// Two processes on one disk that put objects, until something goes wrong.
struct Script {
    chance: Chance,
    writers: [Objects; 2],
    told: Told,
}

impl Script {
    fn new(seed: u64, machine: &Machine, told: Told) -> Self {
        Self {
            chance: Chance::new(seed),
            writers: [Objects::new(machine.disk()), Objects::new(machine.disk())],
            told,
        }
    }

    fn run(&mut self, disk: &dyn Disk) -> io::Result<()> {
        for _ in 0..STEPS {
            let path = PathBuf::from(format!("/silo/{}", self.chance.index(NAMES)));
            match self.chance.below(4) {
                0 => self.put(&path, Publish::Create, disk)?,
                1 => self.put(&path.with_extension("mutable"), Publish::Replace, disk)?,
                2 => self.in_parts(&path.with_extension("mutable"))?,
                _ => self.race(&path, disk)?,
            }
        }
        Ok(())
    }

    fn content(&mut self) -> Vec<u8> {
        let length = 1 + self.chance.index(3_000);
        (0..length)
            .map(|_| u8::try_from(1 + self.chance.below(255)).unwrap())
            .collect()
    }

    fn put(&mut self, path: &Path, how: Publish, disk: &dyn Disk) -> io::Result<()> {
        let content = self.content();
        self.told.tries(path, &content);
        let put = self.writers[0].put(path, content.chunks(700), how);
        self.settle(put, path, &content, disk)
    }

    fn settle(
        &mut self,
        put: io::Result<()>,
        path: &Path,
        content: &[u8],
        disk: &dyn Disk,
    ) -> io::Result<()> {
        match put {
            Ok(()) => self.told.acknowledge(path, content),
            // Whoever is told that the name is taken reads what is there, and relies on it.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = disk.read(path)?;
                if let Some(before) = self.told.acknowledged.get(path) {
                    assert!(*before == there, "a created name changed its content");
                }
                self.told.acknowledge(path, &there);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// As a multipart upload: parts out of order.
    fn in_parts(&mut self, path: &Path) -> io::Result<()> {
        let content = self.content();
        self.told.tries(path, &content);
        let staged = self.writers[1].stage(path)?;
        let middle = content.len() / 2;
        staged.write_at(&content[middle..], middle as u64)?;
        staged.write_at(&content[..middle], 0)?;
        self.writers[1].publish(&staged, path, Publish::Replace)?;
        self.told.acknowledge(path, &content);
        Ok(())
    }

    /// Both processes want the same name, and do their steps in turns.
    fn race(&mut self, path: &Path, disk: &dyn Disk) -> io::Result<()> {
        let contents = [self.content(), self.content()];
        let mut staged = Vec::new();
        for (writer, content) in self.writers.iter().zip(&contents) {
            self.told.tries(path, content);
            staged.push(writer.stage(path)?);
        }
        for (staged, content) in staged.iter().zip(&contents) {
            staged.write_at(content, 0)?;
        }
        let was_free = disk.read(path).is_err();
        let first = self.chance.index(2);
        let mut won = 0;
        for writer in [first, 1 - first] {
            let put = self.writers[writer].publish(&staged[writer], path, Publish::Create);
            won += usize::from(put.is_ok());
            self.settle(put, path, &contents[writer], disk)?;
        }
        assert_eq!(won, usize::from(was_free));
        Ok(())
    }
}

/// Runs a script with the power going after `power_after` changes, and a second one on what is left.
fn lives(seed: u64, power_after: u64, faults: Faults) -> Option<String> {
    let machine = Machine::new(seed);
    machine.faults(Faults {
        power_after,
        ..faults
    });
    let mut script = Script::new(seed, &machine, Told::default());
    // An error is the loss of power. There is none if only the removal of a staged file fell into it.
    let _ = script.run(&*machine.disk());
    machine.lose_power();
    let fault = script.told.fault(&*machine.disk());
    if fault.is_some() {
        return fault;
    }
    // What nobody was told may be there or not: what is there now stays.
    let disk = machine.disk();
    let mut told = script.told;
    for path in std::mem::take(&mut told.tried).into_keys() {
        if let Ok(there) = disk.read(&path) {
            told.acknowledged.insert(path, there);
        }
    }
    let mut script = Script::new(seed + 1_000_000, &machine, told);
    script.run(&*disk).unwrap();
    machine.lose_power();
    script.told.fault(&*machine.disk())
}

/// How often a fault was found, the first of them, and how often the power went.
fn suite(faults: Faults) -> (usize, Option<String>, u64) {
    let (mut count, mut first, mut runs) = (0, None, 0);
    for seed in 0..SEEDS {
        let machine = Machine::new(seed);
        let mut script = Script::new(seed, &machine, Told::default());
        script.run(&*machine.disk()).unwrap();
        for power_after in 0..=machine.changes() {
            runs += 1;
            if let Some(fault) = lives(seed, power_after, faults) {
                count += 1;
                first.get_or_insert(format!("seed {seed}, change {power_after}: {fault}"));
            }
        }
    }
    (count, first, runs)
}

#[test]
fn no_loss_of_power_loses_or_tears_an_object() {
    let (count, first, runs) = suite(Faults::default());
    assert_eq!((count, first), (0, None), "in {runs} runs");
    assert!(
        runs > SEEDS * 40,
        "{runs} runs are too few to mean anything"
    );
}

#[test]
fn the_same_suite_catches_a_build_without_fsync() {
    let faults = Faults {
        sync_does_nothing: true,
        ..Faults::default()
    };
    let (count, _, runs) = suite(faults);
    assert!(count > 100, "{count} of {runs} runs");
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged_until_the_next_start() {
    let machine = Machine::new(1);
    let objects = Objects::new(machine.disk());
    let path = |name: &str| PathBuf::from("/silo").join(name);
    let put = |objects: &Objects, name: &str| {
        objects.put(&path(name), [b"x".as_slice()], Publish::Create)
    };
    put(&objects, "before").unwrap();
    machine.faults(Faults {
        sync_failures: 1,
        ..Faults::default()
    });
    assert!(put(&objects, "failed").is_err());
    assert!(put(&objects, "after").is_err());
    assert!(objects.check().is_err());
    assert_eq!(machine.disk().read(&path("before")).unwrap(), b"x");
    let again = Objects::new(machine.disk());
    put(&again, "failed").unwrap();
    machine.lose_power();
    let disk = machine.disk();
    assert_eq!(disk.list(Path::new("/silo")).unwrap().len(), 2);
    assert_eq!(disk.read(&path("failed")).unwrap(), b"x");
}

#[test]
fn a_disk_that_is_full_takes_objects_again_once_there_is_room() {
    let machine = Machine::new(1);
    let objects = Objects::new(machine.disk());
    machine.faults(Faults {
        capacity: 100,
        ..Faults::default()
    });
    let large = [0; 200];
    let put = |name: &str, content: &[u8]| {
        objects.put(
            &PathBuf::from("/silo").join(name),
            [content],
            Publish::Create,
        )
    };
    assert!(put("large", &large).is_err());
    put("small", &large[..10]).unwrap();
    machine.faults(Faults::default());
    put("large", &large).unwrap();
    let mut names = machine.disk().list(Path::new("/silo")).unwrap();
    names.sort();
    assert_eq!(names, ["large", "small"]);
}
