//! The rules of the workspace as tests: crate and module arrows, dependencies, names, file sizes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates may name which (`tests` and `benches` are leaves).
const CRATE_ARROWS: &[(&str, &[&str])] = &[
    ("catalog", &[]),
    ("udfs", &[]),
    ("engine", &["catalog", "udfs"]),
    ("flight-server", &["catalog", "engine"]),
    ("tests", &["catalog", "engine", "flight-server", "udfs"]),
    ("benches", &["catalog", "engine", "udfs"]),
];

/// Which module of `engine` may name which other through `crate::`.
const ENGINE_ARROWS: &[(&str, &[&str])] = &[
    ("disk", &[]),
    ("record", &[]),
    ("seal", &["record"]),
    ("table", &["disk", "record", "seal"]),
    ("wal", &["disk"]),
    ("sequencer", &["record", "seal", "table", "wal"]),
    ("evidence", &["record", "seal", "sequencer", "table"]),
    ("ingest", &["record", "seal", "sequencer", "table"]),
    ("proof", &["record", "seal", "sequencer", "table"]),
    ("receipt", &["record", "table"]),
    ("query", &["disk", "receipt", "record", "seal", "table"]),
    (
        "export",
        &["proof", "query", "receipt", "record", "seal", "table"],
    ),
];

const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Crates that must not enter the graph, with the reason.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "rustls only"),
    ("native-tls", "rustls only"),
    ("rsa", "RUSTSEC-2023-0071, use aws-lc-rs"),
    ("serde_yaml", "deprecated, use serde-saphyr"),
    ("sled", "unmaintained"),
    ("openidconnect", "pulls rsa"),
    ("josekit", "pulls openssl"),
    (
        "datafusion-flight-sql-server",
        "unsigned tickets that carry SQL",
    ),
];

const BANNED_FILE_NAMES: &[&str] = &[
    "utils",
    "util",
    "common",
    "helpers",
    "types",
    "manager",
    "service_manager",
];

const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace root")
        .to_path_buf()
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", &host()])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// Only the crates of this platform are on the disk after a build.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().expect("packages")
}

fn is_ours(package: &Value) -> bool {
    package["source"].is_null()
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = CRATE_ARROWS.iter().copied().collect();
    let ours: BTreeSet<_> = allowed.keys().copied().collect();
    let mut seen = BTreeSet::new();
    for package in packages(&metadata)
        .iter()
        .filter(|package| is_ours(package))
    {
        let name = text(package, "name");
        let arrows = allowed
            .get(name)
            .unwrap_or_else(|| panic!("crate {name} is not in the design"));
        seen.insert(name);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let target = text(dependency, "name");
            assert!(
                !ours.contains(target) || arrows.contains(&target),
                "{name} must not depend on {target}"
            );
        }
    }
    assert_eq!(seen, ours);
}

#[test]
fn dependencies_are_licensed_registry_crates_and_not_banned() {
    let metadata = metadata();
    let mut faults = Vec::new();
    for package in packages(&metadata)
        .iter()
        .filter(|package| !is_ours(package))
    {
        let name = text(package, "name");
        if !text(package, "source").starts_with("registry+") {
            faults.push(format!("{name}: not from a registry"));
        }
        let licence = text(package, "license");
        if !licence_is_accepted(licence) {
            faults.push(format!("{name}: licence `{licence}`"));
        }
        if let Some((_, reason)) = BANNED.iter().find(|(banned, _)| *banned == name) {
            faults.push(format!("{name} is banned: {reason}"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// An SPDX expression is accepted if one alternative consists of accepted licences only.
fn licence_is_accepted(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" AND ").all(|part| {
        part.split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim()))
    }) || flat.split(" OR ").any(|part| {
        part.split(" AND ")
            .all(|licence| LICENCES.contains(&licence.trim()))
    })
}

#[test]
fn the_licence_check_can_fail() {
    assert!(licence_is_accepted("MIT OR Apache-2.0"));
    assert!(licence_is_accepted("(MIT OR GPL-3.0) AND Unicode-3.0"));
    assert!(!licence_is_accepted("GPL-3.0-only"));
    assert!(!licence_is_accepted("MIT AND GPL-3.0-only"));
    assert!(!licence_is_accepted(""));
}

fn rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (name, _) in CRATE_ARROWS {
        collect(&root().join(name), &mut found);
    }
    assert!(
        found.len() > 30,
        "the walk found only {} files",
        found.len()
    );
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_open_with_their_purpose_and_stay_small() {
    let mut faults = Vec::new();
    for path in rust_files() {
        let source = std::fs::read_to_string(&path).expect("a readable file");
        let shown = path
            .strip_prefix(root())
            .expect("inside the workspace")
            .display()
            .to_string();
        if !source.starts_with("//!") {
            faults.push(format!(
                "{shown}: the first line says what the file is for (`//!`)"
            ));
        }
        let lines = if is_test_module(&path) {
            0
        } else {
            production_lines(&source)
        };
        if lines > FILE_LINES_MAX {
            faults.push(format!("{shown}: {lines} lines before its tests"));
        }
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        if BANNED_FILE_NAMES.contains(&stem) {
            faults.push(format!("{shown}: `{stem}` says nothing"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Whether the module is compiled for tests only, as its parent says.
fn is_test_module(path: &Path) -> bool {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let parents = ["mod.rs", "lib.rs"].map(|parent| path.with_file_name(parent));
    let declaration = format!("#[cfg(test)]\nmod {stem};");
    parents.iter().any(|parent| {
        std::fs::read_to_string(parent).is_ok_and(|source| source.contains(&declaration))
    })
}

fn production_lines(source: &str) -> usize {
    source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .count()
}

#[test]
fn only_the_table_module_names_the_delta_library() {
    for path in rust_files() {
        let shown = path
            .strip_prefix(root())
            .expect("inside the workspace")
            .display()
            .to_string();
        if shown.starts_with("engine/src/table/") || shown == "tests/it/tidy.rs" {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("a readable file");
        let named = source
            .lines()
            .any(|line| line.contains("deltalake_core") && !line.trim_start().starts_with("//"));
        assert!(!named, "{shown} names deltalake");
    }
}

#[test]
fn engine_modules_use_each_other_only_downwards() {
    let allowed: BTreeMap<_, _> = ENGINE_ARROWS.iter().copied().collect();
    let source_root = root().join("engine/src");
    let mut faults = Vec::new();
    for path in rust_files()
        .into_iter()
        .filter(|path| path.starts_with(&source_root))
    {
        let relative = path
            .strip_prefix(&source_root)
            .expect("inside engine")
            .to_path_buf();
        let module = relative
            .iter()
            .next()
            .and_then(|first| first.to_str())
            .unwrap_or_default();
        let module = module.trim_end_matches(".rs");
        let Some(arrows) = allowed.get(module) else {
            continue;
        };
        let source = std::fs::read_to_string(&path).expect("a readable file");
        for target in crate_paths(&source) {
            if target != module && allowed.contains_key(target) && !arrows.contains(&target) {
                faults.push(format!(
                    "engine/src/{}: {module} must not use {target}",
                    relative.display()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// First path segments after `crate::` in the code before the tests.
fn crate_paths(source: &str) -> Vec<&str> {
    source
        .lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| {
            rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default()
        })
        .collect()
}
