//! A request's body: read whole up to a limit, or cut into lines while it arrives.

use std::error::Error;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use http::{HeaderMap, header};
use tokio::time::{Instant, timeout_at};

use super::headers::{self, Coding};
use super::lines::{Cutter, Full, Line};
use crate::limits::{Admitted, Limited, Limits, Share};
use crate::problem::{Problem, Slug};

/// How long a body that is read whole may take, and each part of one that is handed on in parts.
const READ_TIME_MAX: Duration = Duration::from_secs(60);
/// What is decompressed at once: half a MiB comes out of it at the most.
const COMPRESSED_STEP: usize = 512;
/// What is cut at once.
const PLAIN_STEP: usize = 64 << 10;

/// Reads the body. One that announces more than the limit is refused before a byte of it is read.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    check_announced(headers, bytes_max)?;
    let read = collect(body, bytes_max, share);
    match tokio::time::timeout(READ_TIME_MAX, read).await {
        Ok(outcome) => outcome,
        Err(_) => Err(late()),
    }
}

/// Reads the body of a request that is to be JSON, as it is.
pub(super) async fn json(
    request: Request,
    bytes_max: usize,
    share: &mut Share,
) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    headers::check_media_type(&parts.headers, &["application/json"])?;
    headers::check_uncompressed(&parts.headers)?;
    read(&parts.headers, body, bytes_max, share).await
}

/// Refuses what announces more than is taken.
fn check_announced(headers: &HeaderMap, bytes_max: usize) -> Result<(), Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(length) if length > bytes_max as u64 => Err(too_large(bytes_max)),
        _ => Ok(()),
    }
}

async fn collect(body: Body, bytes_max: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let mut frames = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|error| broken_off(&error))?;
        if whole.len() + frame.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        share.cover(whole.len() + frame.len()).await?;
        whole.extend_from_slice(&frame);
    }
    Ok(whole.freeze())
}

pub(super) fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Slug::PayloadTooLarge,
        format!("at most {bytes_max} bytes are taken"),
    )
    .with("bytesMax", bytes_max)
}

/// Why there is no more of a body: its tenant's bytes are used up, or its sender went away.
fn broken_off(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(limited) = error.downcast_ref::<Limited>() {
            return limited.clone().into();
        }
        cause = error.source();
    }
    Problem::new(Slug::InvalidRecord, "the body broke off")
}

fn late() -> Problem {
    Problem::new(Slug::DeadlineExceeded, "the body did not arrive in time")
}

/// The lines of a body, some at a time while the rest arrives.
pub(super) struct Upload {
    frames: BodyDataStream,
    /// What arrived and was not looked at yet.
    arrived: Bytes,
    cutting: Cutting,
    share: Share,
    caller: Arc<Admitted>,
    /// Bytes that were charged: first those that came, and then those that more came out of.
    charged: usize,
    limits: Limits,
    end: Option<End>,
}

/// Where a body ended.
enum End {
    /// Where it was meant to.
    Whole,
    /// Before that.
    Stopped(Stopped),
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(super) struct Stopped {
    /// What was wrong.
    pub(super) problem: Problem,
    /// The first line that was not taken.
    pub(super) line: u64,
}

enum Cutting {
    Plain(Cutter),
    Gzip(Box<MultiGzDecoder<Cutter>>),
}

impl Upload {
    /// Nothing is read yet.
    pub(super) fn new(
        headers: &HeaderMap,
        body: Body,
        coding: Coding,
        limits: &Limits,
        share: Share,
        caller: Arc<Admitted>,
    ) -> Result<Self, Problem> {
        check_announced(headers, limits.batch_bytes_max)?;
        let cutter = Cutter::new(limits);
        Ok(Self {
            frames: body.into_data_stream(),
            arrived: Bytes::new(),
            cutting: match coding {
                Coding::Identity => Cutting::Plain(cutter),
                Coding::Gzip => Cutting::Gzip(Box::new(MultiGzDecoder::new(cutter))),
            },
            share,
            caller,
            charged: 0,
            limits: limits.clone(),
            end: None,
        })
    }

    /// The next lines: as many as are handed on together, or the last ones.
    pub(super) async fn chunk(&mut self) -> Option<Vec<Line>> {
        let deadline = Instant::now() + READ_TIME_MAX;
        while self.end.is_none() && !self.cutting.cutter().is_ready() {
            self.step(deadline).await;
        }
        let lines = self.cutting.cutter_mut().take();
        (!lines.is_empty()).then_some(lines)
    }

    /// Why the body was not read to its end, if it was not.
    pub(super) fn stopped(self) -> Option<Stopped> {
        match self.end {
            Some(End::Stopped(stopped)) => Some(stopped),
            Some(End::Whole) | None => None,
        }
    }

