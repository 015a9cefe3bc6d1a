//! Releases beside the live one: a canary that gets a share and is promoted under load, a preview at its own host name.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::{Cluster, Load, Options, app, cluster::PATIENCE, until};

const HOST: &str = "colors.localhost";

const SERVER: &str = r#"
import http.server, os

class Color(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        text = (os.environ["PONTOON_RELEASE"] + " " + open("color").read()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128

Server(("0.0.0.0", int(os.environ["PORT"])), Color).serve_forever()
"#;

fn source(folder: &Path, color: &str) -> Result<String> {
    let files = [("Procfile", "web: python3 server.py\n"), ("server.py", SERVER), ("color", color)];
    let path = app::write(folder, "colors", &files)?;
    Ok(path.to_str().context("UTF-8")?.to_owned())
}

/// How many of `requests` each release answered, through both balancers.
fn tally(cluster: &Cluster, requests: usize) -> Result<BTreeMap<String, usize>> {
    let mut tally = BTreeMap::new();
    for n in 0..requests {
        let (status, body) = cluster.get(n % 2, HOST, "/")?;
        ensure!(status == 200, "{status} {body}");
        *tally.entry(body.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(tally)
}

#[test]
fn a_canary_gets_its_share_and_goes_live_and_a_preview_is_reached_by_its_own_name() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    let folder = tempfile::tempdir()?;
    let early = cluster.run(&["deploy", &source(folder.path(), "red")?, "--canary", "10%"])?.failed(1)?;
    ensure!(early.contains("no live release"), "{early}");
    cluster.run(&["deploy", &source(folder.path(), "red")?])?.ok()?;
    cluster.run(&["scale", "2", "--app", "colors"])?.ok()?;
    cluster.until_routed("colors", 2)?;
    cluster.until_serves(HOST, "v1 red")?;

    let load = Load::start(&cluster.listen, HOST, "/");
    let said = cluster.run(&["deploy", &source(folder.path(), "blue")?, "--canary", "40%"])?.ok()?;
    ensure!(said.contains("v2 gets 40 % of the requests") && said.contains("colors--v2.localhost"), "{said}");
    until("the canary's share", PATIENCE, || {
        let counts = tally(&cluster, 100)?;
        let canary = counts.get("v2").copied().unwrap_or_default();
        // 40, standard deviation 5.
        ensure!((10..80).contains(&canary), "{counts:?}");
        Ok(())
    })?;
    let (status, body) = cluster.get(0, "colors--v2.localhost", "/")?;
    ensure!((status, body.as_str()) == (200, "v2 blue"), "{status} {body}");
    let second = cluster.run(&["deploy", &source(folder.path(), "green")?, "--canary", "5%"])?.failed(1)?;
    ensure!(second.contains("v2 of colors has a share"), "{second}");
    cluster.run(&["canary", "set", "99%", "--app", "colors"])?.ok()?;
    until("the larger share", PATIENCE, || {
        let counts = tally(&cluster, 50)?;
        ensure!(counts.get("v2").is_some_and(|canary| *canary > 35), "{counts:?}");
        Ok(())
    })?;
    let promoted = cluster.run(&["canary", "promote", "--app", "colors"])?.ok()?;
    ensure!(promoted.contains("v2 is live"), "{promoted}");
    // `promote` has returned, so every balancer has the switch.
    let counts = tally(&cluster, 50)?;
    ensure!(counts.get("v2") == Some(&50), "{counts:?}");

    let preview = cluster.run(&["deploy", &source(folder.path(), "green")?, "--preview"])?.ok()?;
    ensure!(preview.contains("http://colors--v3.localhost:"), "{preview}");
    until("the preview at both balancers", PATIENCE, || {
        for balancer in 0..2 {
            let (status, body) = cluster.get(balancer, "colors--v3.localhost", "/")?;
            ensure!((status, body.as_str()) == (200, "v3 green"), "{status} {body}");
        }
        Ok(())
    })?;
    ensure!(tally(&cluster, 50)?.get("v2") == Some(&50), "nothing of the app's goes to a preview");
    let listed = cluster.run(&["preview", "list", "--app", "colors"])?.ok()?;
    ensure!(listed.contains("v3") && listed.contains("serving"), "{listed}");
    let taken = cluster.run(&["app", "create", "colors--v3"])?.failed(1)?;
    ensure!(taken.contains("where v3 of app colors is reached"), "{taken}");
    cluster.run(&["promote", "--app", "colors"])?.ok()?;
    cluster.until_serves(HOST, "v3 green")?;

    cluster.run(&["preview", "start", "v2", "--app", "colors"])?.ok()?;
    cluster.run(&["preview", "stop", "--app", "colors"])?.ok()?;
    until("the end of the preview", PATIENCE, || {
        let (status, body) = cluster.get(0, "colors--v2.localhost", "/")?;
        ensure!(status == 404, "{status} {body}");
        let servos = cluster.json(&["ps", "--app", "colors"])?;
        let old = servos.as_array().into_iter().flatten().filter(|servo| servo["release"] == 2).count();
        ensure!(old == 0, "{servos}");
        Ok(())
    })?;
    let tally = load.stop_without_failure()?;
    for release in ["v1", "v2", "v3"] {
        ensure!(tally.bodies.iter().any(|body| body.starts_with(release)), "the load never saw {release}");
    }
    Ok(())
}
