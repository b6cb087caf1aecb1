//! What may be told when a store does not answer: never a path, an address, a credential or a body.

use std::error::Error;
use std::io::{self, ErrorKind};

use object_store::client::{HttpError, HttpErrorKind};

/// What went wrong in a store, without what every `object_store` error carries: paths, URLs and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct StoreFault {
    class: &'static str,
    kind: Option<ErrorKind>,
}

impl StoreFault {
    /// The file system said no.
    pub fn of_file_system(kind: Option<ErrorKind>) -> Self {
        Self {
            class: "the file system failed",
            kind,
        }
    }

    /// The store refuses to write an object because there is one, and does not find it when asked for it. Some stores
    /// answer a put that meets another one under way so.
    pub fn contradiction() -> Self {
        Self {
            class: "the store contradicts itself",
            kind: None,
        }
    }

    /// What of a store's error may be told.
    pub fn from_store(error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let class = match error {
            E::NotFound { .. } => "not found",
            E::AlreadyExists { .. } => "already there",
            E::Precondition { .. } | E::NotModified { .. } => "a condition did not hold",
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => "access refused",
            E::NotSupported { .. } | E::NotImplemented { .. } => "not supported by this store",
            _ => "the store failed",
        };
        let mut fault = Self { class, kind: None };
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                fault.kind = Some(io.kind());
            } else if let Some(http) = error.downcast_ref::<HttpError>() {
                fault.class = match http.kind() {
                    HttpErrorKind::Connect => "the store cannot be reached",
                    HttpErrorKind::Timeout => "the store did not answer in time",
                    HttpErrorKind::Interrupted | HttpErrorKind::Request => {
                        "the connection to the store broke"
                    }
                    _ => "the store failed",
                };
            }
            cause = error.source();
        }
        fault
    }

    fn text(self) -> String {
        match self.kind {
            Some(kind) => format!("{}: {kind}", self.class),
            None => self.class.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_no_path() {
        let error = object_store::Error::NotFound {
            path: "tenants/acme/secret".into(),
            source: io::Error::from(ErrorKind::NotFound).into(),
        };
        let text = StoreFault::from_store(&error).to_string();
        assert!(
            !text.contains("acme") && text.contains("not found"),
            "{text}"
        );
    }

    #[test]
    fn a_fault_on_the_wire_is_told_by_its_kind() {
        let refused = io::Error::new(ErrorKind::ConnectionRefused, "https://key@host/?sig=abc");
        let error = object_store::Error::Generic {
            store: "S3",
            source: Box::new(HttpError::new(HttpErrorKind::Connect, refused)),
        };
        assert_eq!(
            StoreFault::from_store(&error).to_string(),
            "the store cannot be reached: connection refused"
        );
    }
}
