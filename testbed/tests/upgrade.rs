//! A cluster whose controllers are of two versions: separate processes, one binary built with one command kind and one row
//! version more than the other.

use anyhow::{Result, ensure};
use pontoon_testbed::{Cluster, Options, binary, cluster::PATIENCE, http, until};
use serde_json::{Value, json};

/// One request to one controller; answers with a body that is not JSON are null.
fn call(cluster: &Cluster, at: usize, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
    let url = format!("{}/v1/{path}", cluster.rest(at));
    let (status, text) = http::send(|client| {
        let request = client.request(method.parse().unwrap_or_default(), url).bearer_auth(cluster.token());
        match &body {
            Some(body) => request.header("Content-Type", "application/json").body(body.to_string()),
            None => request,
        }
    })?;
    Ok((status, serde_json::from_str(&text).unwrap_or_default()))
}

/// Sets a label through controller `at`, trying again while nobody leads, and reads it back from every controller that
/// runs.
fn write_and_read(cluster: &Cluster, at: usize, running: &[usize], value: &str) -> Result<()> {
    let set = json!({ "set": { "round": value } });
    until(&format!("controller {at} to take label {value}"), PATIENCE, || {
        let answer = call(cluster, at, "PATCH", "apps/site/labels", Some(set.clone()))?;
        ensure!(answer.0 == 200, "{answer:?}");
        Ok(())
    })?;
    for reader in running {
        until(&format!("controller {reader} to read label {value}"), PATIENCE, || {
            let (status, labels) = call(cluster, *reader, "GET", "apps/site/labels?consistency=linearizable", None)?;
            ensure!(status == 200 && labels["round"] == value, "{status} {labels}");
            Ok(())
        })?;
    }
    Ok(())
}

fn until_level(cluster: &Cluster, level: u32) -> Result<()> {
    until(&format!("feature level {level} at every controller"), PATIENCE, || {
        for at in 0..3 {
            let status = call(cluster, at, "GET", "status", None)?.1;
            ensure!(status["feature_level"] == level, "controller {at}: {status}");
        }
        Ok(())
    })
}

#[test]
fn a_newer_controller_works_with_older_ones_and_what_is_new_is_used_once_all_have_it() -> Result<()> {
    let newer = binary::next_level()?;
    let mut cluster = Cluster::start(Options::process())?;
    ensure!(call(&cluster, 0, "POST", "apps", Some(json!({ "name": "site" })))?.0 == 200);
    until_level(&cluster, 3)?;

    cluster.controllers[0].stop()?;
    cluster.controllers[0].run_from_now_on(newer.clone());
    cluster.controllers[0].restart()?;
    cluster.until_whole()?;
    for at in 0..3 {
        write_and_read(&cluster, at, &[0, 1, 2], &format!("via-{at}"))?;
    }
    let note = |text: &str| Some(json!({ "note": text }));
    // Each is killed once, the newer one too, so that each leads at some time or follows one of the other version.
    for killed in 0..3 {
        cluster.controllers[killed].kill()?;
        let others = [(killed + 1) % 3, (killed + 2) % 3];
        write_and_read(&cluster, others[0], &others, &format!("without-{killed}"))?;
        cluster.controllers[killed].restart()?;
        write_and_read(&cluster, killed, &[0, 1, 2], &format!("with-{killed}"))?;
        // Whoever leads, and does or does not know of such a thing.
        let refused = call(&cluster, 0, "PUT", "apps/site/note", note("early"))?;
        let said = refused.1["error"]["message"].as_str().unwrap_or_default();
        ensure!(
            refused.0 == 409 && said.contains("east") && said.contains("west"),
            "who holds it back is named: {refused:?}"
        );
    }
    until_level(&cluster, 3)?;

    for at in 1..3 {
        cluster.controllers[at].stop()?;
        cluster.controllers[at].run_from_now_on(newer.clone());
        cluster.controllers[at].restart()?;
        cluster.until_whole()?;
    }
    until_level(&cluster, 4)?;
    for at in 0..3 {
        let text = format!("via-{at}");
        let written = call(&cluster, at, "PUT", "apps/site/note", note(&text))?;
        ensure!(written.0 == 200, "{written:?}");
        for reader in 0..3 {
            let read = call(&cluster, reader, "GET", "apps/site/note?consistency=linearizable", None)?;
            ensure!(read == (200, json!({ "note": text })), "controller {reader}: {read:?}");
        }
    }
    // What was written before is still there in the newest row.
    write_and_read(&cluster, 1, &[0, 1, 2], "at-the-end")
}
