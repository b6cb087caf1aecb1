//! Record batches of clients, before anything is made of them.
//!
//! The decoder asks for as much memory as a compressed buffer says it unpacks to, and an allocation that fails ends the
//! process; LZ4 frames may hold more than was said. And there are columns of any length that weigh nothing.

use std::collections::HashMap;
use std::io::{Read, copy, sink};

use arrow::array::{Array, ArrayData, RecordBatch};
use arrow::ipc::{CompressionType, MessageHeader, root_as_message};
use arrow_flight::FlightData;
use arrow_flight::error::FlightError;
use futures::{Stream, StreamExt};
use lz4_flex::frame::FrameDecoder;
use tonic::Status;

use super::limits::MESSAGE_BYTES_MAX;

/// Bytes before a compressed buffer that say how long it is unpacked (Arrow's format, Message.fbs: `BodyCompression`).
const PREFIX_BYTES: usize = 8;
/// In the prefix: this buffer is not compressed after all.
const AS_IT_IS: i64 = -1;

/// Messages that unpack to no more than a message may have, and all together to no more than `in_all`.
///
/// The decoder keeps dictionaries until others take their places, and joins those that are said to go on: none may, and all
/// that are kept at a time are as large as one message at the most.
pub(super) fn unpackable<S>(
    messages: S,
    in_all: usize,
) -> impl Stream<Item = Result<FlightData, FlightError>>
where
    S: Stream<Item = Result<FlightData, FlightError>>,
{
    let (mut kept, mut total) = (Kept::default(), 0_usize);
    messages.map(move |message| {
        let message = message?;
        let lies = || FlightError::DecodeError("a buffer is not what it says".to_owned());
        let bytes = unpacked_bytes(&message).ok_or_else(lies)?;
        total = total.saturating_add(bytes);
        let dictionaries = kept.with(&message, bytes).ok_or_else(|| {
            FlightError::DecodeError("a dictionary is given whole, or not at all".to_owned())
        })?;
        if bytes.max(dictionaries) > MESSAGE_BYTES_MAX || total > in_all {
            return Err(Status::resource_exhausted("a message unpacks to too much").into());
        }
        Ok(message)
    })
}

/// What each dictionary takes that the decoder keeps.
#[derive(Default)]
struct Kept(HashMap<i64, usize>);

impl Kept {
    /// What all of them take with this message; `None` if it goes on with one.
    fn with(&mut self, message: &FlightData, bytes: usize) -> Option<usize> {
        let header = root_as_message(&message.data_header).ok();
        let header = header.as_ref();
        if let Some(dictionary) = header.and_then(|header| header.header_as_dictionary_batch()) {
            if dictionary.isDelta() {
                return None;
            }
            self.0
                .insert(dictionary.id(), bytes.max(message.data_header.len()));
        }
        Some(self.0.values().copied().fold(0, usize::saturating_add))
    }
}

/// What the buffers of a message take once they are unpacked, or more than any may; `None` if one lies.
fn unpacked_bytes(message: &FlightData) -> Option<usize> {
    // What is no message is the decoder's to refuse.
    let Ok(header) = root_as_message(&message.data_header) else {
        return Some(0);
    };
    let batch = match header.header_type() {
        MessageHeader::RecordBatch => header.header_as_record_batch(),
        MessageHeader::DictionaryBatch => header.header_as_dictionary_batch()?.data(),
        _ => None,
    };
    let Some(batch) = batch else {
        return Some(0);
    };
    let Some(compression) = batch.compression() else {
        // Buffers that lie in one another are copied out of it one by one where they are not aligned.
        let lengths = batch.buffers()?.iter().map(|buffer| buffer.length());
        let bytes = lengths
            .map(usize::try_from)
            .try_fold(0_usize, |sum, length| {
                length.map(|length| sum.saturating_add(length))
            });
        return bytes.ok().filter(|bytes| *bytes <= message.data_body.len());
    };
    let mut total = 0_usize;
    for buffer in batch.buffers()? {
        let start = usize::try_from(buffer.offset()).ok()?;
        let length = usize::try_from(buffer.length()).ok()?;
        if length == 0 {
            continue;
        }
        let held = message.data_body.get(start..start.checked_add(length)?)?;
        let (prefix, packed) = held.split_at_checked(PREFIX_BYTES)?;
        let said = match i64::from_le_bytes(prefix.try_into().ok()?) {
            AS_IT_IS => packed.len(),
            said => usize::try_from(said).ok()?,
        };
        total = total.saturating_add(said);
        if total > MESSAGE_BYTES_MAX {
            return Some(total);
        }
        let is_lz4 = compression.codec() == CompressionType::LZ4_FRAME;
        if is_lz4 && prefix != AS_IT_IS.to_le_bytes() {
            let most = u64::try_from(said).ok()?;
            let unpacked = copy(&mut FrameDecoder::new(packed).take(most + 1), &mut sink());
            unpacked.ok().filter(|bytes| *bytes == most)?;
        }
    }
    Some(total)
}

