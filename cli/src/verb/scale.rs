//! `pontoon scale`: how many servos, where, how large.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use pontoon_api::{AppScale, Changed, Servo, SetScale};
use pontoon_model::{AppName, CpuMillis, MemoryBytes, ProcessName, SiteName};

use super::wait;
use crate::Usage;
use crate::args::{AppArg, WaitArg, parse_cpu};
use crate::client::Client;
use crate::output::{self, table};
use crate::progress::Progress;
use crate::session::{Session, app_of};

/// A servo that is not ready by then is not only slow: its readiness deadline has passed.
const SCALED_WITHIN: Duration = Duration::from_secs(180);

/// Arguments of `scale`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pontoon scale 3\n  pontoon scale web=2 worker=1 --memory 256M\n  \
                        pontoon scale 0 --site home.attic=1 --site do.nyc3=2\n  pontoon scale        (shows it)")]
pub struct ScaleArgs {
    /// How many servos of `web`, or of each named process type, wherever they fit
    #[arg(value_name = "N | PROCESS=N")]
    pub counts: Vec<CountArg>,
    /// Memory of each servo, e.g. 256M or 1G
    #[arg(long)]
    pub memory: Option<MemoryBytes>,
    /// CPU of each servo in cores, e.g. 0.5
    #[arg(long, value_parser = parse_cpu)]
    pub cpu: Option<CpuMillis>,
    /// Besides, N servos in this site; may be given several times, and replaces what was set for sites before
    #[arg(long = "site", value_name = "SITE=N")]
    pub sites: Vec<SiteCount>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// `3` or `worker=3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountArg {
    process: ProcessName,
    count: u32,
}

impl FromStr for CountArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (process, count) = match text.split_once('=') {
            Some((process, count)) => (process.parse().map_err(|error| format!("{error}"))?, count),
            None => (ProcessName::web(), text),
        };
        let count = count.parse().map_err(|_| format!("{count:?} is not a number of servos"))?;
        Ok(Self { process, count })
    }
}

/// `home.attic=2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCount {
    site: SiteName,
    count: u32,
}

impl FromStr for SiteCount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (site, count) = text.split_once('=').ok_or("write SITE=N, as in home.attic=2")?;
        let site = site.parse().map_err(|error| format!("{error}"))?;
        let count = count.parse().map_err(|_| format!("{count:?} is not a number of servos"))?;
        Ok(Self { site, count })
    }
}

/// Changes the scale and waits until as many servos as wanted are ready; without any wish, shows it.
pub async fn run(session: &Session, args: ScaleArgs) -> anyhow::Result<()> {
    let changes = changes(&args)?;
    let app = app_of(&args.app)?;
    if changes.is_empty() {
        let scale = session.client.app(&app).await?.scale;
        return Ok(output::print(session.format, &scale, list)?);
    }
    let mut last = Changed::default();
    for change in &changes {
        last = session.client.set_scale(&app, change).await?;
    }
    let processes: Vec<ProcessName> =
        changes.into_iter().map(|change| change.process.unwrap_or_else(ProcessName::web)).collect();
    // A new size is a new deployment: that is what is waited for then.
    if args.wait.no_wait || last.deployment.is_some() {
        return wait::change(session, &app, last, &args.wait, "scale is set").await;
    }
    let goes_on = format!("scaling goes on; `pontoon ps --app {app}` shows how far it is");
    let said = wait::unless_interrupted(until_scaled(&session.client, &app, &processes), &goes_on).await?;
    Ok(output::print(session.format, &last, |_| said)?)
}

/// One change for each process type that is named.
fn changes(args: &ScaleArgs) -> Result<Vec<SetScale>, Usage> {
    Usage::unless_once(args.counts.iter().map(|one| &one.process))?;
    Usage::unless_once(args.sites.iter().map(|one| &one.site))?;
    let sites: BTreeMap<_, _> = args.sites.iter().map(|one| (one.site.clone(), one.count)).collect();
    let sites = (!sites.is_empty()).then_some(sites);
    let wish = SetScale { process: None, count: None, sites, memory: args.memory, cpu: args.cpu };
    if args.counts.len() > 1 && wish.sites.is_some() {
        return Err(Usage("--site is for one process type: scale them one after the other".into()));
    }
    if args.counts.is_empty() {
        return Ok(if wish == SetScale::default() { Vec::new() } else { vec![wish] });
    }
    let one =
        |count: &CountArg| SetScale { process: Some(count.process.clone()), count: Some(count.count), ..wish.clone() };
    Ok(args.counts.iter().map(one).collect())
}

