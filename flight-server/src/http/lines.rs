//! Lines, cut out of a body as it comes.
//!
//! Invariant: what is kept is never more than one record and the lines nobody took yet. A line that is too long is
//! stepped over without being kept, however long it is, and a compressed body is looked at a little at a time.

use std::io;

use bytes::Bytes;

use crate::intake::{CHUNK_BYTES, CHUNK_RECORDS};
use crate::limits::Limits;

/// One line that holds something.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// Its number in the body, from 1; blank lines count.
    pub(super) number: u64,
    /// The record, or nothing if it is larger than a record may be.
    pub(super) record: Option<Bytes>,
}

/// Why nothing is cut any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// There are more lines than are taken.
    Lines,
    /// There are more bytes than are taken, all lines together and decompressed.
    Bytes,
}

/// Cuts lines. Only the end of a line separates records: JSON has none inside.
#[derive(Debug)]
pub(super) struct Cutter {
    record_bytes_max: usize,
    bytes_left: usize,
    fed: usize,
    lines_left: usize,
    /// The line that has not ended yet, as far as it is kept.
    open: Vec<u8>,
    /// Whether that line is too long already.
    too_long: bool,
    number: u64,
    cut: Vec<Line>,
    cut_bytes: usize,
    full: Option<Full>,
}

impl Cutter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            record_bytes_max: limits.record_bytes_max,
            bytes_left: limits.batch_bytes_max,
            fed: 0,
            lines_left: limits.batch_lines_max,
            open: Vec::new(),
            too_long: false,
            number: 1,
            cut: Vec::new(),
            cut_bytes: 0,
            full: None,
        }
    }

    /// Takes the next bytes of the body.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.full.is_some() {
            return;
        }
        let (bytes, rest) = bytes.split_at(bytes.len().min(self.bytes_left));
        self.bytes_left -= bytes.len();
        self.fed += bytes.len();
        let mut lines = bytes.split(|byte| *byte == b'\n');
        let last = lines.next_back().unwrap_or_default();
        for line in lines {
            self.keep(line);
            self.end_line();
        }
        self.keep(last);
        if !rest.is_empty() && self.full.is_none() {
            self.full = Some(Full::Bytes);
        }
    }

    /// The body is over, and so is its last line.
    pub(super) fn finish(&mut self) {
        self.end_line();
    }

    /// Whether there is enough to be handed on.
    pub(super) fn is_ready(&self) -> bool {
        self.cut.len() >= CHUNK_RECORDS || self.cut_bytes >= CHUNK_BYTES
    }

    /// Why nothing more is cut, and at which line that was.
    pub(super) fn full(&self) -> Option<Full> {
        self.full
    }

    /// The line that is being read.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How much of the body was looked at.
    pub(super) fn fed(&self) -> usize {
        self.fed
    }

    /// How much is kept.
    pub(super) fn bytes(&self) -> usize {
        self.open.capacity() + self.cut_bytes
    }

    /// The lines cut since the last call.
    pub(super) fn take(&mut self) -> Vec<Line> {
        self.cut_bytes = 0;
        std::mem::take(&mut self.cut)
    }

    fn keep(&mut self, part: &[u8]) {
        // One byte more than a record: the carriage return before a line's end.
        if self.open.len() + part.len() > self.record_bytes_max + 1 {
            self.too_long = true;
            self.open = Vec::new();
        }
        if !self.too_long && self.full.is_none() {
            self.open.extend_from_slice(part);
        }
    }

    fn end_line(&mut self) {
        if self.full.is_some() {
            return;
        }
        let text = self.open.trim_ascii();
        if !text.is_empty() || self.too_long {
            if self.lines_left == 0 {
                self.full = Some(Full::Lines);
                return;
            }
            self.lines_left -= 1;
            let fits = !self.too_long && text.len() <= self.record_bytes_max;
            let record = fits.then(|| Bytes::copy_from_slice(text));
            self.cut_bytes += record.as_ref().map_or(0, Bytes::len);
            self.cut.push(Line {
                number: self.number,
                record,
            });
        }
        self.open.clear();
        self.too_long = false;
        self.number += 1;
    }
}

