//! The binary itself, as a user runs it, against a controller that answers from a script: what is printed where,
//! and the exit codes.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use tempfile::TempDir;

type Script = BTreeMap<&'static str, Vec<(u16, String)>>;

/// Method and path, and the body.
type Asked = Vec<(String, Vec<u8>)>;

/// A controller in a thread. The answers to a request (`GET /v1/apps`, without the query) are given one after the
/// other; the last one stays.
struct Controller {
    address: SocketAddr,
    asked: Arc<Mutex<Asked>>,
    _runtime: tokio::runtime::Runtime,
}

impl Controller {
    fn start(script: Script) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Arc::new(Mutex::new(script));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let handler = move |request: Request| {
            let (script, log) = (script.clone(), log.clone());
            async move {
                let line = format!("{} {}", request.method(), request.uri().path());
                let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap().to_vec();
                log.lock().unwrap().push((line.clone(), body));
                let mut script = script.lock().unwrap();
                let Some(answers) = script.get_mut(line.as_str()) else {
                    return (StatusCode::NOT_FOUND, error("not_found", &format!("{line} is not there")))
                        .into_response();
                };
                let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
                (StatusCode::from_u16(status).unwrap(), body).into_response()
            }
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, asked, _runtime: runtime }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    fn body_of(&self, line: &str) -> String {
        let asked = self.asked.lock().unwrap();
        let (_, body) = asked.iter().find(|(asked, _)| asked == line).unwrap_or_else(|| panic!("{line} was not asked"));
        String::from_utf8_lossy(body).into_owned()
    }

    /// Runs `pontoon ARGS` in `folder`.
    fn pontoon(&self, folder: &Path, args: &[&str]) -> Output {
        pontoon(folder, args, Some(&format!("http://{}", self.address)))
    }
}

fn pontoon(folder: &Path, args: &[&str], url: Option<&str>) -> Output {
    command(folder, args, url).output().unwrap()
}

fn command(folder: &Path, args: &[&str], url: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.env("XDG_CONFIG_HOME", folder).env_remove("PONTOON_URL").env_remove("PONTOON_TOKEN");
    if let Some(url) = url {
        command.env("PONTOON_URL", url).env("PONTOON_TOKEN", "secret");
    }
    command
}

fn error(code: &str, message: &str) -> String {
    serde_json::json!({ "error": { "code": code, "message": message } }).to_string()
}

fn app(live: Option<u32>) -> String {
    serde_json::json!({
        "name": "guestbook", "created_at": 0, "domains": ["guestbook.localhost"],
        "urls": ["http://guestbook.localhost:8000/"], "live": live, "deployment": null, "ready": 2,
        "labels": { "team": "blue" },
        "scale": {
            "web": { "count": 2, "sites": {}, "memory": 134_217_728, "cpu": 500 },
            "release": { "count": 0, "sites": {}, "memory": 134_217_728, "cpu": 500 },
            "worker": { "count": 0, "sites": {}, "memory": 134_217_728, "cpu": 500 },
        },
        "waiting": [],
    })
    .to_string()
}

fn build(state: &str, reason: Option<&str>, deployment: Option<u32>) -> String {
    serde_json::json!({
        "id": 4, "app": "guestbook", "state": state, "host": "host-east", "language": "python", "reason": reason,
        "last_lines": ["the end"], "release": null, "deployment": deployment,
    })
    .to_string()
}

fn deployment(state: &str, ready: u32, reason: Option<&str>) -> String {
    serde_json::json!({
        "id": 7, "app": "guestbook", "release": 3, "state": state, "ready": ready, "wanted": 2, "reason": reason,
        "last_lines": ["Traceback", "no such table"],
    })
    .to_string()
}

fn servo(state: &str, code: Option<i32>) -> String {
    let exit = code.map(|code| serde_json::json!({ "code": code, "reason": "it exited", "last_lines": [] }));
    serde_json::json!({
        "id": 9, "app": "guestbook", "process": "run", "release": 3, "host": "host-east", "site": "dev.east",
        "state": state, "routed": false, "address": null, "memory": 268_435_456, "limits_enforced": true,
        "restarts": 0, "created_at": 0, "exit": exit, "one_off": "false",
    })
    .to_string()
}

