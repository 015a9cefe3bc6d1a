//! Wrong input: a clear message, the right exit code, and nothing half done left behind.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use pontoon_testbed::{Cluster, Options, app, http, skip::docker_or_skip};

/// Uploads bytes as an app's source; status and body.
fn upload(cluster: &Cluster, name: &str, bytes: Vec<u8>) -> Result<(u16, String)> {
    let url = format!("{}/v1/apps/{name}/source", cluster.rest(0));
    request(cluster.token(), |client| client.post(&url).body(bytes))
}

fn request(token: &str, build: impl FnOnce(&reqwest::Client) -> reqwest::RequestBuilder) -> Result<(u16, String)> {
    http::send(|client| build(client).bearer_auth(token))
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory")
}

/// An archive with one entry of this raw name; tar's own checks are passed by.
fn archive(name: &str, kind: tar::EntryType, link: Option<&str>, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    if let Some(link) = link {
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, content).expect("writing to memory");
    gz(&builder.into_inner().expect("writing to memory"))
}

#[test]
fn bad_uploads_are_refused_by_name_and_leave_nothing() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    cluster.run(&["app", "create", "web"])?.ok()?;
    let file = tar::EntryType::Regular;
    let bomb = archive("zeros", file, None, &vec![0; 64 << 20]);
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("not an archive", b"hello".to_vec(), 422, "archive"),
        ("a gzip that is no tar", gz(&[7; 2000]), 422, "archive"),
        ("a bomb", bomb, 413, "bomb"),
        ("a way out", archive("../../etc/passwd", file, None, b"x"), 422, "../../etc/passwd"),
        ("an absolute path", archive("/etc/passwd", file, None, b"x"), 422, "/etc/passwd"),
        ("a link out", archive("link", tar::EntryType::Symlink, Some("../../etc"), b""), 422, "link"),
        ("a device", archive("null", tar::EntryType::Char, None, b""), 422, "null"),
        ("nothing known", archive("readme.txt", file, None, b"hi"), 422, "requirements.txt"),
    ];
    for (what, bytes, wanted, part) in cases {
        let (status, body) = upload(&cluster, "web", bytes)?;
        ensure!(status == wanted && body.contains(part), "{what}: {status} {body}");
    }
    ensure!(cluster.blobs().iter().all(BTreeSet::is_empty), "left behind: {:?}", cluster.blobs());
    let (status, body) = upload(&cluster, "nosuch", gz(b""))?;
    ensure!(status == 404 && body.contains("nosuch"), "{status} {body}");
    let url = format!("{}/v1/apps", cluster.rest(1));
    let (status, body) = request("wrong", |client| client.get(&url))?;
    ensure!(status == 401 && body.contains("token"), "{status} {body}");
    let (status, body) = request(cluster.token(), |client| client.post(&url).body("{"))?;
    ensure!(status == 400 && body.contains("\"code\":\"invalid\""), "{status} {body}");
    Ok(())
}

#[test]
fn wrong_commands_say_what_is_wrong() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    let folder = tempfile::tempdir()?;
    cluster.run(&["app", "create", "web"])?.ok()?;
    let fails = |args: &[&str], code: i32, part: &str| -> Result<()> {
        let stderr = cluster.run_in(Some(folder.path()), args)?.failed(code)?;
        ensure!(stderr.contains(part), "pontoon {}: {stderr}", args.join(" "));
        Ok(())
    };
    fails(&["ps", "--app", "nosuch"], 1, "nosuch does not exist")?;
    fails(&["app", "create", "web"], 1, "exists already")?;
    fails(&["app", "create", "No_Good"], 2, "a-z")?;
    fails(&["scale", "-3", "--app", "web"], 2, "")?;
    fails(&["scale", "20000", "--app", "web"], 1, "at most 10000")?;
    fails(&["scale", "1", "--memory", "1M", "--app", "web"], 1, "16M")?;
    fails(&["scale", "1", "--memory", "much", "--app", "web"], 2, "256M")?;
    fails(&["rollback", "--app", "web"], 1, "no older release")?;
    fails(&["restart", "--app", "web"], 1, "no live release")?;
    fails(&["run", "--app", "web", "--", "ls"], 1, "no live release")?;
    fails(&["env", "set", "PORT=1", "--app", "web"], 1, "PORT")?;
    fails(&["env", "get", "NOPE", "--app", "web"], 1, "NOPE")?;
    fails(&["ps"], 2, "--app")?;
    fails(&["frobnicate"], 2, "frobnicate")?;
    fails(&["deploy", "--app", "nosuch", app::example("static-site").to_str().unwrap_or("")], 1, "nosuch")?;
    fails(&["deploy", "--app", "web", folder.path().to_str().unwrap_or("")], 1, "no files to deploy")?;
    let output = cluster.command(&["status"])?.env("PONTOON_TOKEN", "wrong").output()?;
    ensure!(output.status.code() == Some(1), "a wrong token is a failure");
    ensure!(String::from_utf8_lossy(&output.stderr).contains("token"), "{output:?}");
    Ok(())
}

