//! What balancers do besides routing, as users ask for it: a domain, maintenance, settings, a certificate.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use pontoon_testbed::{Cluster, Options, app, cluster::PATIENCE, http::TIMEOUT, http::get_tls, until};

const APP: &str = "procfile-hello";
const DOMAIN: &str = "hello.example.test";

/// Where a plain request is sent to.
fn redirect(address: SocketAddr) -> Result<(u16, String)> {
    let none = reqwest::redirect::Policy::none();
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().redirect(none).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let answer = client.get(format!("http://{address}/")).header("Host", DOMAIN).send().await?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok((answer.status().as_u16(), location.to_owned()))
    })
}

#[test]
fn an_app_has_a_domain_a_maintenance_and_a_certificate_at_every_balancer() -> Result<()> {
    let cluster = Cluster::start(Options::process())?;
    let source = app::example(APP);
    cluster.run(&["deploy", source.to_str().expect("UTF-8")])?.ok()?;
    cluster.until_serves(&format!("{APP}.localhost"), "")?;

    let added = cluster.run(&["domain", "add", DOMAIN, "--app", APP])?;
    ensure!(added.stderr.contains(&format!("{DOMAIN}. A 127.0.0.1")), "{added:?}");
    added.ok()?;
    let until_at_each = |what: &str, status: u16, part: &str| {
        until(what, PATIENCE, || {
            for balancer in 0..2 {
                let (found, body) = cluster.get(balancer, DOMAIN, "/")?;
                ensure!(found == status && body.contains(part), "balancer {balancer}: {found} {body:.300}");
            }
            Ok(())
        })
    };
    until_at_each("the app behind its domain", 200, "")?;
    let listed = cluster.run(&["domain", "list"])?.ok()?;
    ensure!(listed.contains(DOMAIN) && listed.contains(APP), "{listed}");
    let wrong = cluster.run(&["domain", "add", "https://a.b", "--app", APP])?.failed(2)?;
    ensure!(wrong.contains("without http://"), "{wrong}");

    cluster.run(&["http", "set", APP, "maintenance_page=<h1>back at noon</h1>"])?.ok()?;
    cluster.run(&["maintenance", "on", "--app", APP])?.ok()?;
    until_at_each("the page of maintenance", 503, "back at noon")?;
    cluster.run(&["maintenance", "off", "--app", APP])?.ok()?;
    until_at_each("the end of the maintenance", 200, "")?;
    let shown = cluster.json(&["http", "show", APP])?;
    ensure!(shown["maintenance"] == false && shown["maintenance_page"] == "<h1>back at noon</h1>", "{shown}");

    let made = rcgen::generate_simple_self_signed([DOMAIN.to_owned()])?;
    let (root, folder) = (made.cert.pem(), tempfile::tempdir()?);
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    std::fs::write(&chain, &root)?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    ensure!(get_tls(cluster.listen_tls[0], DOMAIN, &root).is_err(), "there is no certificate yet");
    let (chain, key) = (chain.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let swapped = cluster.run(&["cert", "add", key, chain])?.failed(1)?;
    ensure!(swapped.contains("no CERTIFICATE in it"), "{swapped}");
    let taken = cluster.run(&["cert", "add", chain, key])?.ok()?;
    ensure!(taken.contains(DOMAIN), "{taken}");
    until("the app over TLS at each balancer", PATIENCE, || {
        for address in &cluster.listen_tls {
            let (status, body) = get_tls(*address, DOMAIN, &root)?;
            ensure!(status == 200, "{address}: {status} {body:.300}");
        }
        Ok(())
    })?;
    cluster.run(&["http", "set", APP, "https_only=on"])?.ok()?;
    until("plain requests to be sent to HTTPS", PATIENCE, || {
        let (status, location) = redirect(cluster.listen[1])?;
        ensure!(
            (300..400).contains(&status) && location.starts_with(&format!("https://{DOMAIN}")),
            "{status} {location}"
        );
        Ok(())
    })?;
    cluster.run(&["http", "set", APP, "https_only="])?.ok()?;

    let fingerprint = cluster.json(&["cert", "list"])?[0]["fingerprint"].as_str().unwrap_or_default().to_owned();
    cluster.run(&["cert", "remove", &fingerprint[..12]])?.ok()?;
    cluster.run(&["domain", "remove", DOMAIN, "--app", APP])?.ok()?;
    until_at_each("nobody behind the domain", 404, "")
}