fn log(source: &str, lines: &[(&str, bool)]) -> String {
    let line = |(text, stderr): &(&str, bool)| {
        serde_json::json!({ "at": 1, "source": source, "stderr": stderr, "text": text }).to_string() + "\n"
    };
    lines.iter().map(line).collect()
}

/// A directory with an app in it.
fn source(manifest: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pontoon.toml"), manifest).unwrap();
    fs::write(folder.path().join("app.py"), "print()").unwrap();
    folder
}

const UPLOADED: &str = r#"{"digest":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":9,"files":2,
    "language":"python","processes":{"release":"./migrate","web":"gunicorn app:app","worker":"./worker"},"because":"requirements.txt"}"#;
const CHANGED: &str = r#"{"index":5,"release":null,"deployment":null}"#;

/// A deployment of an app that does not exist yet, up to the build.
fn until_the_build() -> Script {
    BTreeMap::from([
        ("GET /v1/apps/guestbook", vec![(404, error("not_found", "no such app")), (200, app(Some(3)))]),
        ("POST /v1/apps", vec![(200, app(None))]),
        ("PUT /v1/apps/guestbook/scale", vec![(200, CHANGED.into())]),
        ("POST /v1/apps/guestbook/source", vec![(200, UPLOADED.into())]),
        ("POST /v1/apps/guestbook/builds", vec![(200, build("queued", None, None))]),
        ("GET /v1/apps/guestbook/builds/b4/log", vec![(200, log("build.b4", &[("-----> installing", false)]))]),
    ])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_ended(output: &Output, code: i32) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
}

