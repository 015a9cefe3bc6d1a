//! What a person is told once the cluster is up.

use std::io;
use std::path::Path;

use pontoon_api::App;
use pontoon_model::ProcessName;

use super::answers;
use super::https::Https;
use super::provision::ClusterFiles;
use super::ready::Cluster;
use crate::output::{line, or_none};

/// Where things are besides what a cluster is made of.
pub(super) struct Places<'a> {
    pub(super) context: &'a Path,
    pub(super) data_dir: &'a Path,
    pub(super) https: Option<&'a Https>,
}

/// What runs and where.
pub(super) fn print_cluster(cluster: &Cluster, files: &ClusterFiles, places: &Places<'_>) -> io::Result<()> {
    line(&describe(cluster, files, places))
}

fn describe(cluster: &Cluster, files: &ClusterFiles, places: &Places<'_>) -> String {
    let status = &cluster.status;
    let mut runtimes: Vec<_> = cluster.hosts.iter().map(|host| host.runtime.as_str()).collect();
    runtimes.sort_unstable();
    runtimes.dedup();
    let runtime = runtimes.join(" and ");
    let listen: Vec<_> = files.listen.iter().map(|address| format!("port {}", address.port())).collect();
    let mut lines = vec![
        format!(
            "Pontoon {} is up: {} controllers ({} leads), {} hosts ({runtime}), {} balancers ({})",
            status.version,
            files.controllers.len(),
            or_none(status.leader.as_ref()),
            cluster.hosts.len(),
            files.balancers.len(),
            listen.join(", ")
        ),
        format!("  REST      {}", files.context.url.join(", ")),
        format!("  context   {}", places.context.display()),
        format!("  data      {}", places.data_dir.display()),
    ];
    if let Some(https) = places.https {
        let ports = https.addresses.map(|address| format!("port {}", address.port())).join(", ");
        lines.push(format!(
            "  HTTPS     {ports}: have your browser trust {} (good for names below localhost only), or\n            \
             curl --cacert {0} https://APP.localhost:{}",
            https.certificate.display(),
            https.addresses[0].port()
        ));
    }
    for app in cluster.apps.iter().filter(|app| app.live.is_some()) {
        let url = app.urls.first().map_or("", String::as_str);
        let how = match answers::takes_traffic(app) {
            false => ", without web servos".to_owned(),
            true if cluster.starting.contains(&app.name) => format!(", starting: {url}"),
            true => format!(": {url}"),
        };
        lines.push(format!("  app       {} {}{how}", app.name, or_none(app.live)));
    }
    if runtimes == ["process"] {
        lines.push("  servos run as processes: without isolation, for source that needs no build step".into());
    }
    lines.join("\n")
}

/// What to try next: with the app that was deployed, or deploying `source`.
pub(super) fn print_next(deployed: Option<&App>, source: Option<&Path>) -> io::Result<()> {
    let next: Vec<String> = match deployed {
        Some(app) => with(app),
        None => vec![
            format!("pontoon deploy {}", source.unwrap_or(Path::new("examples/guestbook")).display()),
            "pontoon status".into(),
            "pontoon hosts".into(),
        ],
    };
    line(&format!(
        "\nTry next, in another terminal:\n  {}\n\nCtrl-C stops everything; the next `pontoon dev` brings it back.",
        next.join("\n  ")
    ))
}

/// What can be done with an app; a URL only where it takes traffic.
fn with(app: &App) -> Vec<String> {
    let name = &app.name;
    let url = app.urls.first().filter(|_| answers::takes_traffic(app)).map(|url| format!("curl {url}"));
    let web = ProcessName::web();
    let counts = match app.scale.keys().next() {
        Some(process) if !app.scale.contains_key(&web) => format!("{process}=3"),
        _ => "3".to_owned(),
    };
    let verbs = [format!("ps --app {name}"), format!("scale {counts} --app {name}"), format!("logs -f --app {name}")];
    url.into_iter().chain(verbs.map(|verb| format!("pontoon {verb}"))).collect()
}
