//! Storage roots: paths and URLs with the settings of their stores, and what of the environment belongs to those.

use engine::table::{Root, RootError};

use super::Error;
use super::raw::{RawStore, nearest};
use super::resolved::{absolute, refused};

/// What variables that stores' clients know begin with: credentials above all.
const CLIENTS: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// Whether a variable may say something about a store.
pub(super) fn is_of_a_client(variable: &str) -> bool {
    CLIENTS.iter().any(|prefix| variable.starts_with(prefix))
}

/// The root in `<section>.root`, its store's settings in `<section>.store`.
pub(super) fn root(
    section: &str,
    text: &str,
    store: &RawStore,
    environment: &[(String, String)],
) -> Result<Root, Error> {
    let setting = format!("{section}.root");
    let parsed = if text.contains("://") {
        Root::parse(text, &store.0, environment)
    } else {
        let path = absolute(&setting, text)?;
        match store.0.keys().next() {
            None => Root::folder(&path),
            Some(name) => Err(RootError::UnknownSetting {
                name: name.clone(),
                usual: &[],
            }),
        }
    };
    parsed.map_err(|error| match error {
        RootError::Url(reason) => refused(setting, reason),
        RootError::UnknownSetting { name, usual } => Error::UnknownSetting {
            nearest: nearest(usual.iter().copied(), &name)
                .map(|known| format!("{section}.store.{known}")),
            setting: format!("{section}.store.{name}"),
        },
        RootError::Setting { name, reason } => refused(format!("{section}.store.{name}"), reason),
    })
}