async fn until_scaled(client: &Client, app: &AppName, processes: &[ProcessName]) -> anyhow::Result<String> {
    let progress = Progress::start();
    let started = Instant::now();
    loop {
        let now = client.app(app).await?;
        if now.live.is_none() {
            return Ok("scale is set; it takes effect with the first deployment".into());
        }
        let servos = client.servos(app).await?;
        let wanted = |process: &ProcessName| now.scale.get(process).map_or(0, total);
        let counted: Vec<_> =
            processes.iter().map(|process| (process, Counted::of(&servos, process), wanted(process))).collect();
        let text = counted.iter().map(|(process, have, wanted)| have.beside(process, *wanted));
        let mut text = text.collect::<Vec<_>>().join(", ");
        if counted.iter().all(|(_, have, wanted)| have.ready == *wanted && have.all == *wanted) {
            return Ok(text);
        }
        if !now.waiting.is_empty() {
            text = format!("{text}; waiting: {}", now.waiting.join("; "));
        }
        if started.elapsed() > SCALED_WITHIN {
            bail!("not as scaled after {} s, and it goes on trying: {text}", SCALED_WITHIN.as_secs());
        }
        progress.now(&text);
        tokio::time::sleep(wait::POLL).await;
    }
}

/// Servos of a process type that count for its scale.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    ready: u32,
    all: u32,
}

impl Counted {
    /// How far it is from `wanted`.
    fn beside(&self, process: &ProcessName, wanted: u32) -> String {
        match self.all.saturating_sub(wanted) {
            0 if wanted == 0 => format!("{process}: scaled to 0"),
            0 => format!("{process}: {} of {wanted} ready", self.ready),
            extra => format!("{process}: {wanted} wanted, {extra} more {} to end", wait::servos(extra)),
        }
    }

    fn of(servos: &[Servo], process: &ProcessName) -> Self {
        let mut counted = Self { ready: 0, all: 0 };
        let ours = |servo: &&Servo| servo.process == *process && servo.one_off.is_none();
        for servo in servos.iter().filter(ours) {
            if matches!(servo.state.as_str(), "draining" | "stopping" | "lost") {
                continue;
            }
            counted.all += 1;
            let serves = servo.routed || *process != ProcessName::web();
            counted.ready += u32::from(servo.state == "ready" && serves);
        }
        counted
    }
}

/// Servos wanted of a process type, anywhere and in its sites.
pub(crate) fn total(scale: &AppScale) -> u32 {
    scale.sites.values().fold(scale.count, |sum, n| sum.saturating_add(*n))
}

/// A line for each process type.
pub(super) fn list(scale: &BTreeMap<ProcessName, AppScale>) -> String {
    let row = |(process, scale): (&ProcessName, &AppScale)| {
        let sites: Vec<_> = scale.sites.iter().map(|(site, count)| format!("{site}={count}")).collect();
        [process.to_string(), scale.count.to_string(), sites.join(" "), scale.memory.to_string(), scale.cpu.to_string()]
    };
    table(["PROCESS", "ANYWHERE", "SITES", "MEMORY", "CPU"], scale.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(counts: &[&str], sites: &[&str], memory: Option<&str>) -> ScaleArgs {
        ScaleArgs {
            counts: counts.iter().map(|text| text.parse().unwrap()).collect(),
            memory: memory.map(|text| text.parse().unwrap()),
            cpu: None,
            sites: sites.iter().map(|text| text.parse().unwrap()).collect(),
            app: AppArg::default(),
            wait: WaitArg::default(),
        }
    }

    #[test]
    fn each_named_process_is_one_change_with_the_same_size() {
        let changes = changes(&args(&["web=2", "worker=1"], &[], Some("256M"))).unwrap();
        let seen: Vec<_> =
            changes.iter().map(|c| (c.process.clone().unwrap().to_string(), c.count, c.memory)).collect();
        let memory = Some(MemoryBytes::mib(256));
        assert_eq!(seen, [("web".into(), Some(2), memory), ("worker".into(), Some(1), memory)]);
    }

    #[test]
    fn a_bare_number_is_web_and_a_size_alone_changes_no_count() {
        let count = changes(&args(&["3"], &["home.attic=1"], None)).unwrap();
        assert_eq!((count[0].count, count[0].sites.as_ref().unwrap().len()), (Some(3), 1));
        let size = changes(&args(&[], &[], Some("1G"))).unwrap();
        assert_eq!((size[0].count, &size[0].sites), (None, &None));
        assert!(changes(&args(&[], &[], None)).unwrap().is_empty());
    }

    #[test]
    fn scaling_down_says_what_it_waits_for() {
        let said = |ready, all, wanted| Counted { ready, all }.beside(&ProcessName::web(), wanted);
        assert_eq!(said(1, 2, 2), "web: 1 of 2 ready");
        assert_eq!(said(3, 3, 2), "web: 2 wanted, 1 more servo to end");
        assert_eq!(said(1, 1, 0), "web: 0 wanted, 1 more servo to end");
        assert_eq!(said(0, 0, 0), "web: scaled to 0");
    }

    #[test]
    fn sites_of_several_processes_at_once_are_refused() {
        assert!(changes(&args(&["web=2", "worker=1"], &["home.attic=1"], None)).is_err());
    }
}
