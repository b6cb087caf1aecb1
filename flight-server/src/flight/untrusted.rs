//! Record batches of clients, before anything is made of them.
//!
//! The decoder asks for as much memory as a compressed buffer says it unpacks to, and an allocation that fails ends the
//! process; LZ4 frames may hold more than was said. And there are columns of any length that weigh nothing.

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

/// Messages that unpack to no more than a message may have.
pub(super) fn unpackable<S>(messages: S) -> impl Stream<Item = Result<FlightData, FlightError>>
where
    S: Stream<Item = Result<FlightData, FlightError>>,
{
    messages.map(|message| {
        let message = message?;
        match unpacked_bytes(&message) {
            Some(bytes) if bytes <= MESSAGE_BYTES_MAX => Ok(message),
            Some(_) => Err(Status::resource_exhausted("a message unpacks to too much").into()),
            None => Err(FlightError::DecodeError(
                "a buffer is not what it says".to_owned(),
            )),
        }
    })
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
        return Some(message.data_body.len());
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

    use arrow::array::{FixedSizeListArray, Int64Array, NullArray};
    use arrow::datatypes::{DataType, Field};
    use arrow::ipc::writer::{
        DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
    };
    use bytes::{Bytes, BytesMut};

    use super::*;

    fn message(codec: Option<CompressionType>) -> FlightData {
        let column: Int64Array = std::iter::repeat_n(7, 1_000).collect();
        let batch = RecordBatch::try_from_iter([("n", Arc::new(column) as _)]).unwrap();
        let options = IpcWriteOptions::default()
            .try_with_compression(codec)
            .unwrap();
        let (_, encoded) = IpcDataGenerator::default()
            .encode(
                &batch,
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
