//! Clients of object storage beyond this machine, and the settings they take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::Handle;
use url::Url;

use super::RootError;

const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// For one request with its answer; the largest is a data file.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
const RETRIES_MAX: usize = 5;
/// After this time a request is not tried again.
const RETRY_TIME_MAX: Duration = Duration::from_secs(30);
const RETRY_WAIT: Duration = Duration::from_millis(100);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Who runs the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    S3,
    Azure,
    Google,
}

/// A container in the cloud, with everything its client needs. Has no `Debug`: it holds secrets.
#[derive(Clone)]
pub(super) struct Cloud {
    provider: Provider,
    container: String,
    prefix: Path,
    /// By the client's first name for each.
    settings: BTreeMap<String, String>,
}

impl Cloud {
    pub(super) fn new(
        provider: Provider,
        container: &str,
        prefix: Path,
        written: &BTreeMap<String, String>,
        environment: &[(String, String)],
    ) -> Result<Self, RootError> {
        let mut settings = provider.settings(written)?;
        let has_credentials = settings.keys().any(|name| provider.is_credential(name));
        for (name, value) in provider.ambient(environment) {
            // Half of one identity and half of another are none.
            if !(has_credentials && provider.is_credential(&name)) {
                settings.entry(name).or_insert(value);
            }
        }
        let cloud = Self {
            provider,
            container: container.to_owned(),
            prefix,
            settings,
        };
        cloud.check()?;
        Ok(cloud)
    }

    /// Whether the other's objects lie among this one's.
    pub(super) fn holds(&self, other: &Self) -> bool {
        self.provider == other.provider
            && self.container == other.container
            && self
                .provider
                .address()
                .iter()
                .all(|name| self.settings.get(*name) == other.settings.get(*name))
            && other.prefix.prefix_matches(&self.prefix)
    }

    fn check(&self) -> Result<(), RootError> {
        let short = |name: &str| self.provider.short(name).to_owned();
        let wrong = |name: &str, reason| {
            Err(RootError::Setting {
                name: short(name),
                reason,
            })
        };
        for name in SWITCHES {
            let name = self.provider.canonical(name).unwrap_or_default();
            if self
                .settings
                .get(&name)
                .is_some_and(|text| switch(text).is_none())
            {
                return wrong(&name, "takes true or false");
            }
        }
        let endpoint = self.provider.endpoint();
        if let Some(text) = self.settings.get(endpoint) {
            match Url::parse(text) {
                Ok(url) if url.scheme() == "http" && !self.allows_http() => {
                    return wrong("allow_http", "has to be true for an endpoint without TLS");
                }
                Ok(url)
                    if matches!(url.scheme(), "http" | "https")
                        && url.username().is_empty()
                        && url.password().is_none() => {}
                _ => return wrong(endpoint, "takes an https:// address without credentials"),
            }
        }
        let has = |name: &str| self.settings.contains_key(name);
        match self.provider {
            Provider::S3 => match (has("aws_access_key_id"), has("aws_secret_access_key")) {
                (true, false) => wrong("aws_secret_access_key", "is missing"),
                (false, true) => wrong("aws_access_key_id", "is missing"),
                _ => Ok(()),
            },
            Provider::Azure if !has("azure_storage_account_name") => {
                wrong("azure_storage_account_name", "is missing")
            }
            Provider::Azure => match self.settings.get("azure_storage_account_key") {
                Some(key) if STANDARD.decode(key).is_err() => {
                    wrong("azure_storage_account_key", "is not base64")
                }
                _ => Ok(()),
            },
            Provider::Google => Ok(()),
        }
    }

    fn allows_http(&self) -> bool {
        let text = self.settings.get("allow_http");
        text.and_then(|text| switch(text)).unwrap_or(false)
    }

