//! Which crate may use which (ARCHITECTURE.md): read from cargo, not from hope.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What each crate of ours may use of ours; nothing else.
const ARROWS: &[(&str, &[&str])] = &[
    ("pontoon-model", &[]),
    ("pontoon-kit", &[]),
    ("pontoon-api", &["pontoon-model"]),
    ("pontoon-proto", &["pontoon-model"]),
    ("pontoon-core", &["pontoon-model"]),
    ("pontoon-enrol", &["pontoon-kit", "pontoon-model", "pontoon-proto"]),
    (
        "pontoon-controller",
        &["pontoon-api", "pontoon-core", "pontoon-enrol", "pontoon-kit", "pontoon-model", "pontoon-proto"],
    ),
    ("pontoon-agent", &["pontoon-enrol", "pontoon-kit", "pontoon-model", "pontoon-proto"]),
    ("pontoon-init", &[]),
    ("base2histogram", &[]),
    ("pontoon-balancer", &["pontoon-enrol", "pontoon-kit", "pontoon-model", "pontoon-proto"]),
    (
        "pontoon-cli",
        &[
            "pontoon-agent",
            "pontoon-api",
            "pontoon-balancer",
            "pontoon-controller",
            "pontoon-enrol",
            "pontoon-kit",
            "pontoon-model",
        ],
    ),
];
/// Nothing depends on these; they may use everything.
const ENDS: &[&str] = &["pontoon-testbed", "pontoon-benches"];
/// Crates that only one crate of ours may name; the ends may, to measure an engine by itself.
const OWNED: &[(&str, &str)] =
    &[("sled", "pontoon-controller"), ("openraft", "pontoon-controller"), ("bollard", "pontoon-agent")];
/// What core's manifest must lack.
const NOT_IN_CORE: &[&str] = &["tokio", "openraft", "sled", "rand", "tonic", "hyper", "reqwest"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Normal and build dependencies of each crate of ours, by name.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap();
            (name(package), uses.iter().filter(|dependency| dependency["kind"] != "dev").map(name).collect())
        })
        .collect()
}

#[test]
fn every_arrow_points_where_the_architecture_says() {
    let dependencies = dependencies();
    for (name, uses) in &dependencies {
        let ours: BTreeSet<&str> =
            uses.iter().map(String::as_str).filter(|used| used.starts_with("pontoon-")).collect();
        if ENDS.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            panic!("{name} is new: give it its row in ARROWS and in ARCHITECTURE.md")
        };
        let wrong: Vec<_> = ours.iter().filter(|used| !allowed.contains(used)).collect();
        assert!(wrong.is_empty(), "{name} must not use {wrong:?}");
    }
}

#[test]
fn core_is_pure_and_engines_have_one_owner() {
    let dependencies = dependencies();
    let core = &dependencies["pontoon-core"];
    let impure: Vec<_> = NOT_IN_CORE.iter().filter(|name| core.contains(**name)).collect();
    assert!(impure.is_empty(), "controller/core names {impure:?}");
    for (engine, owner) in OWNED {
        let users: Vec<_> =
            dependencies.iter().filter(|(_, uses)| uses.contains(*engine)).map(|(name, _)| name.as_str()).collect();
        let users: Vec<_> = users.into_iter().filter(|name| !ENDS.contains(name)).collect();
        assert_eq!(users, [*owner], "who names {engine}");
    }
}

/// Source files below `folder` whose text holds `word`, as paths relative to the repository.
fn files_naming(word: &str, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_naming(word, &path));
        } else if path.extension().is_some_and(|ending| ending == "rs")
            && std::fs::read_to_string(&path).unwrap().contains(word)
        {
            found.push(path.strip_prefix(root()).unwrap().display().to_string());
        }
    }
    found
}

#[test]
fn sled_and_bollard_stay_behind_their_doors() {
    let sled = files_naming("sled::", &root().join("controller"));
    assert!(
        !sled.is_empty() && sled.iter().all(|file| file.starts_with("controller/server/src/raft/log_store")),
        "{sled:?}"
    );
    let bollard = files_naming("bollard::", &root().join("agent"));
    assert!(
        !bollard.is_empty() && bollard.iter().all(|file| file.starts_with("agent/src/runtime/docker")),
        "{bollard:?}"
    );
}
