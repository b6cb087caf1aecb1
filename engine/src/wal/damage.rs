//! Damage: every byte of a segment changed, segments taken away, and what the operator can save.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use catalog::clock::SystemRandom;
use tokio::sync::{Semaphore, oneshot};

use super::testing::{World, next};
use super::writer::{Job, Writer};
use super::*;
use crate::disk::simulated::{Faults, Machine};

fn settings() -> Settings {
    Settings {
        folder: "/wal".into(),
        segment_bytes_max: 1 << 20,
        bytes_max: 1 << 22,
    }
}

fn open(machine: &Machine) -> Result<Writer, Error> {
    next(settings(), machine.disk(), Arc::new(SystemRandom)).map(|opened| opened.writer)
}

fn segment_of(first: u64) -> PathBuf {
    segment::path(Path::new("/wal"), first)
}

fn append(world: &World, writer: &mut Writer, payloads: &[&str]) -> Vec<Option<u64>> {
    let room = Arc::new(Semaphore::new(1 << 20));
    let (mut jobs, mut answers) = (Vec::new(), Vec::new());
    for payload in payloads {
        let (source, key) = &world.sources[0];
        let (reply, answer) = oneshot::channel();
        jobs.push(Job {
            source: source.clone(),
            key: Arc::clone(key),
            payload: payload.as_bytes().to_vec().into(),
            reply,
            since: Instant::now(),
            _room: Arc::clone(&room).try_acquire_owned().unwrap(),
        });
        answers.push(answer);
    }
    writer.commit(jobs);
    let answers = answers.into_iter();
    answers
        .map(|mut answer| Some(answer.try_recv().unwrap().ok()?.position))
        .collect()
}

async fn payloads(world: &World, writer: &Writer) -> Vec<String> {
    let frames = recover(&writer.shared, &world.sources[0].0, &world.keys).await;
    let frames = frames.unwrap().into_iter();
    frames
        .map(|frame| String::from_utf8(frame.payload.to_vec()).unwrap())
        .collect()
}

/// Three groups in one segment, then a kill.
async fn three_groups(world: &World, confirmed: bool) -> Machine {
    let machine = Machine::new(1);
    let mut writer = open(&machine).unwrap();
    append(world, &mut writer, &["a", "b"]);
    append(world, &mut writer, &["c"]);
    append(world, &mut writer, &["d", "e"]);
    if confirmed {
        writer.confirm();
    }
    machine.kill();
    machine
}

async fn flip_every_byte(confirmed: bool) -> (usize, usize) {
    let world = World::new(&["acme"]).await;
    let machine = three_groups(&world, confirmed).await;
    let path = segment_of(1);
    let length = machine.bytes(&path).unwrap().len();
    let (mut refused, mut opened) = (0, 0);
    for at in 0..length {
        let machine = machine.copy();
        machine.tamper(&path, |bytes| bytes[at] ^= 1 << (at % 8));
        match open(&machine) {
            Err(Error::Corrupt { segment, position }) => {
                assert_eq!(segment, 1, "byte {at}");
                assert!((1..=6).contains(&position), "byte {at}");
                refused += 1;
            }
            Err(error) => panic!("byte {at}: {error:?}"),
            Ok(writer) => {
                let found = payloads(&world, &writer).await;
                let all = ["a", "b", "c", "d", "e"];
                // Without a word behind it the last group could be one that was never acknowledged.
                let certain = if confirmed { 5 } else { 3 };
                assert!(found.len() >= certain, "byte {at}: {found:?}");
                assert_eq!(found, all[..found.len()], "byte {at}");
                opened += 1;
            }
        }
    }
    (refused, opened)
}

#[tokio::test]
async fn a_changed_byte_never_loses_what_was_confirmed() {
    let (refused, opened) = flip_every_byte(true).await;
    // Only the confirm frame itself, of 37 bytes, can change without harm.
    assert_eq!(opened, 37);
    assert!(refused > 700, "{refused} refusals");
}

#[tokio::test]
async fn a_changed_byte_before_the_last_group_is_never_taken_for_a_torn_tail() {
    let (refused, opened) = flip_every_byte(false).await;
    assert!(refused > 500 && opened > 100, "{refused} {opened}");
}

#[tokio::test]
async fn a_torn_tail_is_dropped_at_every_length() {
    let world = World::new(&["acme"]).await;
    let machine = three_groups(&world, false).await;
    let path = segment_of(1);
    let length = machine.bytes(&path).unwrap().len();
    // The last group begins 2 * (81 + 1) bytes before the end.
    for cut in length - 164..length {
        let machine = machine.copy();
        machine.tamper(&path, |bytes| bytes.truncate(cut));
        let mut writer = open(&machine).unwrap();
        let found = payloads(&world, &writer).await;
        assert_eq!(
            found.len(),
            if cut < length - 82 { 3 } else { 4 },
            "cut at {cut}"
        );
        let next = found.len() as u64 + 1;
        assert_eq!(append(&world, &mut writer, &["next"]), [Some(next)]);
        machine.kill();
        let writer = open(&machine).unwrap();
        assert_eq!(payloads(&world, &writer).await.last().unwrap(), "next");
    }
}

