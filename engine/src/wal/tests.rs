//! The log on the operating system's disk: what it keeps, what it refuses, what it gives back.

use std::sync::Arc;

use super::testing::World;
use super::*;

fn text(frames: &[(u64, Vec<u8>)]) -> Vec<(u64, String)> {
    frames
        .iter()
        .map(|(position, payload)| (*position, String::from_utf8(payload.clone()).unwrap()))
        .collect()
}

#[tokio::test]
async fn what_was_acknowledged_comes_back_in_order_and_by_source() {
    let world = World::new(&["acme", "globex"]).await;
    let (wal, recovery) = world.open();
    assert_eq!((recovery.generation, recovery.last_position), (1, 0));
    assert!(recovery.sources.is_empty());
    for number in 0..10_u32 {
        let source = usize::from(number % 3 == 0);
        let payload = format!("payload {number}");
        let position = world.append(&wal, source, payload.as_bytes()).await;
        assert_eq!(position, u64::from(number) + 1);
    }
    let id = wal.id();
    wal.close().await;

    let (wal, recovery) = world.open();
    assert_eq!((recovery.id, recovery.generation), (id, 2));
    assert_eq!((recovery.last_position, recovery.torn_bytes), (10, 0));
    let mut counts: Vec<_> = recovery
        .sources
        .iter()
        .map(|pending| (pending.source.tenant.as_str(), pending.frames))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [("acme", 6), ("globex", 4)]);
    let expected: Vec<_> = [1, 4, 7, 10]
        .map(|position| (position, format!("payload {}", position - 1)))
        .into();
    assert_eq!(text(&world.frames(&wal, 1).await), expected);
    assert_eq!(world.frames(&wal, 0).await.len(), 6);
    assert_eq!(world.append(&wal, 0, b"later").await, 11);
}

#[tokio::test]
async fn a_log_that_was_not_closed_gives_back_everything() {
    let world = World::new(&["acme"]).await;
    for round in 0..5_u64 {
        let (wal, recovery) = world.open();
        assert_eq!(recovery.last_position, round * 3);
        for number in 0..3 {
            world.append(&wal, 0, &[number]).await;
        }
        assert_eq!(world.frames(&wal, 0).await.len() as u64, (round + 1) * 3);
        // As after a kill: whatever the process did not do on its way out is not needed.
        let files = world.files();
        wal.close().await;
        for (name, bytes) in files {
            std::fs::write(world.folder().join(name), bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn concurrent_appends_of_many_sources_take_every_position_once() {
    let world = Arc::new(World::new(&["a", "b", "c"]).await);
    let (wal, _) = world.open();
    let tasks: Vec<_> = (0..60_usize)
        .map(|number| {
            let (world, wal) = (Arc::clone(&world), Arc::clone(&wal));
            tokio::spawn(
                async move { world.append(&wal, number % 3, &vec![7; number * 100]).await },
            )
        })
        .collect();
    let mut positions = Vec::new();
    for task in tasks {
        positions.push(task.await.unwrap());
    }
    positions.sort_unstable();
    assert_eq!(positions, (1..=60).collect::<Vec<_>>());
    wal.close().await;
    let (wal, _) = world.open();
    let mut found = Vec::new();
    for source in 0..3 {
        found.extend(world.frames(&wal, source).await.iter().map(|frame| frame.0));
    }
    found.sort_unstable();
    assert_eq!(found, positions);
}

#[tokio::test]
async fn a_second_process_is_told_so() {
    let world = World::new(&[]).await;
    let (wal, _) = world.open();
    let second = world.try_open(world.settings());
    assert!(matches!(second, Err(Error::Locked)));
    wal.close().await;
    world.open();
}

#[tokio::test]
async fn nothing_lies_on_disk_in_clear() {
    let world = World::new(&["acme"]).await;
    let (wal, _) = world.open();
    let canary = b"canary-e3b0c44298fc1c14";
    for _ in 0..20 {
        world.append(&wal, 0, canary).await;
    }
    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    let files = world.files();
    assert!(files.values().any(|bytes| holds(bytes, b"acme")));
    assert!(!files.values().any(|bytes| holds(bytes, canary)));
    let printed = format!(
        "{wal:?} {:?}",
        wal.recover(&world.sources[0].0, &world.keys).await
    );
    assert!(!printed.contains("canary"));
}

#[tokio::test]
async fn frames_wait_for_an_absent_key_service() {
    let world = World::new(&["acme"]).await;
    let (wal, _) = world.open();
    world.append(&wal, 0, b"kept").await;
    wal.close().await;
    world.key_service(true);
    let (wal, _) = world.open();
    let refused = wal.recover(&world.sources[0].0, &world.keys).await;
    assert!(matches!(refused, Err(Error::KeyUnavailable(_))));
    wal.carry_forward(&world.sources[0].0).await.unwrap();
    world.key_service(false);
    assert_eq!(text(&world.frames(&wal, 0).await), [(1, "kept".to_owned())]);
}

#[tokio::test]
async fn a_closed_log_refuses() {
    let world = World::new(&["acme"]).await;
    let (wal, _) = world.open();
    wal.close().await;
    let (source, key) = &world.sources[0];
    let refused = wal.append(source, key, vec![1]).await;
    assert_eq!(refused, Err(AppendError::Stopped));
    let refused = wal
        .append(source, key, vec![1; PAYLOAD_BYTES_MAX + 1])
        .await;
    assert_eq!(refused, Err(AppendError::TooLarge));
}

#[tokio::test]
async fn segments_go_when_every_source_has_released_them() {
    let world = World::new(&["acme", "globex"]).await;
    let (wal, _) = world.open();
    let mut last = 0;
    for number in 0..60 {
        last = world.append(&wal, number % 2, &[0; 8 * 1024]).await;
    }
    let before = world.files().len();
    assert!(before > 6, "{before} files");
    wal.release(&world.sources[0].0, last);
    let _ = wal.carry_forward(&world.sources[0].0).await;
    assert_eq!(
        world.files().len(),
        before,
        "the other source needs them all"
    );
    wal.release(&world.sources[1].0, last);
    let _ = wal.carry_forward(&world.sources[0].0).await;
    assert_eq!(
        world.files().len(),
        4,
        "identity, lock, reserve, one segment"
    );
    assert!(wal.bytes() < 1024, "{} bytes are left", wal.bytes());
    wal.close().await;
    let (wal, recovery) = world.open();
    assert!(recovery.sources.is_empty());
    assert_eq!(recovery.last_position, last);
    assert_eq!(world.append(&wal, 0, b"next").await, last + 1);
}
