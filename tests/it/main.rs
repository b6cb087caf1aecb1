//! All integration tests are linked into one binary, so that they share one compile and one link.

mod tidy;