    async fn step(&mut self, deadline: Instant) {
        if self.arrived.is_empty() {
            match timeout_at(deadline, self.frames.next()).await {
                Ok(Some(Ok(frame))) => self.arrived = frame,
                Ok(None) => return self.finish(),
                Ok(Some(Err(error))) => return self.stop(broken_off(&error)),
                Err(_) => return self.stop(late()),
            }
        }
        let step = self.arrived.len().min(self.cutting.step());
        let part = self.arrived.split_to(step);
        let decoded = self.cutting.feed(&part);
        match self.cutting.cutter().full() {
            Some(full) => self.stop(beyond(full, &self.limits)),
            None if !decoded => self.stop(not_gzip()),
            None => {
                if let Err(problem) = self.account(part.len()).await {
                    self.stop(problem);
                }
            }
        }
    }

    /// Makes room for what is kept, and charges what came out of so many bytes beyond these, which have been charged.
    async fn account(&mut self, came: usize) -> Result<(), Problem> {
        self.charged += came;
        let cutter = self.cutting.cutter();
        let (fed, kept) = (cutter.fed(), cutter.bytes());
        self.share.cover(kept).await?;
        let more = fed.saturating_sub(self.charged);
        if more > 0 {
            self.charged += more;
            self.caller.charge(more).await?;
        }
        Ok(())
    }

    fn finish(&mut self) {
        let decoded = self.cutting.finish();
        match self.cutting.cutter().full() {
            Some(full) => self.stop(beyond(full, &self.limits)),
            None if !decoded => self.stop(not_gzip()),
            None => self.end = Some(End::Whole),
        }
    }

