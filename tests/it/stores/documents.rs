//! What documents promise on any store.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};

use catalog::clock::SeededRandom;
use catalog::documents::{
    DOCUMENT_BYTES_MAX, DocumentError, Documents, SealedDocuments, Tampering,
};
use catalog::keys::SecretKey;

use super::Subject;

const KIND: &str = "holds";

macro_rules! parts {
    ($subject:expr, $($part:ident),* $(,)?) => {
        $($part($subject.part(stringify!($part))).await;)*
    };
}

/// All of it, each part in a place of its own.
pub(super) async fn contract(subject: &Subject) {
    parts!(
        subject,
        versions_follow_each_other,
        a_version_is_written_once,
        a_claim_is_won_once,
        names_cannot_leave_their_folder,
        what_never_was_is_none,
        ids_are_listed_by_kind,
        the_newest_version_cannot_be_taken_back,
        a_fresh_process_sees_a_hole,
        a_rewritten_version_is_noticed,
        a_whole_document_cannot_vanish,
        a_lost_version_is_not_written_again,
        foreign_objects_are_passed_over,
        racing_writers_leave_one_history,
        sealed_documents_round_trip,
        sealed_bytes_are_bound_to_their_place_and_past,
        sealed_documents_open_with_their_key_only,
    );
}

fn documents(store: &Arc<dyn ObjectStore>) -> Documents {
    Documents::new(Arc::clone(store), Path::from("tenants/acme/control"))
}

fn sealed(store: &Arc<dyn ObjectStore>, key: u8) -> SealedDocuments {
    let random = Arc::new(SeededRandom::new(u64::from(key)));
    SealedDocuments::new(
        documents(store),
        Arc::new(SecretKey::new([key; 32])),
        random,
    )
}

fn object(id: &str, version: u64) -> Path {
    Path::from(format!("tenants/acme/control/{KIND}/{id}/{version:020}"))
}

