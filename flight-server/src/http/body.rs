//! A request's body, read whole up to a limit.

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, header};

use crate::limits::Limited;
use crate::problem::{Problem, Slug};

/// How long a body may take to arrive.
const READ_TIME_MAX: Duration = Duration::from_secs(60);

/// Reads the body. One that announces more than the limit is refused before a byte of it is read.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    match tokio::time::timeout(READ_TIME_MAX, collect(body, bytes_max)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Problem::new(
            Slug::DeadlineExceeded,
            "the body did not arrive in time",
        )),
    }
}

async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| broken_off(&error))?;
        if whole.len() + chunk.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Why there is no more of a body: its tenant's bytes are used up, or its sender went away.
pub(super) fn broken_off(error: &axum::Error) -> Problem {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(limited) = error.downcast_ref::<Limited>() {
            return limited.clone().into();
        }
        cause = error.source();
    }
    Problem::new(Slug::InvalidRecord, "the body broke off")
}

pub(super) fn too_large(bytes_max: usize) -> Problem {
    Problem::new(
        Slug::PayloadTooLarge,
        format!("at most {bytes_max} bytes are taken"),
    )
    .with("bytesMax", bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn length(headers: &HeaderMap, body: Body) -> Result<usize, Slug> {
        let read = read(headers, body, 10).await;
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
        let chunks = ["01234", "56789", "a"].map(Ok::<_, std::io::Error>);
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
        let endless =
            Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(length(&headers, endless).await, Err(Slug::PayloadTooLarge));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_record() {
        let chunks = [
            Ok(Bytes::from_static(b"{")),
            Err(std::io::Error::other("reset")),
        ];
        let broken = Body::from_stream(futures::stream::iter(chunks));
        assert_eq!(
            length(&HeaderMap::new(), broken).await,
            Err(Slug::InvalidRecord)
        );
    }
}