#[tokio::test]
async fn the_operator_can_set_a_damaged_segment_aside() {
    let world = World::new(&["acme"]).await;
    let machine = three_groups(&world, true).await;
    let path = segment_of(1);
    let sealed = machine.bytes(&path).unwrap();
    // In the ciphertext of "c", the third frame: one bit.
    let at = sealed.len() - 37 - 164 - 10;
    machine.tamper(&path, |bytes| bytes[at] ^= 1);
    let damaged = machine.bytes(&path);
    for _ in 0..2 {
        let refused = open(&machine).err();
        let expected = (1, 3);
        assert!(
            matches!(refused, Some(Error::Corrupt { segment, position }) if (segment, position) == expected)
        );
    }
    let report = Wal::set_aside(&settings(), &*machine.disk(), &SystemRandom).unwrap();
    let source = world.sources[0].0.clone();
    let expected = SetAside {
        segment: 1,
        lost: vec![(3, 3)],
        saved: vec![(source.clone(), 4)],
        concerned: vec![source],
    };
    assert_eq!(report, [expected]);
    assert_eq!(
        machine.bytes(&Path::new("/wal/unreadable").join(path.file_name().unwrap())),
        damaged
    );
    machine.lose_power();
    let mut writer = open(&machine).unwrap();
    assert_eq!(payloads(&world, &writer).await, ["a", "b", "d", "e"]);
    assert_eq!(append(&world, &mut writer, &["f"]), [Some(6)]);
    machine.lose_power();
    let writer = open(&machine).unwrap();
    assert_eq!(payloads(&world, &writer).await, ["a", "b", "d", "e", "f"]);
    let nothing = Wal::set_aside(&settings(), &*machine.disk(), &SystemRandom);
    assert!(matches!(nothing, Err(Error::Locked)));
    machine.kill();
    let nothing = Wal::set_aside(&settings(), &*machine.disk(), &SystemRandom);
    assert_eq!(nothing.unwrap(), []);
}

/// Three segments with three frames each, and a fourth that is empty.
async fn three_segments(world: &World) -> Machine {
    let machine = Machine::new(1);
    for names in [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]] {
        let mut writer = open(&machine).unwrap();
        append(world, &mut writer, &names);
        writer.confirm();
        machine.kill();
    }
    open(&machine).unwrap();
    machine.kill();
    machine
}

async fn take_away(first: u64, missing: u64, left: &[&str]) {
    let world = World::new(&["acme"]).await;
    let machine = three_segments(&world).await;
    machine.disk().remove(&segment_of(first)).unwrap();
    let refused = open(&machine).err();
    assert!(
        matches!(refused, Some(Error::Missing { position }) if position == missing),
        "{refused:?}"
    );
    machine.kill();
    let report = Wal::set_aside(&settings(), &*machine.disk(), &SystemRandom).unwrap();
    assert_eq!(report.len(), 1);
    assert_eq!(report[0].lost, [(first, first + 2)]);
    let mut writer = open(&machine).unwrap();
    assert_eq!(payloads(&world, &writer).await, left);
    assert_eq!(append(&world, &mut writer, &["next"]), [Some(10)]);
}

#[tokio::test]
async fn a_segment_that_is_gone_is_missed() {
    take_away(1, 1, &["d", "e", "f", "g", "h", "i"]).await;
    take_away(4, 4, &["a", "b", "c", "g", "h", "i"]).await;
    take_away(7, 7, &["a", "b", "c", "d", "e", "f"]).await;
}

#[tokio::test]
async fn a_damaged_head_loses_its_segment_and_no_other() {
    let world = World::new(&["acme"]).await;
    for first in [1, 4, 7, 10] {
        let machine = three_segments(&world).await;
        machine.tamper(&segment_of(first), |bytes| bytes[30] ^= 4);
        let refused = open(&machine).err();
        assert!(matches!(refused, Some(Error::Corrupt { segment, .. }) if segment == first));
        let report = Wal::set_aside(&settings(), &*machine.disk(), &SystemRandom).unwrap();
        assert_eq!((report.len(), report[0].segment), (1, first));
        let mut writer = open(&machine).unwrap();
        let left = payloads(&world, &writer).await.len();
        assert_eq!(left, if first == 10 { 9 } else { 6 });
        let next = append(&world, &mut writer, &["next"])[0].unwrap();
        assert!(next >= 10);
    }
}

#[tokio::test]
async fn foreign_files_are_refused() {
    let world = World::new(&["acme"]).await;
    let machine = three_groups(&world, true).await;
    let other = machine.copy();
    machine.disk().remove(Path::new("/wal/wal.id")).unwrap();
    assert!(matches!(open(&machine).err(), Some(Error::Foreign { .. })));

    other.tamper(Path::new("/wal/wal.id"), |bytes| bytes[10] ^= 1);
    assert!(matches!(open(&other).err(), Some(Error::Foreign { .. })));
}

