//! Configuration: `trailhouse.toml`, then the environment, then checked as a whole; it works with neither.
//!
//! Raw settings (`raw`) become resolved ones (`resolved`) once, at start. There is no process-wide configuration: it is
//! an argument. This is the one place that reads the environment.

mod auth;
mod exports;
mod queries;
mod rates;
mod raw;
mod resolved;
mod roots;
mod tables;
mod tls;
mod wal;

use std::path::{Path, PathBuf};

pub use auth::{Auth, Issuer, Jwks};
pub use exports::ExportSettings;
pub use queries::QuerySettings;
pub use resolved::{Config, Log, LogFormat, Silo};
pub use tables::Maintenance;
pub use tls::Tls;
pub use wal::Wal;

/// The file that is read from the working directory when none is named.
pub const FILE_NAME: &str = "trailhouse.toml";

/// Why a configuration is refused. The texts name settings, as the operator wrote them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that was asked for cannot be read.
    #[error("the configuration file `{}` cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("the configuration does not parse: line {line}: {message}")]
    Syntax {
        /// Where, from 1. The line itself is not shown: it may hold a credential.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing.
    #[error("unknown setting `{setting}`{}", suggestion(nearest.as_deref()))]
    UnknownSetting {
        /// The key as written.
        setting: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// An environment variable that ends at a section.
    #[error("`{variable}` names a section, not a setting")]
    NotASetting {
        /// The variable.
        variable: String,
    },
    /// A value that is not of its setting's type.
    #[error("`{setting}` takes {expected}")]
    WrongType {
        /// The setting.
        setting: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Values that cannot be, alone or together.
    #[error("`{setting}`: {reason}")]
    Refused {
        /// The setting.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |known| format!(", did you mean `{known}`?"))
}

/// Reads the named file, or `TRAILHOUSE_CONFIG`, or `trailhouse.toml` if there is one, and the environment.
///
/// # Errors
/// When a file that was named is missing, or the settings are refused.
pub fn load(file: Option<&Path>) -> Result<Config, Error> {
    // Variables that are not Unicode cannot be settings.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            name.starts_with(raw::ENVIRONMENT_PREFIX) || roots::is_of_a_client(name)
        })
        .collect();
    let named = file.map(Path::to_path_buf).or_else(|| {
        let (_, path) = environment
            .iter()
            .find(|(name, _)| name == "TRAILHOUSE_CONFIG")?;
        Some(PathBuf::from(path))
    });
    let text = match named {
        Some(path) => {
            std::fs::read_to_string(&path).map_err(|source| Error::Unreadable { path, source })?
        }
        None => match std::fs::read_to_string(FILE_NAME) {
            Ok(text) => text,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(source) => {
                let path = PathBuf::from(FILE_NAME);
                return Err(Error::Unreadable { path, source });
            }
        },
    };
    from_text(&text, environment)
}

/// The same from given parts: what tests and tools use.
///
/// # Errors
/// When the settings are refused.
pub fn from_text(
    file: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, Error> {
    let environment: Vec<_> = environment.into_iter().collect();
    resolved::resolve(raw::read(file, &environment)?, &environment)
}

#[cfg(test)]
mod tests;
