//! What can go wrong with the log, and what the caller does next.

use std::io;

use catalog::keys::KeyError;

/// Why the log, or a frame of it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error("the log's folder cannot be used: {what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("another process uses the log's folder")]
    Locked,
    /// The folder is another node's, or a copy of it. Only under its own name can it be told whether it is the newest.
    #[error(
        "the log's folder belongs to the node {node:?}: use that name, or a folder of its own for this node"
    )]
    Elsewhere {
        /// The node that made it.
        node: String,
    },
    /// A file in the folder is not one of this log: its identity is missing, of another log, or of a later version.
    #[error("the log's folder holds what does not belong together: {what}")]
    Foreign {
        /// What does not fit.
        what: &'static str,
    },
    /// Acknowledged frames are damaged. The log stays closed until the operator has the segment set aside.
    #[error("segment {segment} of the log is damaged from position {position} on")]
    Corrupt {
        /// The first position of the segment, which is its file name.
        segment: u64,
        /// The first position that cannot be read.
        position: u64,
    },
    /// A segment that holds acknowledged frames is gone.
    #[error("a segment of the log is missing, from position {position} on")]
    Missing {
        /// The first position that cannot be found.
        position: u64,
    },
    /// The keys of the source cannot be had now; its frames are still there.
    #[error("the key of the frames cannot be had")]
    KeyUnavailable(#[source] KeyError),
    /// The log was closed.
    #[error("the log is closed")]
    Stopped,
}

impl Error {
    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// Why a frame was not acknowledged. It may be found after a restart all the same, but never beside another frame at
/// its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// There is no room: on the disk, or within the log's own limit.
    #[error("the log is full")]
    Full,
    /// The frame is larger than any the log takes.
    #[error("the frame is too large for the log")]
    TooLarge,
    /// The disk failed, and so did the next attempt on a fresh segment.
    #[error("the log could not be written")]
    Failed,
    /// The log was closed.
    #[error("the log is closed")]
    Stopped,
}
