//! `pontoon http` and `pontoon maintenance`: how balancers treat an app's requests.

use std::fs::File;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use pontoon_api::edge::{ChangeTraffic, Traffic};
use pontoon_model::{AppName, MemoryBytes};
use serde_json::{Value, json};

use crate::Usage;
use crate::args::{AppArg, parse_duration};
use crate::output::{self, table};
use crate::session::{Session, app_of};
use crate::small_file;

/// The verbs of `http`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show how an app's requests are treated
    Show {
        /// The app
        app: AppName,
    },
    /// Change how an app's requests are treated
    #[command(after_help = "\
Settings: affinity, retry_unsafe, http2, https_only, maintenance (on or off); hold, slow_start, first_byte, idle, hsts
(times like 10s); body, head (sizes like 10MiB); rate, servo_requests (numbers); retry_statuses (like 502,503);
error_page, maintenance_page (HTML, or @FILE). NAME= sets the default again.")]
    Set(SetArgs),
}

/// Arguments of `http set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The app
    pub app: AppName,
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
}

/// Arguments of `maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// Whether every request is answered with the page of maintenance
    pub state: Switch,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
}

/// How a setting is written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Switch,
    Millis,
    Seconds,
    Bytes,
    Number,
    Statuses,
    Page,
}

/// As people call them, as the API does, and how they are written.
const SETTINGS: &[(&str, &str, Kind)] = &[
    ("affinity", "affinity", Kind::Switch),
    ("retry_unsafe", "retry_unsafe", Kind::Switch),
    ("retry_statuses", "retry_statuses", Kind::Statuses),
    ("hold", "hold_ms", Kind::Millis),
    ("servo_requests", "servo_requests", Kind::Number),
    ("slow_start", "slow_start_ms", Kind::Millis),
    ("body", "body_bytes", Kind::Bytes),
    ("head", "head_bytes", Kind::Bytes),
    ("first_byte", "first_byte_ms", Kind::Millis),
    ("idle", "idle_ms", Kind::Millis),
    ("http2", "http2", Kind::Switch),
    ("rate", "rate", Kind::Number),
    ("https_only", "https_only", Kind::Switch),
    ("hsts", "hsts_seconds", Kind::Seconds),
    ("maintenance", "maintenance", Kind::Switch),
    ("maintenance_page", "maintenance_page", Kind::Page),
    ("error_page", "error_page", Kind::Page),
];

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Show { app } => {
            let traffic = session.client.traffic(&app).await?;
            Ok(output::print(session.format, &traffic, show)?)
        }
        Verb::Set(SetArgs { app, settings }) => {
            Usage::unless_once(settings.iter().map(|text| text.split('=').next().unwrap_or_default()))?;
            let change = settings.iter().map(|text| parse(text)).collect::<anyhow::Result<ChangeTraffic>>()?;
            let changed = session.client.change_traffic(&app, &change).await?;
            Ok(output::print(session.format, &changed, |_| format!("requests of {app} are treated so from now on"))?)
        }
    }
}

/// Begins or ends the maintenance of an app.
pub async fn maintenance(session: &Session, args: MaintenanceArgs) -> anyhow::Result<()> {
    let (app, on) = (app_of(&args.app)?, args.state == Switch::On);
    let change = ChangeTraffic::from([("maintenance".to_owned(), json!(on))]);
    let changed = session.client.change_traffic(&app, &change).await?;
    let said = match on {
        true => format!("{app} is in maintenance; `pontoon maintenance off --app {app}` ends it"),
        false => format!("{app} is not in maintenance"),
    };
    Ok(output::print(session.format, &changed, |_| said)?)
}

fn parse(text: &str) -> anyhow::Result<(String, Value)> {
    let usage = |why: String| anyhow::Error::from(Usage(why));
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| usage(format!("{text:?} is no setting; write NAME=VALUE, for example affinity=on")))?;
    let Some((_, field, kind)) = SETTINGS.iter().find(|setting| setting.0 == name) else {
        let known: Vec<_> = SETTINGS.iter().map(|setting| setting.0).collect();
        return Err(usage(format!("{name:?} is no setting; there are: {}", known.join(", "))));
    };
    if value.is_empty() {
        return Ok(((*field).to_owned(), Value::Null));
    }
    if let (Kind::Page, Some(path)) = (kind, value.strip_prefix('@')) {
        return Ok(((*field).to_owned(), json!(page(name, path)?)));
    }
    let read = kind.read(value).map_err(|why| usage(format!("{name}: {why}")))?;
    in_range(name, field, *kind, &read).map_err(|why| usage(format!("{text}: {why}")))?;
    Ok(((*field).to_owned(), read))
}