    fn stop(&mut self, problem: Problem) {
        let line = self.cutting.cutter().number();
        self.end = Some(End::Stopped(Stopped { problem, line }));
    }
}

impl Cutting {
    fn cutter(&self) -> &Cutter {
        match self {
            Self::Plain(cutter) => cutter,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn cutter_mut(&mut self) -> &mut Cutter {
        match self {
            Self::Plain(cutter) => cutter,
            Self::Gzip(decoder) => decoder.get_mut(),
        }
    }

    fn step(&self) -> usize {
        match self {
            Self::Plain(_) => PLAIN_STEP,
            Self::Gzip(_) => COMPRESSED_STEP,
        }
    }

    /// False if this is not what it is said to be.
    fn feed(&mut self, part: &[u8]) -> bool {
        match self {
            Self::Plain(cutter) => {
                cutter.feed(part);
                true
            }
            Self::Gzip(decoder) => decoder.write_all(part).is_ok(),
        }
    }

    fn finish(&mut self) -> bool {
        let whole = match self {
            Self::Plain(_) => true,
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
        };
        // A line that was cut off with the body is not a line.
        if whole {
            self.cutter_mut().finish();
        }
        whole
    }
}

fn beyond(full: Full, limits: &Limits) -> Problem {
    match full {
        Full::Bytes => too_large(limits.batch_bytes_max),
        Full::Lines => {
            let detail = format!("at most {} lines are taken", limits.batch_lines_max);
            Problem::new(Slug::PayloadTooLarge, detail).with("linesMax", limits.batch_lines_max)
        }
    }
}

fn not_gzip() -> Problem {
    Problem::new(Slug::InvalidRecord, "the body is not whole gzip data")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use catalog::clock::ManualClock;

    use super::*;
    use crate::limits::{Class, RateLimits, Rates, Room, TenantLimits};
    use crate::world::{World, bearer};

    /// Somebody whose tenant may send so many KiB a second, and as much as in a minute at once; with 0, whatever it likes.
    async fn caller(kib_per_s: u64) -> Arc<Admitted> {
        let world = World::new().await;
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&world.writer()))]);
        let context = world.service.context(&headers).await.unwrap();
        let each = TenantLimits {
            write_bytes_per_s: kib_per_s * 1_024,
            burst: 60,
            ..TenantLimits::default()
        };
        let limits = RateLimits {
            each,
            ..RateLimits::default()
        };
        let rates = Rates::new(limits, Arc::new(ManualClock::default()));
        Arc::new(rates.admit(context, Class::Write).unwrap())
    }

    async fn length(headers: &HeaderMap, body: Body) -> Result<usize, Slug> {
        let read = read(headers, body, 10, &mut Room::new().share()).await;
        read.map(|bytes| bytes.len())
            .map_err(|problem| problem.slug())
    }

    #[tokio::test]
    async fn the_limit_counts_what_comes_not_what_is_announced() {
        let none = HeaderMap::new();
        assert_eq!(length(&none, Body::from("0123456789")).await, Ok(10));
        assert_eq!(
            length(&none, Body::from("0123456789a")).await,
            Err(Slug::PayloadTooLarge)
        );
        let chunks = ["01234", "56789", "a"].map(Ok::<_, io::Error>);
        let streamed = Body::from_stream(futures::stream::iter(chunks));
        assert_eq!(length(&none, streamed).await, Err(Slug::PayloadTooLarge));
        let mut small = HeaderMap::new();
        small.insert(header::CONTENT_LENGTH, 3.into());
        assert_eq!(
            length(&small, Body::from("0123456789a")).await,
            Err(Slug::PayloadTooLarge)
        );
    }

    #[tokio::test]
    async fn what_is_announced_too_large_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, 11.into());
        let endless = Body::from_stream(futures::stream::pending::<Result<Bytes, io::Error>>());
        assert_eq!(length(&headers, endless).await, Err(Slug::PayloadTooLarge));
    }

    fn gone() -> io::Error {
        io::Error::other("reset")
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_record() {
        let chunks = [Ok(Bytes::from_static(b"{")), Err(gone())];
        let broken = Body::from_stream(futures::stream::iter(chunks));
        assert_eq!(
            length(&HeaderMap::new(), broken).await,
            Err(Slug::InvalidRecord)
        );
    }

    /// How many lines are read, what the most of them was at once, and where and why it stopped.
    async fn upload(body: Body, coding: Coding) -> (usize, usize, Option<(Slug, u64)>) {
        upload_of(caller(0).await, body, coding).await
    }

    async fn upload_of(
        caller: Arc<Admitted>,
        body: Body,
        coding: Coding,
    ) -> (usize, usize, Option<(Slug, u64)>) {
        let limits = Limits::default();
        let share = Room::new().share();
        let headers = HeaderMap::new();
        let mut upload = Upload::new(&headers, body, coding, &limits, share, caller).unwrap();
        let (mut lines, mut most) = (0, 0);
        while let Some(chunk) = upload.chunk().await {
            most = most.max(
                chunk
                    .iter()
                    .filter_map(|line| line.record.as_ref())
                    .map(Bytes::len)
                    .sum(),
            );
            lines += chunk.len();
        }
        let stopped = upload
            .stopped()
            .map(|stopped| (stopped.problem.slug(), stopped.line));
        (lines, most, stopped)
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn lines_are_handed_on_while_more_arrive() {
        let first = Bytes::from("{}\n".repeat(1_000));
        let frames = futures::stream::iter([Ok::<_, Infallible>(first)]);
        let body = Body::from_stream(frames.chain(futures::stream::pending()));
        let share = Room::new().share();
        let mut upload = Upload::new(
            &HeaderMap::new(),
            body,
            Coding::Identity,
            &Limits::default(),
            share,
            caller(0).await,
        )
        .unwrap();
        assert_eq!(upload.chunk().await.unwrap().len(), 1_000);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_gives_its_whole_lines() {
        let chunks = [Ok(Bytes::from_static(b"{}\n{}\n{\"a\":1}")), Err(gone())];
        let broken = Body::from_stream(futures::stream::iter(chunks));
        let stopped = Some((Slug::InvalidRecord, 3));
        assert_eq!(upload(broken, Coding::Identity).await, (2, 4, stopped));
    }

    #[tokio::test]
    async fn gzip_is_read_in_members_and_its_damage_is_found() {
        let members = [gzip(b"{}\n{}"), gzip(b"\n{}")].concat();
        let whole = upload(members.clone().into(), Coding::Gzip).await;
        assert_eq!(whole, (3, 6, None));
        let cut = members[..members.len() - 3].to_vec();
        let (lines, _, stopped) = upload(cut.into(), Coding::Gzip).await;
        assert_eq!((lines, stopped), (2, Some((Slug::InvalidRecord, 3))));
        for odd in [b"{}\n".as_slice(), b"", &members[..20]] {
            let (_, _, stopped) = upload(odd.to_vec().into(), Coding::Gzip).await;
            assert_eq!(stopped.unwrap().0, Slug::InvalidRecord, "{odd:?}");
        }
    }

    #[tokio::test]
    async fn compressed_bytes_cost_what_comes_out_of_them() {
        let lines = |count| gzip(&b"{\"a\":\"00000000000000000000000000\"}\n".repeat(count));
        let (few, many) = (lines(1_000), lines(9_000));
        assert!(many.len() < few.len() + 4_096, "it does not compress");
        let small = upload_of(caller(1).await, few.into(), Coding::Gzip).await;
        assert_eq!((small.0, small.2), (1_000, None));
        let (_, _, stopped) = upload_of(caller(1).await, many.into(), Coding::Gzip).await;
        assert_eq!(stopped.unwrap().0, Slug::RateLimited);
    }

    #[tokio::test]
    async fn a_bomb_goes_off_a_little_at_a_time() {
        let lines = b"{\"a\":\"0000000000000000000000000000000000000000\"}\n".repeat(2_000_000);
        let (lines, most, stopped) = upload(gzip(&lines).into(), Coding::Gzip).await;
        assert_eq!(stopped, Some((Slug::PayloadTooLarge, 10_001)));
        assert_eq!(lines, 10_000);
        assert!(most < 2 << 20, "{most} bytes at once");
        let (lines, _, stopped) = upload(gzip(&vec![b'x'; 100 << 20]).into(), Coding::Gzip).await;
        assert_eq!((lines, stopped), (0, Some((Slug::PayloadTooLarge, 1))));
    }
}