    pub(super) fn open(&self) -> object_store::Result<Arc<dyn ObjectStore>> {
        let store: Arc<dyn ObjectStore> = match self.provider {
            Provider::S3 => {
                let mut builder = AmazonS3Builder::new()
                    .with_http_connector(connector()?)
                    .with_bucket_name(&self.container)
                    .with_retry(retries())
                    .with_client_options(client());
                for (name, value) in &self.settings {
                    builder = builder.with_config(name.parse::<AmazonS3ConfigKey>()?, value);
                }
                Arc::new(builder.build()?)
            }
            Provider::Azure => {
                let mut builder = MicrosoftAzureBuilder::new()
                    .with_http_connector(connector()?)
                    .with_container_name(&self.container)
                    .with_retry(retries())
                    .with_client_options(client());
                for (name, value) in &self.settings {
                    builder = builder.with_config(name.parse::<AzureConfigKey>()?, value);
                }
                Arc::new(builder.build()?)
            }
            Provider::Google => {
                let mut builder = GoogleCloudStorageBuilder::new()
                    .with_http_connector(connector()?)
                    .with_bucket_name(&self.container)
                    .with_retry(retries())
                    .with_client_options(client());
                for (name, value) in &self.settings {
                    builder = builder.with_config(name.parse::<GoogleConfigKey>()?, value);
                }
                Arc::new(builder.build()?)
            }
        };
        if self.prefix.as_ref().is_empty() {
            return Ok(store);
        }
        Ok(Arc::new(PrefixStore::new(store, self.prefix.clone())))
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<&str> {
        self.settings.keys().map(String::as_str).collect()
    }
}

impl Provider {
    /// What a setting is called first, if there is one of this name.
    fn canonical(self, name: &str) -> Option<String> {
        match self {
            Self::S3 => match name.parse().ok()? {
                // A more specific name for the same thing.
                AmazonS3ConfigKey::S3Endpoint => Some("aws_endpoint".to_owned()),
                key => Some(key.as_ref().to_owned()),
            },
            Self::Azure => Some(name.parse::<AzureConfigKey>().ok()?.as_ref().to_owned()),
            Self::Google => Some(name.parse::<GoogleConfigKey>().ok()?.as_ref().to_owned()),
        }
    }

    /// What operators call it.
    fn short(self, canonical: &str) -> &str {
        let prefixes: &[&str] = match self {
            Self::S3 => &["aws_"],
            Self::Azure => &["azure_storage_", "azure_"],
            Self::Google => &["google_"],
        };
        prefixes
            .iter()
            .find_map(|prefix| canonical.strip_prefix(prefix))
            .unwrap_or(canonical)
    }

    /// The settings as they were written, each under its first name, those in files read.
    fn settings(
        self,
        written: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, RootError> {
        let mut settings = BTreeMap::new();
        for (name, value) in written {
            let wrong = |reason| RootError::Setting {
                name: name.clone(),
                reason,
            };
            let of_file = || self.canonical(name.strip_suffix("_file")?);
            let (key, value) = match (self.canonical(name), of_file()) {
                (Some(key), _) => (key, value.clone()),
                (None, Some(key)) => {
                    let value = read_secret(value)
                        .ok_or_else(|| wrong("names a file that cannot be read"))?;
                    (key, value)
                }
                (None, None) => {
                    return Err(RootError::UnknownSetting {
                        name: name.clone(),
                        usual: self.usual(),
                    });
                }
            };
            if DECIDED.contains(&key.as_str()) {
                return Err(wrong(
                    "is decided by the root and by what is needed of a store",
                ));
            }
            if settings.insert(key, value).is_some() {
                return Err(wrong("is given twice"));
            }
        }
        Ok(settings)
    }

    /// What the environment says of this provider's stores. Names that mean nothing here belong to other programs.
    fn ambient(self, environment: &[(String, String)]) -> BTreeMap<String, String> {
        let prefix = match self {
            Self::S3 => "AWS_",
            Self::Azure => "AZURE_",
            Self::Google => "GOOGLE_",
        };
        let mut named: Vec<_> = environment
            .iter()
            .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
            .filter_map(|(name, value)| Some((self.canonical(&name.to_lowercase())?, name, value)))
            .filter(|(key, _, _)| !DECIDED.contains(&key.as_str()))
            .collect();
        // The longer of two names for one thing is the more specific one: AWS_ENDPOINT_URL_S3.
        named.sort_by_key(|(_, name, _)| name.len());
        named
            .into_iter()
            .map(|(key, _, value)| (key, value.clone()))
            .collect()
    }

    fn endpoint(self) -> &'static str {
        match self {
            Self::S3 => "aws_endpoint",
            Self::Azure => "azure_storage_endpoint",
            Self::Google => "google_base_url",
        }
    }

