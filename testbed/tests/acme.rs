//! Certificates from an ACME directory, with pebble as the authority: both proofs at both balancers, failures in words,
//! renewal, and a leader that dies in the middle of an order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use pontoon_testbed::cluster::PATIENCE;
use pontoon_testbed::http::{self, get_tls};
use pontoon_testbed::pebble::{Options, Pebble};
use pontoon_testbed::skip::acme_or_skip;
use pontoon_testbed::{Cluster, app, until};
use serde_json::Value;

const APP: &str = "procfile-hello";
const DOMAIN: &str = "hello.example.test";
/// Nobody listens there: the lowest port of all.
const CLOSED: u16 = 1;
const HOUR: Duration = Duration::from_secs(3600);
/// Two thirds of it pass within the test, and the rest is enough for an order.
const SHORT: Duration = Duration::from_secs(30);

fn until_shown_by_each(cluster: &Cluster, name: &str, pebble: &Pebble) -> Result<()> {
    let root = pebble.root()?;
    let shown = until(&format!("a certificate for {name} at each balancer"), PATIENCE, || {
        for address in &cluster.listen_tls {
            let (status, body) = get_tls(*address, name, &root)
                .with_context(|| format!("{address}; {}", cluster.json(&["acme", "show"]).unwrap_or_default()))?;
            ensure!(status == 200, "{address}: {status} {body:.300}");
        }
        Ok(())
    });
    shown.inspect_err(|_| eprintln!("--- pebble\n{}", pebble.log()))
}

/// What `acme show` says of a name.
fn shown(cluster: &Cluster, name: &str) -> Result<Value> {
    let acme = cluster.json(&["acme", "show"])?;
    let row = acme["names"].as_array().into_iter().flatten().find(|row| row["host"] == name);
    row.cloned().with_context(|| format!("{name} is not in {acme}"))
}

fn ordered(cluster: &Cluster) -> Result<Vec<Value>> {
    let all = cluster.json(&["cert", "list"])?;
    Ok(all.as_array().into_iter().flatten().filter(|row| row["origin"] == "ordered").cloned().collect())
}

fn set(cluster: &Cluster, pebble: &Pebble, more: &[&str]) -> Result<String> {
    let (directory, ca) = (pebble.directory(), pebble.ca_file.to_str().context("UTF-8")?);
    let args = ["acme", "set", "--email", "you@example.org", "--directory", &directory, "--ca-file", ca, "--agree-tos"];
    cluster.run(&[&args, more].concat())?.ok()
}

fn options(cluster: &Cluster) -> Options {
    // It looks at one balancer the one way, and at the other the other.
    let (http, tls) = (cluster.listen[0].port(), cluster.listen_tls[1].port());
    Options { http, tls, life: HOUR, external: false, slow: None }
}

fn serving() -> Result<Cluster> {
    let cluster = Cluster::start(pontoon_testbed::Options::process())?;
    cluster.run(&["deploy", app::example(APP).to_str().expect("UTF-8")])?.ok()?;
    cluster.until_serves(&format!("{APP}.localhost"), "")?;
    Ok(cluster)
}