/// The text of the file that holds the page `name`.
fn page(name: &str, path: &str) -> anyhow::Result<String> {
    let cannot_read = || format!("cannot read {path} for {name}");
    let most = pontoon_model::Traffic::MOST_PAGE_BYTES as u64;
    // As the API says it, which would have to be sent the whole of it.
    let long = |has: String| Usage(format!("{name} has {has} bytes; the most is {most}"));
    let file = File::open(path).with_context(cannot_read)?;
    let metadata = file.metadata().with_context(cannot_read)?;
    if metadata.is_file() && metadata.len() > most {
        return Err(long(metadata.len().to_string()).into());
    }
    let text = small_file::read_from(file, most).with_context(cannot_read)?;
    Ok(text.ok_or_else(|| long(format!("more than {most}")))?)
}

/// What the API would refuse is said in the words of who typed it.
fn in_range(name: &str, field: &str, kind: Kind, value: &Value) -> Result<(), String> {
    let mut settings = serde_json::to_value(pontoon_model::Traffic::default()).map_err(|error| error.to_string())?;
    settings[field] = value.clone();
    let settings: pontoon_model::Traffic =
        serde_json::from_value(settings).map_err(|_| format!("{name} is out of range"))?;
    let unit = match kind {
        Kind::Millis => " milliseconds",
        Kind::Seconds => " seconds",
        Kind::Bytes => " bytes",
        Kind::Switch | Kind::Number | Kind::Statuses | Kind::Page => "",
    };
    settings.check().map_err(|why| why.replacen(field, name, 1) + unit)
}

impl Kind {
    fn read(self, text: &str) -> Result<Value, String> {
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is not a number"));
        Ok(match self {
            Self::Switch => match text {
                "on" | "true" | "yes" => json!(true),
                "off" | "false" | "no" => json!(false),
                _ => return Err(format!("{text:?} is neither on nor off")),
            },
            Self::Millis => json!(millis(text)?),
            Self::Seconds => json!(millis(text)? / 1000),
            Self::Bytes => {
                let size = text.parse::<MemoryBytes>();
                json!(size.map_err(|_| format!("{text:?} is not a size; write for example 64K or 10MiB"))?.0)
            }
            Self::Number => json!(number(text)?),
            Self::Statuses => json!(text.split(',').map(|one| number(one.trim())).collect::<Result<Vec<_>, _>>()?),
            Self::Page => json!(text),
        })
    }

    /// As [`Kind::read`] takes it.
    fn write(self, value: &Value) -> String {
        let number = value.as_u64().unwrap_or_default();
        match (self, value) {
            (Self::Switch, _) => if value.as_bool() == Some(true) { "on" } else { "off" }.to_owned(),
            (Self::Millis, _) if number.is_multiple_of(1000) => format!("{}s", number / 1000),
            (Self::Millis, _) => format!("{number}ms"),
            (Self::Seconds, _) => format!("{number}s"),
            (Self::Bytes, _) => match number {
                n if n > 0 && n.is_multiple_of(1024 * 1024) => format!("{}MiB", n / 1024 / 1024),
                n if n > 0 && n.is_multiple_of(1024) => format!("{}KiB", n / 1024),
                n => n.to_string(),
            },
            (Self::Statuses, Value::Array(all)) => all.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            (Self::Page, Value::String(page)) if page.is_empty() => "ours".to_owned(),
            (Self::Page, Value::String(page)) => format!("{} bytes", page.len()),
            (_, value) => value.to_string(),
        }
    }
}

