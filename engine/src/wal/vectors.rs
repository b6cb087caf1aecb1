//! The formats of the log, byte by byte: vectors made with another implementation of each algorithm.

use std::sync::Arc;

use catalog::clock::{SeededRandom, array};
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyId, KeyPurpose, SecretKey, WrappedEpoch};
use proptest::prelude::*;
use uuid::Uuid;

use super::frame::{Content, Encoder, HEADER_LEN, HeadFault, Header, Link, parse};
use super::sealed::{Chain, SealedFrame, SealedKey, open, seal};
use super::source::Source;

fn counting<const N: usize>(first: u8) -> [u8; N] {
    std::array::from_fn(|index| first + u8::try_from(index).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log() -> Uuid {
    Uuid::from_bytes(counting(0x10))
}

fn sealed_key() -> SealedKey {
    SealedKey {
        source: Source {
            tenant: TenantId::parse("acme").unwrap(),
            silo: SiloId::parse("eu").unwrap(),
            table: "records".into(),
            purpose: KeyPurpose::Data,
        },
        home: 1,
        epoch: WrappedEpoch {
            master_key_id: KeyId::parse("kms://eu/0a/v1").unwrap(),
            epoch_id: counting(0xc0),
            wrapped: vec![1, 2, 3],
        },
        sealed: counting::<60>(0).to_vec(),
    }
}

/// "hello" at position 5, behind a chain of zeros.
fn frame() -> SealedFrame {
    let key = sealed_key();
    let secret = SecretKey::new(counting(0));
    let ciphertext = seal(log(), &secret, &key, 5, b"hello").unwrap();
    let mut chain = Chain {
        position: 4,
        digest: [0; 32],
    };
    chain.push(&key.source, 5, &ciphertext);
    SealedFrame {
        position: chain.position,
        digest: chain.digest,
        origin: 5,
        origin_digest: chain.digest,
        key: Arc::new(key),
        ciphertext,
    }
}

fn head() -> Header {
    Header {
        repaired: false,
        log: log(),
        salt: counting(0xa0),
        first: 5,
        digest: [0; 32],
        low: 1,
        previous: Link {
            first: 1,
            length: 4096,
        },
        born: 124,
    }
}

fn encoded(push: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let salt = counting(0xa0);
    let mut encoder = Encoder::new(&salt, 124, 124);
    push(&mut encoder);
    encoder.bytes
}

const FRAME: &str = concat!(
    "544857464a000000fde36c13017c00000000000000050000000000000000000000036bbe8a99b67a4599388d8949aac3",
    "3f06e9d12ab5b5656e7ae5a6f9d0ec14fe166874f197a49e09cb011d72077411512a8f73ab40",
);
const KEY: &str = concat!(
    "544857469f000000ec58fbe0027c000000000000000000000001000000000000000400000061636d6502000000657507",
    "0000007265636f72647304000000646174613c000000000102030405060708090a0b0c0d0e0f10111213141516171819",
    "1a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b0e0000006b6d733a2f2f65752f30",
    "612f7631c0c1c2c3c4c5c6c7c8c9cacbcccdcecf03000000010203",
);
const CONFIRM: &str = "5448574619000000705939d4047c0000000000000006000000000000000100000000000000";
const HEAD: &str = concat!(
    "544857414c5345470100000000000000101112131415161718191a1b1c1d1e1fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf",
    "050000000000000000000000000000000000000000000000000000000000000000000000000000000100000000000000",
    "010000000000000000100000000000007c000000000000006f8ed758",
);

#[test]
fn frames_and_heads_have_the_bytes_of_the_vectors() {
    let frame = frame();
    assert_eq!(hex(&encoded(|to| to.data(&frame, 0))), FRAME);
    assert_eq!(hex(&encoded(|to| to.key(&frame.key, 0))), KEY);
    assert_eq!(hex(&encoded(|to| to.confirm(6, 1))), CONFIRM);
    assert_eq!(hex(&head().encode()), HEAD);
    assert_eq!(head().encode().len(), HEADER_LEN);
    assert_eq!(Header::parse(&head().encode()).unwrap(), head());
}

#[test]
fn a_head_of_another_version_is_not_a_damaged_one() {
    let mut bytes = head().encode();
    bytes[8] = 2;
    assert_eq!(Header::parse(&bytes), Err(HeadFault::Damaged));
    let checksum = crc32c::crc32c(&bytes[..120]);
    bytes[120..].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(Header::parse(&bytes), Err(HeadFault::OtherVersion));
}

#[test]
fn a_frame_opens_only_where_it_was_sealed() {
    let frame = frame();
    let secret = SecretKey::new(counting(0));
    let opened = open(log(), &secret, &frame.key, 5, &frame.ciphertext);
    assert_eq!(&**opened.unwrap(), b"hello");
    let refused = |log, key: &SealedKey, origin, bytes: &[u8]| {
        assert!(open(log, &secret, key, origin, bytes).is_err());
    };
    refused(Uuid::nil(), &frame.key, 5, &frame.ciphertext);
    refused(log(), &frame.key, 6, &frame.ciphertext);
    refused(log(), &frame.key, 5, &frame.ciphertext[..10]);
    let mut other = sealed_key();
    other.home = 2;
    refused(log(), &other, 5, &frame.ciphertext);
    let mut other = sealed_key();
    other.source.table = "evidence".into();
    refused(log(), &other, 5, &frame.ciphertext);
}

#[test]
fn a_carried_frame_keeps_its_origin() {
    let frame = frame();
    let mut chain = Chain {
        position: 8,
        digest: [1; 32],
    };
    let carried = frame.clone().carried(&mut chain);
    assert_eq!((carried.position, carried.origin), (9, 5));
    assert_eq!(carried.digest, chain.digest);
    let bytes = encoded(|to| to.data(&carried, 3));
    let parsed = parse(&counting(0xa0), 124, &bytes).unwrap();
    let Content::Data(data) = parsed.content else {
        panic!("a data frame");
    };
    assert_eq!((data.position, data.origin, data.key_number), (9, 5, 3));
    assert_eq!(data.origin_digest, frame.digest);
    assert_eq!(data.ciphertext, frame.ciphertext);
}

#[test]
fn a_frame_is_one_only_at_its_place_and_whole() {
    let salt = counting(0xa0);
    let bytes = encoded(|to| to.data(&frame(), 0));
    assert!(parse(&salt, 124, &bytes).is_some());
    assert!(parse(&salt, 125, &bytes).is_none());
    assert!(parse(&array(&SeededRandom::new(1)), 124, &bytes).is_none());
    for length in 0..bytes.len() {
        assert!(parse(&salt, 124, &bytes[..length]).is_none());
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&salt, 124, &changed).is_none(), "bit {bit}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..7_u8) {
        let salt = counting(0xa0);
        let _ = parse(&salt, 124, &bytes);
        let _ = Header::parse(&bytes);
        // With a checksum that fits, so that the fields are reached.
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let length = u32::try_from(bytes.len()).unwrap();
        let mut checked = salt.to_vec();
        checked.extend_from_slice(&124_u64.to_le_bytes());
        checked.extend_from_slice(&length.to_le_bytes());
        checked.extend_from_slice(&bytes);
        let mut framed = b"THWF".to_vec();
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(&crc32c::crc32c(&checked).to_le_bytes());
        framed.extend_from_slice(&bytes);
        if let Some(parsed) = parse(&salt, 124, &framed) {
            prop_assert_eq!(parsed.length, framed.len());
        }
    }
}