fn millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[test]
fn a_domain_gets_a_certificate_by_either_proof_keeps_one_and_says_what_is_in_the_way() -> Result<()> {
    if !acme_or_skip("a_domain_gets_a_certificate_by_either_proof_keeps_one_and_says_what_is_in_the_way") {
        return Ok(());
    }
    let cluster = serving()?;
    let folders = [(); 3].map(|()| tempfile::tempdir());
    let [closed, external, short] = folders;
    let (closed, external, short) = (closed?, external?, short?);
    cluster.run(&["domain", "add", DOMAIN, "--app", APP])?.ok()?;
    cluster.run(&["domain", "add", "*.example.test", "--app", APP])?.ok()?;
    // What an authority asks for goes before all of that.
    cluster.run(&["http", "set", APP, "https_only=on"])?.ok()?;

    // Neither port can be reached.
    let nowhere = Options { http: CLOSED, tls: CLOSED, ..options(&cluster) };
    let pebble = Pebble::start(closed.path(), nowhere)?;
    let refused = cluster.run(&["acme", "set", "--email", "you@example.org", "--directory", &pebble.directory()])?;
    ensure!(refused.failed(2)?.contains("terms of service"), "terms are agreed to by a person");
    set(&cluster, &pebble, &[])?;
    until("the reason why there is no certificate", PATIENCE, || {
        let row = shown(&cluster, DOMAIN)?;
        let error = row["error"].as_str().unwrap_or_default();
        let parts = ["cannot reach", DOMAIN, "127.0.0.1", "on port 80: ", "on port 443: "];
        ensure!(row["certificate"] == "waits" && parts.iter().all(|part| error.contains(part)), "{row}");
        let wait = row["next"].as_u64().unwrap_or_default().saturating_sub(millis());
        ensure!((500_000..=600_000).contains(&wait), "tried again in {wait} ms");
        Ok(())
    })
    .inspect_err(|_| eprintln!("--- pebble\n{}", pebble.log()))?;
    let listed = cluster.run(&["domain", "list"])?.ok()?;
    ensure!(listed.contains("cannot reach") && listed.contains("none: upload one"), "{listed}");
    let certs = cluster.run(&["cert", "list"])?;
    ensure!(
        certs.stderr.contains(&format!("{DOMAIN}: none yet")) && certs.stderr.contains("*.example.test"),
        "{certs:?}"
    );
    drop(pebble);

    // The authority wants an account that was made elsewhere, and only the port of TLS can be reached.
    let pebble = Pebble::start(external.path(), Options { http: CLOSED, external: true, ..options(&cluster) })?;
    set(&cluster, &pebble, &[])?;
    until("the wish for an account", PATIENCE, || {
        let acme = cluster.json(&["acme", "show"])?;
        ensure!(acme["error"].as_str().is_some_and(|error| error.contains("--eab-kid")), "{acme}");
        Ok(())
    })?;
    set(&cluster, &pebble, &["--eab-kid", Pebble::KID, "--eab-hmac", Pebble::HMAC])?;
    until_shown_by_each(&cluster, DOMAIN, &pebble)?;
    let acme = cluster.json(&["acme", "show"])?;
    ensure!(
        acme["account"].as_str().is_some_and(|url| url.starts_with("https://")) && acme["error"].is_null(),
        "{acme}"
    );
    ensure!(!acme.to_string().contains(Pebble::HMAC), "{acme}");
    drop(pebble);

    // The plain way; what it gives ends soon. The one there is shows on until then.
    let pebble = Pebble::start(short.path(), Options { life: SHORT, ..options(&cluster) })?;
    set(&cluster, &pebble, &[])?;
    cluster.run(&["domain", "remove", DOMAIN, "--app", APP])?.ok()?;
    until("the end of what was ordered for the domain", PATIENCE, || {
        let left = ordered(&cluster)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    cluster.run(&["domain", "add", DOMAIN, "--app", APP])?.ok()?;
    until_shown_by_each(&cluster, DOMAIN, &pebble)?;
    let first = ordered(&cluster)?;
    let (fingerprint, ends) = (first[0]["fingerprint"].clone(), first[0]["ends"].as_u64().unwrap_or_default());
    ensure!(first.len() == 1 && ends <= millis() + SHORT.as_millis() as u64, "{first:?}");
    until("another in its place, and the first to have ended", PATIENCE, || {
        let now = ordered(&cluster)?;
        ensure!(now.len() == 1 && now[0]["fingerprint"] != fingerprint, "{now:?}");
        ensure!(millis() > ends, "the first is still good");
        Ok(())
    })
    .inspect_err(|_| eprintln!("--- pebble\n{}", pebble.log()))?;
    until_shown_by_each(&cluster, DOMAIN, &pebble)?;
    ensure!(shown(&cluster, DOMAIN)?["certificate"] == "ordered", "it goes on");

    cluster.run(&["acme", "off"])?.ok()?;
    ensure!(cluster.json(&["acme", "show"])?["on"] == false, "none any more");
    ensure!(ordered(&cluster)?.len() == 1, "what there is goes on until its end");
    Ok(())
}

#[test]
fn the_next_leader_orders_what_the_one_before_it_had_begun() -> Result<()> {
    if !acme_or_skip("the_next_leader_orders_what_the_one_before_it_had_begun") {
        return Ok(());
    }
    let mut cluster = serving()?;
    let folder = tempfile::tempdir()?;
    let pebble = Pebble::start(folder.path(), Options { slow: Some(5), ..options(&cluster) })?;
    set(&cluster, &pebble, &[])?;
    until("the cluster's account", PATIENCE, || {
        let acme = cluster.json(&["acme", "show"])?;
        ensure!(acme["account"].is_string(), "{acme}");
        Ok(())
    })?;
    cluster.run(&["domain", "add", DOMAIN, "--app", APP])?.ok()?;
    until("an order at the authority", PATIENCE, || {
        ensure!(pebble.orders() > 0, "{}", pebble.log());
        Ok(())
    })?;
    // Nothing it has begun comes to an end now.
    pebble.pause()?;
    let leader = cluster.leader()?;
    ensure!(ordered(&cluster)?.is_empty(), "the order was to be in its middle");
    cluster.controllers[leader].kill()?;
    pebble.resume()?;
    until_shown_by_each(&cluster, DOMAIN, &pebble)?;
    let next = cluster.leader()?;
    ensure!(next != leader, "another leads");
    ensure!(pebble.accounts() == 1, "the same account: {}", pebble.log());
    ensure!(pebble.orders() <= 3, "nothing is ordered without need: {}", pebble.log());
    let left = ordered(&cluster)?;
    ensure!(left.len() == 1, "one certificate: {left:?}");
    // The one that was killed has the same once it has caught up.
    cluster.controllers[leader].restart()?;
    until("the certificate at every controller", PATIENCE, || {
        for controller in 0..3 {
            let url = format!("{}/v1/certificates", cluster.rest(controller));
            let (status, body) = http::send(|client| client.get(url).bearer_auth(cluster.token()))?;
            let rows: Value = serde_json::from_str(&body)?;
            ensure!(status == 200 && rows == Value::Array(left.clone()), "{controller}: {status} {rows}");
        }
        Ok(())
    })
}
