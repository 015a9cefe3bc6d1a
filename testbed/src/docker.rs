//! The Docker engine, as a bystander sees it: through its command line, not through our own client.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Images that the examples need.
const IMAGES: [&str; 4] =
    ["pontoon/run-python:1", "pontoon/build-python:1", "pontoon/run-static:1", "pontoon/run-node:1"];

/// Runs `docker ARGS`; its output, or what it said on stderr.
pub fn docker(args: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(args).output().context("docker does not start")?;
    if !output.status.success() {
        bail!("docker {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the engine answers and has the images.
pub fn usable() -> Result<()> {
    docker(&["version", "--format", "{{.Server.Version}}"])?;
    for image in IMAGES {
        docker(&["image", "inspect", "--format", "{{.Id}}", image])
            .with_context(|| format!("image {image} is missing; `make images` builds it"))?;
    }
    Ok(())
}

/// Ids of a cluster's containers, running or not; `filters` as for `docker ps --filter`.
pub fn containers(cluster: &str, filters: &[&str]) -> Result<Vec<String>> {
    let label = format!("label=pontoon.cluster={cluster}");
    let mut args = vec!["ps", "-aq", "--no-trunc", "--filter", &label];
    filters.iter().for_each(|filter| args.extend(["--filter", filter]));
    Ok(docker(&args)?.lines().map(str::to_owned).collect())
}

/// Removes everything that a cluster left in the engine: containers, images, volumes, networks.
pub fn clean(cluster: &str) -> Result<()> {
    for container in containers(cluster, &[])? {
        // One that ends by itself meanwhile is fine.
        let _ = docker(&["rm", "-fv", &container]);
    }
    let name = format!("name=pontoon-{cluster}");
    for kind in ["volume", "network"] {
        for id in docker(&[kind, "ls", "-q", "--filter", &name])?.lines() {
            let _ = docker(&[kind, "rm", id]);
        }
    }
    ensure!(containers(cluster, &[])?.is_empty(), "containers of {cluster} are left");
    Ok(())
}
