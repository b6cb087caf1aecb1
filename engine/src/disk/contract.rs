//! What every disk keeps, and that the simulated one loses what it may lose.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::simulated::{Faults, Machine};
use super::*;

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn check(disk: &dyn Disk, folder: &Path) {
    let (one, two) = (folder.join("one"), folder.join("two"));
    disk.create_directories(folder).unwrap();
    disk.create_directories(folder).unwrap();
    let file = disk.create(&one).unwrap();
    assert_eq!(kind(disk.create(&one)), Some(ErrorKind::AlreadyExists));
    file.write_all_at(b"hello", 0).unwrap();
    file.write_all_at(b"w", 6).unwrap();
    file.sync_data().unwrap();
    disk.sync_directory(folder).unwrap();
    assert_eq!(disk.read(&one).unwrap(), b"hello\0w");

    let mut bytes = [0; 3];
    let opened = disk.open(&one).unwrap();
    opened.read_exact_at(&mut bytes, 1).unwrap();
    assert_eq!(&bytes, b"ell");
    let short = opened.read_exact_at(&mut bytes, 5);
    assert_eq!(kind(short), Some(ErrorKind::UnexpectedEof));

    disk.link(&one, &two).unwrap();
    assert_eq!(kind(disk.link(&one, &two)), Some(ErrorKind::AlreadyExists));
    disk.remove(&one).unwrap();
    assert_eq!(disk.read(&two).unwrap(), b"hello\0w");
    disk.create(&one).unwrap();
    disk.rename(&one, &two).unwrap();
    assert_eq!(disk.read(&two).unwrap(), b"");
    assert_eq!(disk.list(folder).unwrap(), ["two"]);
    for missing in [
        kind(disk.open(&one)),
        kind(disk.read(&one)),
        kind(disk.remove(&one)),
        kind(disk.link(&one, &two)),
        kind(disk.rename(&one, &two)),
    ] {
        assert_eq!(missing, Some(ErrorKind::NotFound));
    }
    let held = disk.lock(&folder.join("lock")).unwrap();
    assert!(held.is_some());
    assert!(disk.lock(&folder.join("lock")).unwrap().is_none());
    drop(held);
    assert!(disk.lock(&folder.join("lock")).unwrap().is_some());
}

#[test]
fn the_operating_system_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    check(&SystemDisk, &folder.path().join("a").join("b"));
}

#[test]
fn the_simulated_disk_keeps_the_contract() {
    check(&*Machine::new(1).disk(), Path::new("/a/b"));
}

/// What is left of a file's bytes after a loss of power, by seed.
fn survivors(faults: Faults, sync: bool, sync_names: bool) -> Vec<Option<Vec<u8>>> {
    let path = Path::new("/a/file");
    let left = (0..200).map(|seed| {
        let machine = Machine::new(seed);
        let disk = machine.disk();
        machine.faults(faults);
        let file = disk.create(path).unwrap();
        file.write_all_at(&[7; 2000], 0).unwrap();
        if sync {
            let _ = file.sync_data();
        }
        if sync_names {
            disk.sync_directory(Path::new("/a")).unwrap();
        }
        machine.lose_power();
        assert!(file.write_all_at(b"late", 0).is_err(), "of another boot");
        machine.bytes(path)
    });
    left.collect()
}

#[test]
fn only_what_was_synced_survives_a_loss_of_power() {
    let whole = Some(vec![7; 2000]);
    let none = Faults::default();
    let all = survivors(none, true, true);
    assert!(all.iter().all(|left| *left == whole));

    let nameless = survivors(none, true, false);
    assert!(nameless.contains(&None) && nameless.contains(&whole));

    let unsynced = survivors(none, false, true);
    let holed = |left: &Option<Vec<u8>>| {
        left.as_ref().is_some_and(|bytes| {
            let zero = bytes.iter().position(|byte| *byte == 0);
            zero.is_some_and(|at| bytes[at..].contains(&7))
        })
    };
    let short = |left: &Option<Vec<u8>>| {
        left.as_ref()
            .is_some_and(|bytes| !bytes.is_empty() && bytes.len() % 512 != 0 && bytes.len() < 2000)
    };
    assert!(unsynced.contains(&whole) && unsynced.contains(&Some(Vec::new())));
    assert!(unsynced.iter().any(holed) && unsynced.iter().any(short));

    let failing = Faults {
        sync_permille: 1000,
        ..none
    };
    assert!(
        survivors(failing, true, true)
            .iter()
            .any(|left| *left != whole)
    );
    let lying = Faults {
        sync_does_nothing: true,
        ..none
    };
    assert!(
        survivors(lying, true, true)
            .iter()
            .any(|left| *left != whole)
    );
}

#[test]
fn a_failed_sync_drops_what_readers_still_see() {
    let lost = (0..50).filter(|seed| {
        let machine = Machine::new(*seed);
        let disk = machine.disk();
        let path = Path::new("/a/file");
        let file = disk.create(path).unwrap();
        disk.sync_directory(Path::new("/a")).unwrap();
        file.write_all_at(&[7; 600], 0).unwrap();
        machine.faults(Faults {
            sync_permille: 1000,
            ..Faults::default()
        });
        file.sync_data().unwrap_err();
        machine.faults(Faults::default());
        file.sync_data().unwrap();
        assert_eq!(disk.read(path).unwrap(), [7; 600]);
        machine.lose_power();
        machine.bytes(path) != Some(vec![7; 600])
    });
    assert!(lost.count() > 10);
}

#[test]
fn a_full_disk_takes_what_fits() {
    let machine = Machine::new(1);
    let disk = machine.disk();
    machine.faults(Faults {
        capacity: 1000,
        ..Faults::default()
    });
    let file = disk.create(Path::new("/a/file")).unwrap();
    file.write_all_at(&[7; 900], 0).unwrap();
    assert_eq!(
        kind(file.write_all_at(&[8; 200], 900)),
        Some(ErrorKind::StorageFull)
    );
    file.write_all_at(&[9; 200], 100).unwrap();
    assert_eq!(disk.read(Path::new("/a/file")).unwrap().len(), 1000);
    disk.remove(Path::new("/a/file")).unwrap();
    disk.sync_directory(Path::new("/a")).unwrap();
    let file = disk.create(Path::new("/a/other")).unwrap();
    file.write_all_at(&[8; 1000], 0).unwrap();
}

#[test]
fn the_power_goes_in_the_middle_of_a_change() {
    for after in 0..4 {
        let machine = Machine::new(after);
        let disk = machine.disk();
        machine.faults(Faults {
            power_after: after,
            ..Faults::default()
        });
        let run = || -> io::Result<()> {
            let file = disk.create(Path::new("/a/file"))?;
            file.write_all_at(b"x", 0)?;
            file.sync_data()?;
            disk.sync_directory(Path::new("/a"))
        };
        run().unwrap_err();
        assert_eq!(machine.changes(), after + 1);
        assert!(disk.read(Path::new("/a/file")).is_err());
        machine.lose_power();
        assert!(Arc::clone(&disk).list(Path::new("/a")).is_err());
        assert!(machine.disk().list(Path::new("/a")).is_ok());
    }
}