#[tokio::test]
async fn a_failed_sync_is_answered_from_a_fresh_segment() {
    let world = World::new(&["acme"]).await;
    let machine = Machine::new(1);
    let mut writer = open(&machine).unwrap();
    append(&world, &mut writer, &["a"]);
    // The first sync fails, and every one that follows does until the faults end.
    machine.faults(Faults {
        sync_permille: 1000,
        ..Faults::default()
    });
    assert_eq!(
        append(&world, &mut writer, &["given up", "too"]),
        [None, None]
    );
    machine.faults(Faults::default());
    assert_eq!(append(&world, &mut writer, &["b"]), [Some(2)]);
    let once = Faults {
        sync_failures: 1,
        ..Faults::default()
    };
    machine.faults(once);
    assert_eq!(append(&world, &mut writer, &["c"]), [Some(3)]);
    machine.lose_power();
    let writer = open(&machine).unwrap();
    assert_eq!(payloads(&world, &writer).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let world = World::new(&["acme"]).await;
    let machine = Machine::new(1);
    let mut writer = open(&machine).unwrap();
    append(&world, &mut writer, &["a"]);
    machine.faults(Faults {
        capacity: 2000,
        ..Faults::default()
    });
    let large = "x".repeat(4000);
    let (source, _) = &world.sources[0];
    assert_eq!(append(&world, &mut writer, &[&large]), [None]);
    machine.faults(Faults::default());
    assert_eq!(append(&world, &mut writer, &["b"]), [Some(2)]);
    writer.shared.index().release(source, 1);
    machine.lose_power();
    let writer = open(&machine).unwrap();
    assert!(payloads(&world, &writer).await.ends_with(&["b".to_owned()]));
}

#[tokio::test]
async fn a_disk_that_the_log_has_filled_is_freed_by_release() {
    let world = World::new(&["acme"]).await;
    for restart in [false, true] {
        let machine = Machine::new(1);
        let mut writer = open(&machine).unwrap();
        machine.faults(Faults {
            capacity: 60_000,
            ..Faults::default()
        });
        let large = "x".repeat(1000);
        let taken = std::iter::from_fn(|| append(&world, &mut writer, &[&large])[0]).count();
        assert!(taken > 20, "{taken}");
        if restart {
            machine.kill();
            writer = open(&machine).unwrap();
        }
        assert_eq!(payloads(&world, &writer).await.len(), taken);
        let last = writer.chain.position;
        writer.shared.index().release(&world.sources[0].0, last);
        writer.tidy();
        let left = writer.shared.index().bytes();
        assert!(left < 2000, "{left} bytes, restart {restart}");
        assert_eq!(append(&world, &mut writer, &[&large]), [Some(last + 1)]);
        machine.lose_power();
        let writer = open(&machine).unwrap();
        // What shared the segment may come back with it: a release lives in memory.
        assert_eq!(payloads(&world, &writer).await.last(), Some(&large));
    }
}

#[tokio::test]
async fn the_log_takes_no_more_than_its_own_limit() {
    let world = World::new(&["acme"]).await;
    let machine = Machine::new(1);
    let mut settings = settings();
    (settings.segment_bytes_max, settings.bytes_max) = (8192, 32_768);
    let opened = next(settings, machine.disk(), Arc::new(SystemRandom));
    let mut writer = opened.unwrap().writer;
    let large = "x".repeat(3000);
    let taken = (0..20)
        .map_while(|_| append(&world, &mut writer, &[&large])[0])
        .count();
    assert!((5..11).contains(&taken), "{taken}");
    assert!(writer.shared.index().bytes() <= 32_768);
    let last = writer.chain.position;
    writer.shared.index().release(&world.sources[0].0, last);
    writer.tidy();
    assert!(writer.shared.index().bytes() < 1000);
    assert_eq!(append(&world, &mut writer, &[&large]), [Some(last + 1)]);
}

#[tokio::test]
async fn frames_that_pin_old_segments_are_carried_forward_with_their_positions() {
    let world = World::new(&["acme"]).await;
    let machine = Machine::new(1);
    let mut writer = open(&machine).unwrap();
    append(&world, &mut writer, &["a", "b", "c"]);
    let before = recover(&writer.shared, &world.sources[0].0, &world.keys)
        .await
        .unwrap();
    writer.start(&[]).unwrap();
    writer.carry(Some(&world.sources[0].0)).unwrap();
    writer.tidy();
    assert_eq!(writer.shared.index().oldest(), Some(4));
    assert_eq!(append(&world, &mut writer, &["d"]), [Some(7)]);
    // Twice, and over a restart.
    writer.start(&[]).unwrap();
    writer.carry(Some(&world.sources[0].0)).unwrap();
    machine.lose_power();
    let writer = open(&machine).unwrap();
    let after = recover(&writer.shared, &world.sources[0].0, &world.keys)
        .await
        .unwrap();
    let places = |frames: &[Frame]| -> Vec<_> {
        frames
            .iter()
            .map(|frame| (frame.position, frame.digest))
            .collect()
    };
    assert_eq!(places(&after)[..3], places(&before));
    assert_eq!(payloads(&world, &writer).await, ["a", "b", "c", "d"]);
    assert_eq!(after[3].position, 7);
}