/// Whether a batch has at most so many rows, and no column more values inside than that, wherever they are nested.
pub(super) fn has_at_most(batch: &RecordBatch, values: usize) -> bool {
    fn within(data: &ArrayData, values: usize) -> bool {
        data.len() <= values && data.child_data().iter().all(|child| within(child, values))
    }
    batch.num_rows() <= values
        && batch
            .columns()
            .iter()
            .all(|column| within(&column.to_data(), values))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, FixedSizeListArray, Int64Array, NullArray, StringArray};
    use arrow::datatypes::{DataType, Field};
    use arrow::ipc::writer::{
        DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
    };
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use bytes::{Bytes, BytesMut};
    use futures::{TryStreamExt, stream};

    use super::*;

    fn message(codec: Option<CompressionType>) -> FlightData {
        let column: Int64Array = std::iter::repeat_n(7, 1_000).collect();
        encoded(
            &RecordBatch::try_from_iter([("n", Arc::new(column) as _)]).unwrap(),
            codec,
        )
    }

    fn encoded(batch: &RecordBatch, codec: Option<CompressionType>) -> FlightData {
        let options = IpcWriteOptions::default()
            .try_with_compression(codec)
            .unwrap();
        let (_, encoded) = IpcDataGenerator::default()
            .encode(
                batch,
                &mut DictionaryTracker::new(false),
                &options,
                &mut IpcWriteContext::default(),
            )
            .unwrap();
        FlightData {
            data_header: encoded.ipc_message.into(),
            data_body: encoded.arrow_data.into(),
            ..FlightData::default()
        }
    }

    /// The same message, whose only buffer says it is so long.
    fn saying(message: &FlightData, said: i64) -> FlightData {
        let mut body = BytesMut::from(&*message.data_body);
        body[..PREFIX_BYTES].copy_from_slice(&said.to_le_bytes());
        FlightData {
            data_body: body.freeze(),
            ..message.clone()
        }
    }

    #[test]
    fn what_a_buffer_says_is_added_up_and_not_believed() {
        assert_eq!(unpacked_bytes(&message(None)), Some(8_000));
        for codec in [CompressionType::ZSTD, CompressionType::LZ4_FRAME] {
            let honest = message(Some(codec));
            assert_eq!(unpacked_bytes(&honest), Some(8_000), "{codec:?}");
            let large = unpacked_bytes(&saying(&honest, 1 << 60));
            assert!(large.is_some_and(|bytes| bytes > MESSAGE_BYTES_MAX));
            assert_eq!(unpacked_bytes(&saying(&honest, -2)), None);
            let mut cut = honest.clone();
            cut.data_body = cut.data_body.slice(..4);
            assert_eq!(unpacked_bytes(&cut), None);
        }
        // zstd is held to it by the decoder; LZ4 is not.
        let lz4 = message(Some(CompressionType::LZ4_FRAME));
        for lie in [0, 7_999, 8_001] {
            assert_eq!(unpacked_bytes(&saying(&lz4, lie)), None, "{lie}");
        }
        let nothing = FlightData {
            data_header: Bytes::from_static(b"no message"),
            ..FlightData::default()
        };
        assert_eq!(unpacked_bytes(&nothing), Some(0));
    }

    /// A message like this one, with this many columns in the same bytes.
    fn overlapping(columns: usize) -> FlightData {
        let column: Int64Array = std::iter::repeat_n(7, 1_000).collect();
        let names: Vec<String> = (0..columns).map(|at| format!("n{at}")).collect();
        let column: arrow::array::ArrayRef = Arc::new(column);
        let columns = names
            .iter()
            .map(|name| (name.as_str(), Arc::clone(&column)));
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut encoded = encoded(&batch, None);
        // All that the header names does not lie in what is left.
        encoded.data_body = encoded.data_body.slice(..8_000);
        encoded
    }

    #[tokio::test]
    async fn buffers_lie_beside_each_other() {
        assert_eq!(unpacked_bytes(&overlapping(1)), Some(8_000));
        assert_eq!(unpacked_bytes(&overlapping(2)), None);
    }

    #[tokio::test]
    async fn dictionaries_are_bounded_together_and_do_not_go_on() {
        let texts: Vec<String> = (0..6).map(|at| format!("{at}").repeat(1 << 20)).collect();
        let sent = async |columns: usize| -> Vec<FlightData> {
            let values: arrow::array::ArrayRef = Arc::new(StringArray::from(texts.clone()));
            let keys = arrow::array::Int32Array::from(vec![0]);
            let dictionary = DictionaryArray::new(keys, values);
            let dictionary: arrow::array::ArrayRef = Arc::new(dictionary);
            let names: Vec<String> = (0..columns).map(|at| format!("d{at}")).collect();
            let columns = names
                .iter()
                .map(|name| (name.as_str(), Arc::clone(&dictionary)));
            let batch = RecordBatch::try_from_iter(columns).unwrap();
            let encoder = FlightDataEncoderBuilder::new()
                .with_dictionary_handling(DictionaryHandling::Resend)
                .build(stream::iter([Ok(batch)]));
            encoder.try_collect().await.unwrap()
        };
        let taken = async |messages: Vec<FlightData>, in_all: usize| {
            let messages = stream::iter(messages.into_iter().map(Ok));
            let taken: Result<Vec<_>, _> = unpackable(messages, in_all).try_collect().await;
            taken.is_ok()
        };
        assert!(taken(sent(2).await, usize::MAX).await);
        assert!(!taken(sent(3).await, usize::MAX).await, "three of six MiB");
        assert!(!taken(sent(2).await, 8 << 20).await, "more than in all");
        // The same ones again take the places of the first.
        let mut again = sent(2).await;
        again.extend(sent(2).await.into_iter().skip(1));
        assert!(taken(again, usize::MAX).await);
    }

    #[test]
    fn nothings_are_counted() {
        let nothings = NullArray::new(1 << 20);
        let field = Arc::new(Field::new("item", DataType::Null, true));
        let lists = FixedSizeListArray::new(field, 1 << 20, Arc::new(nothings), None);
        let batch = RecordBatch::try_from_iter([("n", Arc::new(lists) as _)]).unwrap();
        assert!(has_at_most(&batch, 1 << 20));
        assert!(!has_at_most(&batch, (1 << 20) - 1));
    }
}