#[expect(clippy::disallowed_methods, reason = "the tests play the attacker")]
async fn remove(store: &Arc<dyn ObjectStore>, id: &str, version: u64) {
    store.delete(&object(id, version)).await.unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the tests play the attacker")]
async fn plant(store: &Arc<dyn ObjectStore>, path: &Path, bytes: Bytes) {
    let mode = PutMode::Overwrite.into();
    store.put_opts(path, bytes.into(), mode).await.unwrap();
}

async fn write(documents: &Documents, id: &str, texts: &[&'static str]) {
    for (version, text) in (1..).zip(texts) {
        let bytes = Bytes::from_static(text.as_bytes());
        documents.put(KIND, id, version, bytes).await.unwrap();
    }
}

#[track_caller]
fn assert_tampered<T: std::fmt::Debug>(outcome: Result<T, DocumentError>, expected: Tampering) {
    match outcome {
        Err(DocumentError::Tampered(found)) => assert_eq!(found, expected),
        other => unreachable!("expected {expected:?}, got {other:?}"),
    }
}

async fn versions_follow_each_other(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    assert!(matches!(
        documents.put(KIND, "h1", 2, Bytes::new()).await,
        Err(DocumentError::NotNext)
    ));
    assert!(matches!(
        documents.put(KIND, "h1", 0, Bytes::new()).await,
        Err(DocumentError::NotNext)
    ));
    write(&documents, "h1", &["one", "two", "three"]).await;
    for documents in [documents, self::documents(&store)] {
        let (version, bytes) = documents.latest(KIND, "h1").await.unwrap().unwrap();
        assert_eq!((version, &bytes[..]), (3, &b"three"[..]));
        assert_eq!(documents.versions(KIND, "h1").await.unwrap(), [1, 2, 3]);
        let second = documents.get(KIND, "h1", 2).await.unwrap().unwrap();
        assert_eq!(&second[..], b"two");
        assert_eq!(documents.get(KIND, "h1", 4).await.unwrap(), None);
    }
    assert!(
        store.head(&object("h1", 3)).await.is_ok(),
        "the path is the documented one"
    );
    // Another process may go on without having read anything.
    let other = self::documents(&store);
    other
        .put(KIND, "h1", 4, Bytes::from_static(b"four"))
        .await
        .unwrap();
    let too_large = Bytes::from(vec![0; DOCUMENT_BYTES_MAX + 1]);
    assert!(matches!(
        other.put(KIND, "h1", 5, too_large).await,
        Err(DocumentError::TooLarge)
    ));
}

async fn a_version_is_written_once(store: Arc<dyn ObjectStore>) {
    let (one, two) = (documents(&store), documents(&store));
    write(&one, "h1", &["one"]).await;
    for documents in [&one, &two] {
        let again = documents
            .put(KIND, "h1", 1, Bytes::from_static(b"other"))
            .await;
        assert!(matches!(again, Err(DocumentError::VersionTaken)));
        let (_, bytes) = documents.latest(KIND, "h1").await.unwrap().unwrap();
        assert_eq!(&bytes[..], b"one");
    }
}

/// Equal bytes may be another's: they are one's own in a put, and taken in a claim.
async fn a_claim_is_won_once(store: Arc<dyn ObjectStore>) {
    let same = || Bytes::from_static(b"mine");
    documents(&store).put(KIND, "h1", 1, same()).await.unwrap();
    documents(&store).put(KIND, "h1", 1, same()).await.unwrap();
    let claims = (0..8).map(|_| {
        let documents = documents(&store);
        async move { documents.claim(KIND, "h2", 1, same()).await }
    });
    let outcomes = futures::future::join_all(claims).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for outcome in outcomes {
        assert!(matches!(outcome, Ok(()) | Err(DocumentError::VersionTaken)));
    }
}

async fn names_cannot_leave_their_folder(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    for name in [
        "", ".", "..", ".x", "a/b", "../x", "a%2Fb", "a b", "a#1", "é", "a\0",
    ] {
        for outcome in [
            documents.put(KIND, name, 1, Bytes::new()).await,
            documents.put(name, "id", 1, Bytes::new()).await,
            documents.latest(KIND, name).await.map(|_| ()),
            documents.get(KIND, name, 1).await.map(|_| ()),
            documents.versions(KIND, name).await.map(|_| ()),
            documents.list(name).await.map(|_| ()),
        ] {
            assert!(
                matches!(outcome, Err(DocumentError::InvalidName(_))),
                "{name:?}"
            );
        }
    }
}

async fn what_never_was_is_none(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    assert!(documents.latest(KIND, "h1").await.unwrap().is_none());
    assert!(documents.get(KIND, "h1", 1).await.unwrap().is_none());
    assert!(documents.versions(KIND, "h1").await.unwrap().is_empty());
    assert!(documents.list(KIND).await.unwrap().is_empty());
}

async fn ids_are_listed_by_kind(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    for id in ["b", "a", "c.d_e-F"] {
        write(&documents, id, &["one"]).await;
    }
    documents.put("grants", "g", 1, Bytes::new()).await.unwrap();
    assert_eq!(documents.list(KIND).await.unwrap(), ["a", "b", "c.d_e-F"]);
    assert_eq!(documents.list("grants").await.unwrap(), ["g"]);
}

async fn the_newest_version_cannot_be_taken_back(store: Arc<dyn ObjectStore>) {
    let (writer, reader) = (documents(&store), documents(&store));
    write(&writer, "h1", &["one", "two"]).await;
    reader.latest(KIND, "h1").await.unwrap();
    remove(&store, "h1", 2).await;
    for documents in [&writer, &reader] {
        assert_tampered(documents.latest(KIND, "h1").await, Tampering::Regress);
        assert_tampered(documents.versions(KIND, "h1").await, Tampering::Regress);
        assert_tampered(documents.get(KIND, "h1", 2).await, Tampering::Regress);
    }
}

async fn a_fresh_process_sees_a_hole(store: Arc<dyn ObjectStore>) {
    write(&documents(&store), "h1", &["one", "two", "three"]).await;
    remove(&store, "h1", 2).await;
    assert_tampered(documents(&store).latest(KIND, "h1").await, Tampering::Hole);
    remove(&store, "h1", 1).await;
    assert_tampered(documents(&store).latest(KIND, "h1").await, Tampering::Hole);
}

async fn a_rewritten_version_is_noticed(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    write(&documents, "h1", &["one"]).await;
    plant(&store, &object("h1", 1), Bytes::from_static(b"other")).await;
    assert_tampered(documents.latest(KIND, "h1").await, Tampering::Changed);
}

async fn a_whole_document_cannot_vanish(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    write(&documents, "h1", &["one"]).await;
    remove(&store, "h1", 1).await;
    assert_tampered(documents.latest(KIND, "h1").await, Tampering::Regress);
}

async fn a_lost_version_is_not_written_again(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    write(&documents, "h1", &["one", "two"]).await;
    remove(&store, "h1", 2).await;
    let again = documents
        .put(KIND, "h1", 2, Bytes::from_static(b"fork"))
        .await;
    assert!(matches!(again, Err(DocumentError::VersionTaken)));
    assert!(
        store.head(&object("h1", 2)).await.is_err(),
        "nothing was written"
    );
}

async fn foreign_objects_are_passed_over(store: Arc<dyn ObjectStore>) {
    let documents = documents(&store);
    write(&documents, "h1", &["one"]).await;
    let folder = Path::from(format!("tenants/acme/control/{KIND}/h1"));
    for name in [
        "2",
        "000000000000000000x2",
        "99999999999999999999",
        "00000000000000000000",
    ] {
        plant(&store, &folder.clone().join(name), Bytes::new()).await;
    }
    let deeper = folder.join("deeper").join(format!("{:020}", 2));
    plant(&store, &deeper, Bytes::new()).await;
    assert_eq!(documents.versions(KIND, "h1").await.unwrap(), [1]);
    assert_eq!(documents.get(KIND, "h1", 0).await.unwrap(), None);
    assert_eq!(documents.latest(KIND, "h1").await.unwrap().unwrap().0, 1);
}

async fn racing_writers_leave_one_history(store: Arc<dyn ObjectStore>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 5;
    let appends = (0..WRITERS).map(|writer| {
        let documents = documents(&store);
        async move {
            let mut written = 0;
            while written < EACH {
                let newest = documents.latest(KIND, "h1").await.unwrap();
                let next = newest.map_or(1, |(version, _)| version + 1);
                let bytes = Bytes::from(format!("{writer}:{written}"));
                match documents.put(KIND, "h1", next, bytes).await {
                    Ok(()) => written += 1,
                    Err(DocumentError::VersionTaken) => {}
                    Err(error) => unreachable!("{error:?}"),
                }
            }
        }
    });
    futures::future::join_all(appends).await;
    let documents = documents(&store);
    let versions = documents.versions(KIND, "h1").await.unwrap();
    assert_eq!(versions, (1..=WRITERS * EACH).collect::<Vec<_>>());
    let mut texts = Vec::new();
    for version in versions {
        texts.push(documents.get(KIND, "h1", version).await.unwrap().unwrap());
    }
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len() as u64, WRITERS * EACH, "no write was lost");
}

async fn sealed_documents_round_trip(store: Arc<dyn ObjectStore>) {
    let writer = sealed(&store, 1);
    for (version, text) in (1..).zip(["one", "two", "three"]) {
        writer
            .put(KIND, "h1", version, text.as_bytes())
            .await
            .unwrap();
    }
    let again = writer.put(KIND, "h1", 3, b"other").await;
    assert!(matches!(again, Err(DocumentError::VersionTaken)));
    let early = writer.put(KIND, "h1", 5, b"five").await;
    assert!(matches!(early, Err(DocumentError::NotNext)));
    let reader = sealed(&store, 1);
    let (version, text) = reader.latest(KIND, "h1").await.unwrap().unwrap();
    assert_eq!((version, &text[..]), (3, &b"three"[..]));
    let first = reader.get(KIND, "h1", 1).await.unwrap().unwrap();
    assert_eq!(&first[..], b"one");
    assert_eq!(reader.versions(KIND, "h1").await.unwrap(), [1, 2, 3]);
    assert_eq!(reader.list(KIND).await.unwrap(), ["h1"]);
    let stored = documents(&store).get(KIND, "h1", 1).await.unwrap().unwrap();
    assert!(stored.starts_with(b"thd1"));
    assert!(!stored.windows(3).any(|window| window == b"one"));
}

async fn sealed_bytes_are_bound_to_their_place_and_past(store: Arc<dyn ObjectStore>) {
    let writer = sealed(&store, 1);
    for id in ["h1", "h2"] {
        writer.put(KIND, id, 1, b"one").await.unwrap();
        writer.put(KIND, id, 2, b"two").await.unwrap();
    }
    let raw = documents(&store);
    let moved = raw.get(KIND, "h1", 1).await.unwrap().unwrap();
    plant(&store, &object("h3", 1), moved.clone()).await;
    assert_tampered(sealed(&store, 1).latest(KIND, "h3").await, Tampering::Seal);
    // The same text at the same place, but another past: version 2 was not written after this version 1.
    let other_store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let other = sealed(&other_store, 1);
    other.put(KIND, "h9", 1, b"uses up a nonce").await.unwrap();
    other.put(KIND, "h2", 1, b"one").await.unwrap();
    let past = documents(&other_store)
        .get(KIND, "h2", 1)
        .await
        .unwrap()
        .unwrap();
    plant(&store, &object("h2", 1), past).await;
    let fresh = sealed(&store, 1);
    assert_eq!(
        &fresh.get(KIND, "h2", 1).await.unwrap().unwrap()[..],
        b"one"
    );
    assert_tampered(fresh.latest(KIND, "h2").await, Tampering::Seal);
}

async fn sealed_documents_open_with_their_key_only(store: Arc<dyn ObjectStore>) {
    sealed(&store, 1).put(KIND, "h1", 1, b"one").await.unwrap();
    assert_tampered(sealed(&store, 2).latest(KIND, "h1").await, Tampering::Seal);
    plant(&store, &object("h2", 1), Bytes::from_static(b"one")).await;
    assert_tampered(sealed(&store, 1).latest(KIND, "h2").await, Tampering::Seal);
}
