//! How much of what the log still has is in the table already. Guessing is losing: what does not fit is an error.

use super::LaneError;
use super::journal::InTable;
use super::pending::Mark;

// The log and the table do not belong together: the log was replaced, restored from a copy, or lost its end.
const NO_PLACE: LaneError =
    LaneError::Fault("a table does not say how far the write-ahead log is in it");
const AHEAD: LaneError = LaneError::Fault(
    "a table is ahead of the write-ahead log: the log was replaced, or restored from a copy",
);
const OTHER: LaneError = LaneError::Fault(
    "a table was written from another write-ahead log of the same name: the log was copied or restored",
);

/// How many of `frames`, the unreleased ones in their order, the table has.
///
/// `written_max` is the last position that this log can have brought into the table: where it ended when it was opened,
/// or what was flushed since.
pub(super) fn applied(
    in_table: Option<InTable>,
    written_max: u64,
    frames: &[Mark],
) -> Result<usize, LaneError> {
    let Some(there) = in_table else {
        return Ok(0);
    };
    let (Some(position), Some(digest)) = (there.position, there.digest) else {
        return Err(NO_PLACE);
    };
    if position > written_max {
        return Err(AHEAD);
    }
    let applied = frames.partition_point(|frame| frame.position <= position);
    match applied.checked_sub(1).and_then(|last| frames.get(last)) {
        // All of the table's frames have been released: nothing is left to compare.
        None => Ok(0),
        // A commit goes up to a frame and frames are released in order, so that this one is still there.
        Some(last) if last.position == position && last.digest == digest => Ok(applied),
        Some(_) => Err(OTHER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(position: u64) -> Mark {
        Mark {
            position,
            digest: [u8::try_from(position).unwrap(); 32],
        }
    }

    fn there(position: u64) -> Option<InTable> {
        Some(InTable {
            position: Some(position),
            digest: Some(mark(position).digest),
        })
    }

    #[test]
    fn what_is_in_the_table_is_not_put_there_again() {
        let frames = [mark(3), mark(5), mark(9)];
        for (in_table, expected) in [
            (None, Ok(0)),
            (there(2), Ok(0)),
            (there(3), Ok(1)),
            (there(5), Ok(2)),
            (there(9), Ok(3)),
            (there(4), Err(OTHER)),
            (there(8), Err(OTHER)),
            (there(10), Err(AHEAD)),
        ] {
            assert_eq!(applied(in_table, 9, &frames), expected, "{in_table:?}");
        }
        assert_eq!(applied(there(7), 9, &[]), Ok(0));
        assert_eq!(applied(there(10), 9, &[]), Err(AHEAD));
    }

    #[test]
    fn another_history_of_the_same_log_is_no_replay() {
        let other = Some(InTable {
            position: Some(5),
            digest: Some([0; 32]),
        });
        assert_eq!(applied(other, 9, &[mark(3), mark(5)]), Err(OTHER));
        let mute = |position, digest| Some(InTable { position, digest });
        assert_eq!(applied(mute(None, None), 9, &[]), Err(NO_PLACE));
        assert_eq!(applied(mute(Some(3), None), 9, &[]), Err(NO_PLACE));
    }
}