fn millis(text: &str) -> Result<u64, String> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if text == "0" {
        return Ok(0);
    }
    match text.strip_suffix("ms").filter(|number| digits(number)) {
        Some(number) => number.parse().map_err(|_| format!("{text:?} is too long a time")),
        None => {
            let time =
                parse_duration(text).map_err(|_| format!("{text:?} is not a time; write for example 500ms or 10s"))?;
            u64::try_from(time.as_millis()).map_err(|_| format!("{text:?} is too long a time"))
        }
    }
}

fn show(traffic: &Traffic) -> String {
    let fields = |settings: &pontoon_model::Traffic| serde_json::to_value(settings).unwrap_or_default();
    let (now, defaults) = (fields(&traffic.settings), fields(&pontoon_model::Traffic::default()));
    let rows = SETTINGS
        .iter()
        .map(|(name, field, kind)| [(*name).to_owned(), kind.write(&now[*field]), kind.write(&defaults[*field])]);
    table(["SETTING", "VALUE", "DEFAULT"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_said_in_the_words_of_who_typed_it() {
        for (typed, says) in [
            ("hold=61s", "hold=61s: hold is 61000; it may be from 0 to 60000 milliseconds"),
            ("head=10", "head=10: head is 10; it may be from 1024 to 32768 bytes"),
            ("retry_statuses=404", "retry_statuses is 404; it may be from 500 to 599"),
            ("rate=5000000000", "rate is out of range"),
        ] {
            let error = parse(typed).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        parse("hold=60s").unwrap();
    }

    #[test]
    fn a_page_that_is_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        let typed = |name: &str| parse(&format!("{name}=@{}", path.display()));
        for (name, bytes) in [("maintenance_page", 70_000_u64), ("error_page", 1 << 40)] {
            File::create(&path).unwrap().set_len(bytes).unwrap();
            let error = typed(name).unwrap_err();
            assert_eq!(error.to_string(), format!("{name} has {bytes} bytes; the most is 65536"));
            assert!(error.is::<Usage>());
        }
        File::create(&path).unwrap().set_len(65_536).unwrap();
        assert_eq!(typed("error_page").unwrap().1, json!("\0".repeat(65_536)));
        let error = parse("error_page=@/dev/zero").unwrap_err().to_string();
        assert_eq!(error, "error_page has more than 65536 bytes; the most is 65536");
    }

    #[test]
    fn every_setting_is_here_and_is_read_as_it_is_shown() {
        let defaults = serde_json::to_value(pontoon_model::Traffic::default()).unwrap();
        let mut fields: Vec<_> = SETTINGS.iter().map(|setting| setting.1).collect();
        fields.sort_unstable();
        let mut known: Vec<_> = defaults.as_object().unwrap().keys().collect();
        known.sort_unstable();
        assert_eq!(fields, known);
        for (name, field, kind) in SETTINGS.iter().filter(|setting| !matches!(setting.2, Kind::Page | Kind::Statuses)) {
            let shown = kind.write(&defaults[*field]);
            assert_eq!(parse(&format!("{name}={shown}")).unwrap(), ((*field).to_owned(), defaults[*field].clone()));
        }
    }

    #[test]
    fn settings_are_read_as_people_write_them() {
        for (text, field, value) in [
            ("affinity=on", "affinity", json!(true)),
            ("hold=10s", "hold_ms", json!(10_000)),
            ("hold=250ms", "hold_ms", json!(250)),
            ("body=10MiB", "body_bytes", json!(10 * 1024 * 1024)),
            ("hsts=365d", "hsts_seconds", json!(31_536_000)),
            ("rate=20", "rate", json!(20)),
            ("retry_statuses=502,503", "retry_statuses", json!([502, 503])),
            ("error_page=<h1>no</h1>", "error_page", json!("<h1>no</h1>")),
            ("rate=", "rate", Value::Null),
        ] {
            assert_eq!(parse(text).unwrap(), (field.to_owned(), value), "{text}");
        }
        for (bad, part) in [
            ("affinity", "write NAME=VALUE"),
            ("colour=red", "there are: affinity"),
            ("affinity=maybe", "neither on nor off"),
            ("hold=long", "not a time"),
            ("body=big", "not a size"),
            ("rate=-1", "not a number"),
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(part), "{bad}: {error}");
        }
    }
}
