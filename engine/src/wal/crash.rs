//! The crash suite: random lives of a log on a machine that loses power, and a checker that knows what it was told.
//!
//! A round is reproduced by its seed. The same suite must find losses on a disk whose syncs do nothing: that it does is
//! what shows that it would find them here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, oneshot};

use super::testing::{World, next};
use super::writer::{Job, Writer};
use super::*;
use crate::disk::simulated::{Chance, Faults, Machine};

/// Rounds in the ordinary run. A build with `TRAILHOUSE_NIGHTLY` set does a hundred times as many.
const ROUNDS: u64 = 300;

fn rounds() -> u64 {
    ROUNDS
        * if option_env!("TRAILHOUSE_NIGHTLY").is_some() {
            100
        } else {
            1
        }
}

/// A frame that was sent, and what is known of it.
struct Sent {
    source: usize,
    payload: Vec<u8>,
    /// Where it stands: it was acknowledged, or found after a restart.
    at: Option<(u64, [u8; 32])>,
    released: bool,
}

/// What happened in all rounds.
#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    refused: u64,
    power_losses: u64,
    kills: u64,
    openings: u64,
    torn: u64,
    survivors: u64,
    removed: u64,
}

/// One round: a machine, and what its users were told.
struct Round<'a> {
    world: &'a World,
    machine: Machine,
    chance: Chance,
    sent: Vec<Sent>,
    faults: Faults,
    room: Arc<Semaphore>,
    last_position: u64,
}

impl<'a> Round<'a> {
    fn new(world: &'a World, seed: u64, sync_does_nothing: bool) -> Self {
        Self {
            world,
            machine: Machine::new(seed),
            chance: Chance::new(seed ^ 0x7472_6169_6c68_6f75),
            sent: Vec::new(),
            faults: Faults {
                sync_does_nothing,
                ..Faults::default()
            },
            room: Arc::new(Semaphore::new(1 << 24)),
            last_position: 0,
        }
    }

    async fn run(&mut self, counts: &mut Counts) -> Result<(), String> {
        let settings = Settings {
            folder: "/wal".into(),
            segment_bytes_max: 2048 << self.chance.below(4),
            bytes_max: 40_000 << self.chance.below(3),
        };
        for _ in 0..4 + self.chance.below(4) {
            let faults = self.life_faults();
            self.machine.faults(faults);
            if let Some(mut writer) = self.open(&settings, counts).await? {
                self.live(&mut writer, counts);
                self.end(writer, counts);
            }
        }
        self.machine.faults(self.faults);
        match self.open(&settings, counts).await? {
            Some(_) => Ok(()),
            None => Err("a healthy machine does not open the log".to_owned()),
        }
    }

    fn life_faults(&mut self) -> Faults {
        let mut faults = self.faults;
        if self.chance.permille(700) {
            faults.power_after = self.chance.below(80);
        }
        if self.chance.permille(300) {
            faults.sync_permille = self.chance.below(400);
        }
        if self.chance.permille(200) {
            faults.capacity = 10_000 + self.chance.below(60_000);
        }
        faults
    }

    /// Opens the log and checks what is in it; `None` if the machine does not let it.
    async fn open(
        &mut self,
        settings: &Settings,
        counts: &mut Counts,
    ) -> Result<Option<Writer>, String> {
        let random = Arc::new(catalog::clock::SeededRandom::new(
            self.chance.below(u64::MAX),
        ));
        let opened = match next(settings.clone(), self.machine.disk(), random) {
            Ok(opened) => opened,
            Err(Error::Io { .. }) => {
                self.machine.lose_power();
                counts.power_losses += 1;
                return Ok(None);
            }
            Err(error) => return Err(format!("{error:?}")),
        };
        counts.openings += 1;
        counts.torn += u64::from(opened.torn_bytes > 0);
        let writer = opened.writer;
        match self.check(&writer.shared, counts).await {
            // The power may go while it is checked.
            Err(_) if self.machine.disk().list("/wal".as_ref()).is_err() => {
                self.end(writer, counts);
                Ok(None)
            }
            outcome => outcome.map(|()| Some(writer)),
        }
    }

    /// Everything that was acknowledged and not released is there, once, in order, readable, at its place.
    async fn check(&mut self, shared: &Arc<Shared>, counts: &mut Counts) -> Result<(), String> {
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        for (source, (named, _)) in self.world.sources.iter().enumerate() {
            let frames = recover(shared, named, &self.world.keys).await;
            let mut last = 0;
            for frame in frames.map_err(|error| format!("recover: {error:?}"))? {
                let number = std::str::from_utf8(&frame.payload[..8]).unwrap();
                let number: usize = number.parse().unwrap();
                let sent = &mut self.sent[number];
                if sent.source != source || sent.payload != *frame.payload {
                    return Err("a frame is not what was sent".to_owned());
                }
                if frame.position <= last || !seen.insert(number) {
                    return Err(format!("position {} twice or in disorder", frame.position));
                }
                last = frame.position;
                let at = (frame.position, frame.digest);
                if sent.at.is_none() {
                    counts.survivors += 1;
                }
                if *sent.at.get_or_insert(at) != at {
                    return Err(format!("a frame moved to position {}", frame.position));
                }
            }
        }
        let mut taken = BTreeMap::new();
        for (number, sent) in self.sent.iter().enumerate() {
            let Some((position, _)) = sent.at else {
                continue;
            };
            if !sent.released && !seen.contains(&number) {
                return Err(format!("position {position} is lost"));
            }
            if taken.insert(position, number).is_some() {
                return Err(format!("two frames at position {position}"));
            }
        }
        let newest = taken.keys().next_back().copied().unwrap_or(0);
        let known = shared.last.load(Ordering::Acquire);
        if known < newest {
            return Err(format!("position {newest} would be given again"));
        }
        self.last_position = known;
        Ok(())
    }