    /// The settings that tell one container from another of the same name.
    fn address(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["aws_endpoint"],
            Self::Azure => &["azure_storage_endpoint", "azure_storage_account_name"],
            Self::Google => &["google_base_url"],
        }
    }

    fn is_credential(self, canonical: &str) -> bool {
        let names: &[&str] = match self {
            Self::S3 => &[
                "access_key_id",
                "secret_access_key",
                "session_token",
                "web_identity_token_file",
                "role_arn",
                "role_session_name",
                "container_credentials_relative_uri",
                "container_credentials_full_uri",
                "container_authorization_token_file",
                "skip_signature",
            ],
            Self::Azure => &[
                "account_key",
                "client_id",
                "client_secret",
                "tenant_id",
                "sas_key",
                "token",
                "federated_token_file",
                "msi_endpoint",
                "object_id",
                "msi_resource_id",
                "use_azure_cli",
                "skip_signature",
            ],
            Self::Google => &[
                "service_account",
                "service_account_key",
                "application_credentials",
                "skip_signature",
            ],
        };
        names.contains(&self.short(canonical))
    }

    fn usual(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &[
                "region",
                "endpoint",
                "access_key_id",
                "secret_access_key",
                "secret_access_key_file",
                "session_token",
                "web_identity_token_file",
                "role_arn",
                "virtual_hosted_style_request",
                "allow_http",
            ],
            Self::Azure => &[
                "account_name",
                "account_key",
                "account_key_file",
                "sas_token",
                "sas_token_file",
                "client_id",
                "client_secret",
                "client_secret_file",
                "tenant_id",
                "endpoint",
                "allow_http",
            ],
            Self::Google => &["service_account", "application_credentials", "base_url"],
        }
    }
}

/// Settings that the root decides, or that would take away what is needed of a store.
const DECIDED: &[&str] = &[
    "aws_bucket",
    "aws_conditional_put",
    "aws_copy_if_not_exists",
    "azure_container_name",
    "azure_storage_use_emulator",
    "google_bucket",
];

/// Settings that are on or off.
const SWITCHES: &[&str] = &[
    "allow_http",
    "allow_invalid_certificates",
    "virtual_hosted_style_request",
    "unsigned_payload",
    "imdsv1_fallback",
    "skip_signature",
    "disable_tagging",
    "s3_express",
    "request_payer",
    "use_azure_cli",
    "use_fabric_endpoint",
    "http1_only",
    "http2_only",
    "randomize_addresses",
];

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "on" | "yes" | "y" => Some(true),
        "0" | "false" | "off" | "no" | "n" => Some(false),
        _ => None,
    }
}

fn read_secret(path: &str) -> Option<String> {
    let size = std::fs::metadata(path).ok()?.len();
    if size > SECRET_FILE_BYTES_MAX {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Requests run where the store was opened, whoever makes them: a query that keeps its threads busy must not hold up a
/// connection that others use as well.
fn connector() -> object_store::Result<SpawnedReqwestConnector> {
    let runtime = Handle::try_current().map_err(|error| object_store::Error::Generic {
        store: "http",
        source: Box::new(error),
    })?;
    Ok(SpawnedReqwestConnector::new(runtime))
}

fn client() -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(CONNECT_TIME_MAX)
        .with_timeout(REQUEST_TIME_MAX)
}

fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: RETRY_WAIT,
            max_backoff: RETRY_WAIT_MAX,
            base: 2.0,
        },
        max_retries: RETRIES_MAX,
        retry_timeout: RETRY_TIME_MAX,
    }
}