#[test]
fn apps_that_do_not_build_listen_or_stay_leave_the_live_release_serving() -> Result<()> {
    if !docker_or_skip("apps that fail") {
        return Ok(());
    }
    let cluster = Cluster::start(Options::docker())?;
    let folder = tempfile::tempdir()?;
    let good = app::copy_of("procfile-hello", folder.path())?;
    std::fs::write(good.join("pontoon.toml"), "name = \"web\"\n\n[health]\ntimeout = \"5s\"\n")?;
    cluster.run_in(Some(&good), &["deploy"])?.ok()?;
    cluster.until_serves("web.localhost", "v1")?;

    let deploy = |name: &str, files: &[(&str, &str)]| -> Result<String> {
        let source = app::write(folder.path(), name, files)?;
        std::fs::write(source.join("pontoon.toml"), "name = \"web\"\n\n[health]\ntimeout = \"5s\"\n")?;
        cluster.run_in(Some(&source), &["deploy"])?.failed(1)
    };
    let build = deploy(
        "fails-to-build",
        &[("Procfile", "web: sleep 60\n"), ("bin/build", "#!/bin/sh\necho cannot compile\nexit 3\n")],
    )?;
    ensure!(build.contains("cannot compile") && build.contains('3'), "{build}");
    let missing = deploy(
        "fails-to-install",
        &[("requirements.txt", "no-such-package-of-pontoon==9\n"), ("Procfile", "web: true\n")],
    )?;
    ensure!(missing.contains("no-such-package-of-pontoon"), "{missing}");
    let deaf = deploy("never-listens", &[("Procfile", "web: sh -c 'echo I wait; sleep 600'\n")])?;
    ensure!(deaf.contains("not ready within") && deaf.contains("I wait"), "{deaf}");
    let gone = deploy("exits-at-once", &[("Procfile", "web: sh -c 'echo boom; exit 9'\n")])?;
    ensure!(gone.contains("boom") && gone.contains('9'), "{gone}");

    cluster.until_serves("web.localhost", "v1")?;
    cluster.until_containers(1)
}

#[test]
fn the_log_of_an_app_that_never_started_says_why() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    let folder = tempfile::tempdir()?;
    let crash = app::write(folder.path(), "crash", &[("Procfile", "web: echo no such table; exit 9\n")])?;
    std::fs::write(crash.join("pontoon.toml"), "name = \"crash\"\n")?;
    cluster.run_in(Some(&crash), &["deploy"])?.failed(1)?;
    let log = cluster.run(&["logs", "--app", "crash"])?.ok()?;
    ensure!(
        log.contains("v1 | no such table\n") && log.contains("v1 | [pontoon] its deployment failed: servo"),
        "{log}"
    );

    std::fs::write(crash.join("Procfile"), "web: python3 -m http.server $PORT\n")?;
    cluster.run_in(Some(&crash), &["deploy"])?.ok()?;
    let log = cluster.run(&["logs", "--app", "crash"])?.ok()?;
    ensure!(!log.contains("no such table"), "{log}");
    Ok(())
}