    fn live(&mut self, writer: &mut Writer, counts: &mut Counts) {
        for _ in 0..1 + self.chance.below(25) {
            match self.chance.below(10) {
                0..6 => self.append(writer, counts),
                6 => writer.confirm(),
                7 | 8 => self.release(writer, counts),
                _ => {
                    let source = self.chance.index(self.world.sources.len());
                    let _ = writer.carry(Some(&self.world.sources[source].0));
                }
            }
        }
    }

    fn append(&mut self, writer: &mut Writer, counts: &mut Counts) {
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.chance.below(5) {
            let source = self.chance.index(self.world.sources.len());
            let (named, key) = &self.world.sources[source];
            let mut payload = format!("{:08}", self.sent.len()).into_bytes();
            payload.resize(8 + self.chance.index(700), b'.');
            let (reply, answer) = oneshot::channel();
            jobs.push(Job {
                source: named.clone(),
                key: Arc::clone(key),
                payload: payload.clone().into(),
                reply,
                since: Instant::now(),
                _room: Arc::clone(&self.room).try_acquire_owned().unwrap(),
            });
            answers.push(answer);
            self.sent.push(Sent {
                source,
                payload,
                at: None,
                released: false,
            });
        }
        writer.commit(jobs);
        let first = self.sent.len() - answers.len();
        for (sent, mut answer) in self.sent[first..].iter_mut().zip(answers) {
            match answer.try_recv().unwrap() {
                Ok(appended) => {
                    assert!(appended.position > self.last_position);
                    self.last_position = appended.position;
                    sent.at = Some((appended.position, appended.digest));
                    counts.acknowledged += 1;
                }
                Err(_) => counts.refused += 1,
            }
        }
    }

    fn release(&mut self, writer: &mut Writer, counts: &mut Counts) {
        let source = self.chance.index(self.world.sources.len());
        let up_to = self.chance.below(self.last_position + 1);
        for sent in &mut self.sent {
            let below = sent.at.is_some_and(|(position, _)| position <= up_to);
            sent.released |= sent.source == source && below;
        }
        let before = writer.shared.index().segments.len();
        writer
            .shared
            .index()
            .release(&self.world.sources[source].0, up_to);
        writer.tidy();
        let after = writer.shared.index().segments.len();
        counts.removed += before.saturating_sub(after) as u64;
    }

    fn end(&mut self, writer: Writer, counts: &mut Counts) {
        if self.chance.permille(700) {
            self.machine.lose_power();
            counts.power_losses += 1;
        } else {
            self.machine.kill();
            counts.kills += 1;
        }
        drop(writer);
    }
}

#[expect(clippy::print_stderr, reason = "the counts of the run")]
fn report(name: &str, counts: &Counts) {
    eprintln!("{name}: {} rounds, {counts:?}", rounds());
}

#[tokio::test]
async fn no_acknowledged_frame_is_lost_or_doubled() {
    let world = World::new(&["acme", "globex", "initech"]).await;
    let mut counts = Counts::default();
    for seed in 0..rounds() {
        let outcome = Round::new(&world, seed, false).run(&mut counts).await;
        assert_eq!(outcome, Ok(()), "seed {seed}");
    }
    report("crash suite", &counts);
    for (what, count) in [
        ("acknowledged", counts.acknowledged),
        ("refused", counts.refused),
        ("power losses", counts.power_losses),
        ("kills", counts.kills),
        ("torn tails", counts.torn),
        ("unacknowledged survivors", counts.survivors),
        ("removed segments", counts.removed),
    ] {
        assert!(count > ROUNDS / 10, "{what}: {counts:?}");
    }
}

#[tokio::test]
async fn the_same_suite_catches_a_disk_whose_sync_does_nothing() {
    let world = World::new(&["acme", "globex", "initech"]).await;
    let mut counts = Counts::default();
    let mut caught = 0;
    for seed in 0..ROUNDS {
        let outcome = Round::new(&world, seed, true).run(&mut counts).await;
        caught += u64::from(outcome.is_err());
    }
    report("without sync", &counts);
    assert!(caught > ROUNDS / 2, "caught in {caught} of {ROUNDS} rounds");
}