#[test]
fn a_deployment_is_followed_until_it_is_live() {
    let mut script = until_the_build();
    let builds = [build("running", None, None), build("succeeded", None, Some(7))];
    script.insert("GET /v1/apps/guestbook/builds/b4", builds.map(|body| (200, body)).into());
    let steps = [deployment("starting", 0, None), deployment("starting", 1, None)];
    let ended = [deployment("starting", 2, None), deployment("done", 2, None)];
    script.insert(
        "GET /v1/apps/guestbook/deployments/d7",
        steps.into_iter().chain(ended).map(|body| (200, body)).collect(),
    );
    let controller = Controller::start(script);
    let folder = source("name = \"guestbook\"\n[scale]\nweb = 2\nmemory = \"128M\"\n");

    let output = controller.pontoon(folder.path(), &["deploy"]);
    assert_ended(&output, 0);
    assert_eq!(text(&output.stdout), "v3 is live: http://guestbook.localhost:8000/\n");
    let stderr = text(&output.stderr);
    for line in ["created the app guestbook", "-----> installing", "1 of 2 servos ready", "2 of 2 servos ready"] {
        assert!(stderr.contains(line), "{line}: {stderr}");
    }
    assert_eq!(stderr.matches("2 of 2 servos ready").count(), 1, "{stderr}");
    for line in
        ["warning: release is not run by a deploy", "\nworker: 0 servos; start one with: pontoon scale worker=1"]
    {
        assert_eq!(stderr.matches(line).count(), 1, "{line}: {stderr}");
    }
    let scale = controller.body_of("PUT /v1/apps/guestbook/scale");
    assert!(scale.contains(r#""count":2"#) && scale.contains("134217728"), "{scale}");
    let asked = controller.asked();
    let at = |line: &str| asked.iter().position(|asked| asked == line).unwrap();
    assert!(at("PUT /v1/apps/guestbook/scale") < at("POST /v1/apps/guestbook/builds"));
}

#[test]
fn a_failed_build_is_exit_code_1_with_its_reason_said_once() {
    let mut script = until_the_build();
    let failed = build("failed", Some("pip could not find flask-missing"), None);
    script.insert("GET /v1/apps/guestbook/builds/b4", vec![(200, build("running", None, None)), (200, failed)]);
    let output = Controller::start(script).pontoon(source("name = \"guestbook\"").path(), &["deploy"]);
    assert_ended(&output, 1);
    let stderr = text(&output.stderr);
    assert_eq!(stderr.matches("flask-missing").count(), 1, "{stderr}");
    assert!(stderr.contains("-----> installing") && !stderr.contains("the end"), "the log was shown: {stderr}");
}

#[test]
fn a_failed_deployment_is_exit_code_1_with_its_last_lines() {
    let mut script = until_the_build();
    script.insert("GET /v1/apps/guestbook/builds/b4", vec![(200, build("succeeded", None, Some(7)))]);
    let failed = deployment("failed", 0, Some("no servo became ready within 60 s"));
    script.insert("GET /v1/apps/guestbook/deployments/d7", vec![(200, failed)]);
    let output = Controller::start(script).pontoon(source("name = \"guestbook\"").path(), &["deploy"]);
    assert_ended(&output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("  no such table") && stderr.contains("within 60 s"), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_superseded_deployment_did_not_fail_but_is_exit_code_1() {
    let mut script = until_the_build();
    script.insert("GET /v1/apps/guestbook/builds/b4", vec![(200, build("succeeded", None, Some(7)))]);
    let superseded = deployment("failed", 0, Some("a newer deployment (d8) took its place"));
    script.insert("GET /v1/apps/guestbook/deployments/d7", vec![(200, superseded)]);
    let output = Controller::start(script).pontoon(source("name = \"guestbook\"").path(), &["deploy"]);
    assert_ended(&output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("v3 was superseded: a newer deployment (d8)") && !stderr.contains("failed"), "{stderr}");
}

#[test]
fn an_app_made_for_a_source_that_is_refused_goes_with_it() {
    let mut script = until_the_build();
    script.insert("POST /v1/apps/guestbook/source", vec![(422, error("bad_source", "a link leaves the tree: data"))]);
    script.insert("DELETE /v1/apps/guestbook", vec![(200, CHANGED.into())]);
    let controller = Controller::start(script);
    let output = controller.pontoon(source("name = \"guestbook\"").path(), &["deploy"]);
    assert_ended(&output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("removed the app guestbook again\nerror: a link leaves the tree: data\n"), "{stderr}");
    assert_eq!(controller.asked().last().unwrap(), "DELETE /v1/apps/guestbook");
}

#[test]
fn a_manifest_that_nobody_can_use_is_refused_before_anything_is_asked() {
    let controller = Controller::start(BTreeMap::new());
    for (manifest, said) in [
        (
            "name = \"guestbook\"\n[helth]\npath = \"/\"",
            "pontoon.toml, line 2: there is no key helth; did you mean health?",
        ),
        ("name = \"guestbook\"\n[health]\npath = \"healthz\"", "begins with /"),
    ] {
        let output = controller.pontoon(source(manifest).path(), &["deploy"]);
        assert_ended(&output, 1);
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
    assert!(controller.asked().is_empty());
}

#[test]
fn an_app_that_was_typed_is_never_made() {
    let controller = Controller::start(BTreeMap::new());
    let output = controller.pontoon(source("name = \"guestbook\"").path(), &["deploy", "--app", "gestbook"]);
    assert_ended(&output, 1);
    assert!(text(&output.stderr).contains("pontoon app create gestbook"));
    assert_eq!(controller.asked(), ["GET /v1/apps/gestbook"]);
}

#[test]
fn a_one_off_command_gives_its_output_and_its_exit_code() {
    let script = BTreeMap::from([
        ("POST /v1/apps/guestbook/run", vec![(200, servo("starting", None))]),
        ("GET /v1/apps/guestbook/servos/s9/log", vec![(200, log("run.s9", &[("out", false), ("err", true)]))]),
        ("GET /v1/apps/guestbook/servos/s9", vec![(200, servo("starting", None)), (200, servo("exited", Some(3)))]),
    ]);
    let controller = Controller::start(script);
    let folder = source("name = \"guestbook\"");
    let output = controller.pontoon(folder.path(), &["run", "--", "sh", "-c", "exit 3"]);
    assert_ended(&output, 3);
    assert_eq!(text(&output.stdout), "out\n");
    assert!(text(&output.stderr).contains("err\n"));
    assert_eq!(controller.body_of("POST /v1/apps/guestbook/run"), r#"{"command":"sh -c 'exit 3'"}"#);
}

#[test]
fn values_of_the_environment_are_hidden_unless_asked_for() {
    let env = r#"{"TOKEN":"hunter2"}"#.to_owned();
    let controller = Controller::start(BTreeMap::from([("GET /v1/apps/guestbook/env", vec![(200, env)])]));
    let folder = source("name = \"guestbook\"");
    for args in [&["env", "list"][..], &["env", "list", "-o", "json"]] {
        let output = controller.pontoon(folder.path(), args);
        assert_ended(&output, 0);
        let stdout = text(&output.stdout);
        assert!(stdout.contains("TOKEN") && !stdout.contains("hunter2"), "{stdout}");
    }
    let shown = controller.pontoon(folder.path(), &["env", "list", "--show"]);
    assert_eq!(text(&shown.stdout), "TOKEN=hunter2\n");
    assert_eq!(text(&controller.pontoon(folder.path(), &["env", "get", "TOKEN"]).stdout), "hunter2\n");
    assert_ended(&controller.pontoon(folder.path(), &["env", "get", "NOPE"]), 1);
}

#[test]
fn secrets_come_from_files_and_standard_input() {
    let script = BTreeMap::from([
        ("GET /v1/apps/guestbook/env", vec![(200, "{}".to_owned())]),
        ("PATCH /v1/apps/guestbook/env", vec![(200, CHANGED.to_owned())]),
    ]);
    let folder = source("name = \"guestbook\"");
    fs::write(folder.path().join(".env"), "# of the shop\nA=1\nKEY=\"a\nb\"\n").unwrap();
    fs::write(folder.path().join("bad"), "A=1\nhunter2\n").unwrap();
    for (args, set) in [
        (&["env", "import", ".env"][..], r#"{"A":"1","KEY":"a\nb"}"#),
        (&["env", "import", "-"], r#"{"A":"1","KEY":"a\nb"}"#),
        (&["env", "import", "--as", "FILE", ".env"], r##"{"FILE":"# of the shop\nA=1\nKEY=\"a\nb\""}"##),
    ] {
        let controller = Controller::start(script.clone());
        let stdin = fs::File::open(folder.path().join(".env")).unwrap();
        let url = format!("http://{}", controller.address);
        let output = command(folder.path(), args, Some(&url)).stdin(stdin).output().unwrap();
        assert_ended(&output, 0);
        let sent = controller.body_of("PATCH /v1/apps/guestbook/env");
        assert!(sent.contains(set), "{args:?}: {sent}");
    }
    let controller = Controller::start(script);
    for (args, code, said) in [
        (&["env", "import", "bad"][..], 1, "line 2: it is not of the form NAME=VALUE"),
        (&["env", "import", "none"], 1, "cannot read none"),
        (&["env", "import", "-"], 2, "standard input sets no variable"),
    ] {
        let output = controller.pontoon(folder.path(), args);
        assert_ended(&output, code);
        let stderr = text(&output.stderr);
        assert!(stderr.contains(said) && !stderr.contains("hunter2"), "{stderr}");
    }
    assert!(controller.asked().is_empty());
    let help = text(&controller.pontoon(folder.path(), &["env", "set", "--help"]).stdout);
    assert!(help.contains("list of processes") && help.contains("pontoon env import"), "{help}");
}

#[test]
fn an_environment_that_stays_as_it_is_is_not_said_to_change() {
    let script = BTreeMap::from([
        ("GET /v1/apps/guestbook/env", vec![(200, r#"{"A":"1"}"#.to_owned())]),
        ("PATCH /v1/apps/guestbook/env", vec![(200, CHANGED.to_owned())]),
    ]);
    let controller = Controller::start(script);
    for (args, said) in [
        (&["set", "A=1"][..], "nothing changed\n"),
        (&["unset", "B"], "nothing changed\n"),
        (&["set", "A=1", "B=2"], "changed; it takes effect with the next release\n"),
        (&["unset", "A", "B"], "changed; it takes effect with the next release\n"),
    ] {
        let args = [&["env"], args, &["--app", "guestbook"]].concat();
        let output = controller.pontoon(Path::new("/"), &args);
        assert_ended(&output, 0);
        assert_eq!(text(&output.stdout), said, "{args:?}");
    }
}

#[test]
fn labels_are_changed_as_in_kubectl_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(BTreeMap::from([
        ("PATCH /v1/apps/guestbook/labels", vec![(200, r#"{"index": 9, "release": null, "deployment": null}"#.into())]),
        ("GET /v1/apps/guestbook/labels", vec![(200, r#"{"note": "a=b", "team": "blue"}"#.into())]),
    ]));
    let changed = controller.pontoon(folder.path(), &["label", "guestbook", "team=blue", "note=a=b", "old-"]);
    assert_ended(&changed, 0);
    let sent: serde_json::Value = serde_json::from_str(&controller.body_of("PATCH /v1/apps/guestbook/labels")).unwrap();
    assert_eq!(sent, serde_json::json!({ "set": { "team": "blue", "note": "a=b" }, "unset": ["old"] }));
    let listed = controller.pontoon(folder.path(), &["label", "guestbook"]);
    assert_ended(&listed, 0);
    assert!(text(&listed.stdout).contains("team    blue"), "{}", text(&listed.stdout));
    let both = controller.pontoon(folder.path(), &["label", "guestbook", "team=blue", "team-"]);
    assert_ended(&both, 2);
    assert!(text(&both.stderr).contains("label team is both"), "{}", text(&both.stderr));
}

#[test]
fn events_are_followed_across_connections_until_they_are_no_longer_held() {
    let folder = tempfile::tempdir().unwrap();
    let event = r#"{"index":7,"time":1,"changes":[{"table":"apps","key":"guestbook","row":null}]}"#;
    let change = format!("id: 5\nevent: start\ndata: {{\"index\":5}}\n\n:\n\nid: 7\nevent: change\ndata: {event}\n\n");
    let compacted = "event: compacted\ndata: {\"oldest\":40}\n\n".to_owned();
    let script = || BTreeMap::from([("GET /v1/events", vec![(200, change.clone()), (200, compacted.clone())])]);
    let ended = Controller::start(script()).pontoon(folder.path(), &["events"]);
    assert_ended(&ended, 1);
    assert_eq!(text(&ended.stdout), "1970-01-01T00:00:00Z 7        apps         guestbook                gone\n");
    assert!(text(&ended.stderr).contains("no longer held"), "{}", text(&ended.stderr));
    let json = Controller::start(script()).pontoon(folder.path(), &["events", "--from", "5", "-o", "json"]);
    assert_eq!(text(&json.stdout), format!("{event}\n"));
}

#[test]
fn json_is_what_the_controller_answered() {
    let controller = Controller::start(BTreeMap::from([("GET /v1/apps", vec![(200, format!("[{}]", app(Some(3))))])]));
    let output = controller.pontoon(Path::new("/"), &["app", "list", "-o", "json"]);
    assert_ended(&output, 0);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let answered: serde_json::Value = serde_json::from_str(&app(Some(3))).unwrap();
    assert_eq!(printed, serde_json::json!([answered]));
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(BTreeMap::new());
    for (args, part) in [
        (&["ps"][..], "--app NAME"),
        (&["deploy"], "--app NAME"),
        (&["app", "destroy", "guestbook", "--app", "other"], "two apps"),
        (&["scale", "many", "--app", "guestbook"], "not a number"),
        (&["frobnicate"], "Usage"),
        (&["scale", "web=1", "worker=1", "web=2", "-a", "x"], "web is there twice"),
        (&["scale", "1", "web=2", "-a", "x"], "web is there twice"),
        (&["scale", "1", "--site", "a.b=1", "--site", "a.b=2", "-a", "x"], "a.b is there twice"),
        (&["env", "set", "A=1", "A=2", "-a", "x"], "A is there twice"),
        (&["label", "x", "a=1", "a=2"], "a is there twice"),
        (&["http", "set", "x", "hold=1s", "hold=2s"], "hold is there twice"),
        (&["run", "-a", "x", "--", ""], "no command"),
        (&["cert", "remove", ""], "FINGERPRINT"),
        (&["audit", "-n", "0"], "1..=1000"),
        (&["images", "build", "--runtime", "cobol"], "possible values"),
        (&["deploy", "--preview", "--servos", "0"], "1.."),
        (&["login", "http://"], "is no URL"),
        (&["login", "http://a b"], "is no URL"),
        (&["login", "ftp://x"], "write for example https://x"),
    ] {
        let output = controller.pontoon(folder.path(), args);
        assert_ended(&output, 2);
        assert!(text(&output.stderr).contains(part), "{args:?}: {}", text(&output.stderr));
    }
    assert!(controller.asked().is_empty());
}

#[test]
fn a_url_that_is_none_is_wrong_usage_and_what_a_controller_refuses_is_a_failure() {
    let answer = (400, error("invalid", "that is not possible"));
    let controller = Controller::start(BTreeMap::from([("PUT /v1/apps/x/scale", vec![answer])]));
    let output = controller.pontoon(Path::new("/"), &["scale", "99999", "-a", "x"]);
    assert_ended(&output, 1);
    assert_eq!(text(&output.stderr), "error: that is not possible\n");
    assert_ended(&pontoon(Path::new("/"), &["status"], Some("nonsense")), 2);
}

#[test]
fn an_app_is_not_destroyed_without_a_yes_or_a_person() {
    let script = BTreeMap::from([
        ("GET /v1/apps/guestbook", vec![(200, app(None))]),
        ("DELETE /v1/apps/guestbook", vec![(200, CHANGED.to_owned())]),
    ]);
    let controller = Controller::start(script);
    let refused = controller.pontoon(Path::new("/"), &["app", "destroy", "guestbook"]);
    assert_ended(&refused, 2);
    assert!(text(&refused.stderr).contains("--yes"));
    assert_eq!(controller.asked(), ["GET /v1/apps/guestbook"]);
    assert_ended(&controller.pontoon(Path::new("/"), &["app", "destroy", "guestbook", "--yes"]), 0);
}

#[test]
fn without_a_cluster_the_error_says_how_to_get_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = pontoon(folder.path(), &["status"], None);
    assert_ended(&output, 1);
    let stderr = text(&output.stderr);
    assert!(stderr.starts_with("error: ") && stderr.contains("pontoon dev"), "{stderr}");
}

#[test]
fn what_needs_no_cluster_works_without_one() {
    let folder = tempfile::tempdir().unwrap();
    for args in [&["version"][..], &["--version"], &["completions", "bash"], &["help"]] {
        let output = pontoon(folder.path(), args, None);
        assert_ended(&output, 0);
        assert!(text(&output.stdout).contains("pontoon"), "{args:?}");
    }
    let output = pontoon(folder.path(), &["version", "-o", "json"], None);
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn dev_refuses_what_it_cannot_deploy_before_it_starts_anything() {
    let folder = tempfile::tempdir().unwrap();
    for (path, part, code) in [("nothing", "not a directory", 1), (".", "no app is named", 2)] {
        let output = pontoon(folder.path(), &["dev", "--data-dir", "data", "--deploy", path], None);
        assert_ended(&output, code);
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert!(!folder.path().join("data").exists());
    }
}