/// What a decompressor writes into.
impl io::Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.feed(bytes);
        if self.full.is_some() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            record_bytes_max: 5,
            batch_lines_max: 3,
            batch_bytes_max: 100,
            ..Limits::default()
        }
    }

    /// Each line's number and text, however the body was split.
    fn cut(body: &[u8]) -> (Vec<(u64, Option<String>)>, Option<Full>) {
        let mut outcomes = Vec::new();
        for step in [1, 2, 3, body.len().max(1)] {
            let mut cutter = Cutter::new(&limits());
            body.chunks(step).for_each(|part| cutter.feed(part));
            if cutter.full().is_none() {
                cutter.finish();
            }
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            let lines = cutter.take().into_iter();
            let lines: Vec<_> = lines
                .map(|line| (line.number, line.record.map(text)))
                .collect();
            outcomes.push((lines, cutter.full()));
        }
        assert!(
            outcomes.windows(2).all(|pair| pair[0] == pair[1]),
            "{outcomes:?}"
        );
        outcomes.remove(0)
    }

    fn line(number: u64, text: &str) -> (u64, Option<String>) {
        (number, Some(text.to_owned()))
    }

    #[test]
    fn lines_are_records_and_blank_ones_nothing() {
        let lines = vec![line(2, "{1}"), line(4, "{2}"), line(5, "{3}")];
        assert_eq!(cut(b"\n{1}\r\n\n {2} \n{3}"), (lines, None));
        assert_eq!(cut(b""), (vec![], None));
        assert_eq!(cut(b"12345\r\n"), (vec![line(1, "12345")], None));
    }

    #[test]
    fn a_long_line_is_stepped_over_alone() {
        let lines = vec![line(1, "{1}"), (2, None), line(3, "{2}")];
        assert_eq!(cut(b"{1}\n{12345}\n{2}"), (lines, None));
    }

    #[test]
    fn what_is_beyond_a_limit_is_not_cut_and_what_was_before_is() {
        let lines = vec![line(1, "1"), line(2, "2"), line(3, "3")];
        assert_eq!(cut(b"1\n2\n3\n"), (lines.clone(), None));
        assert_eq!(cut(b"1\n2\n3\n4\n5\n"), (lines, Some(Full::Lines)));
        let body = [b"1\n2\n".as_slice(), &[b'x'; 97]].concat();
        let lines = vec![line(1, "1"), line(2, "2")];
        assert_eq!(cut(&body), (lines.clone(), Some(Full::Bytes)));
        assert_eq!(cut(&body[..100]), ([lines, vec![(3, None)]].concat(), None));
    }

    #[test]
    fn a_line_of_any_length_is_not_kept() {
        let mut cutter = Cutter::new(&Limits {
            batch_bytes_max: usize::MAX,
            ..limits()
        });
        let part = vec![b'x'; 1 << 16];
        for _ in 0..1_600 {
            cutter.feed(&part);
            assert!(cutter.bytes() <= 16);
        }
        cutter.feed(b"\n{1}\n");
        let last = cutter.take().pop().unwrap();
        assert_eq!(
            (last.number, last.record.as_deref()),
            (2, Some(b"{1}".as_slice()))
        );
    }

    #[test]
    fn enough_is_ready_whether_many_or_large() {
        let mut cutter = Cutter::new(&Limits::default());
        cutter.feed(&b"1\n".repeat(CHUNK_RECORDS - 1));
        assert!(!cutter.is_ready());
        cutter.feed(b"1\n");
        assert!(cutter.is_ready());
        assert_eq!(cutter.take().len(), CHUNK_RECORDS);
        cutter.feed(&[vec![b'x'; CHUNK_BYTES], b"\n".to_vec()].concat());
        assert!(cutter.is_ready());
    }
}
