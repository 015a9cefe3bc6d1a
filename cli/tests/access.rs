//! Tokens and contexts, as a user handles them: the binary against a controller that knows one token.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;

/// Knows the token `secret` and answers a few requests; says which tokens it was sent.
struct Controller {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<String>>>,
    _runtime: tokio::runtime::Runtime,
}

const TOKEN: &str = r#"{"id":7,"name":"mine","scopes":["admin"],"created_at":1,"expires_at":null,"last_used_at":null,
    "expired":false}"#;

fn answer(line: &str) -> (StatusCode, String) {
    let text = match line {
        "GET /v1/token" => TOKEN.to_owned(),
        "GET /v1/apps" => "[]".to_owned(),
        "POST /v1/tokens" => format!(r#"{{"index":9,"token":"pontoon_abc",{}"#, &TOKEN[1..]),
        "DELETE /v1/tokens/t7" | "DELETE /v1/tokens/t8" => {
            r#"{"index":10,"release":null,"deployment":null}"#.to_owned()
        }
        "GET /v1/audit" => {
            let record = r#"{"at":0,"controller":"a","token":7,"token_name":"mine","from":"10.0.0.7","action":"Restart",
                "method":"POST","path":"/v1/apps/shop/restart","app":"shop","status":200,"error":null,"index":3}"#;
            format!(r#"{{"records":[{record},{record}],"missing":["b (it does not answer)"]}}"#)
        }
        _ => return (StatusCode::NOT_FOUND, r#"{"error":{"code":"not_found","message":"not there"}}"#.to_owned()),
    };
    (StatusCode::OK, text)
}

impl Controller {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let log = sent.clone();
        let handler = move |request: Request| {
            let token = request.headers().get(AUTHORIZATION).map(|token| token.to_str().unwrap().to_owned());
            log.lock().unwrap().push(token.clone().unwrap_or_default());
            let line = format!("{} {}", request.method(), request.uri().path());
            async move {
                match token.as_deref() {
                    Some("Bearer secret") => answer(&line),
                    _ => {
                        let refusal = r#"{"error":{"code":"unauthorized","message":"the token is not valid"}}"#;
                        (StatusCode::UNAUTHORIZED, refusal.to_owned())
                    }
                }
            }
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, sent, _runtime: runtime }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().unwrap().clone()
    }
}

fn pontoon(home: &Path, args: &[&str], stdin: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args(args).current_dir(home).env("XDG_CONFIG_HOME", home);
    for name in ["PONTOON_URL", "PONTOON_TOKEN", "PONTOON_CA"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Most commands read nothing, and are gone before we have written.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn failed(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn a_token_is_kept_once_the_cluster_has_taken_it_and_never_sent_to_another() {
    let (home, one, two) = (tempfile::tempdir().unwrap(), Controller::start(), Controller::start());
    let run = |args: &[&str], stdin: &str| pontoon(home.path(), args, stdin, &[]);
    let said = failed(run(&["login", &one.url(), "--token-stdin", "--name", "one"], "wrong\n"), 1);
    assert!(said.contains("not valid"), "{said}");
    assert!(!home.path().join("pontoon/config.toml").exists(), "what was refused is not kept");

    let said = ok(run(&["login", &one.url(), "--token-stdin", "--name", "one"], "secret\n"));
    assert!(said.contains("context one with token t7 (mine), scope admin"), "{said}");
    let file = home.path().join("pontoon/config.toml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    ok(run(&["login", &two.url(), "--token-stdin", "--name", "two"], "secret"));
    let listed = ok(run(&["context", "list"], ""));
    assert!(listed.lines().any(|line| line.starts_with('*') && line.contains("two")), "{listed}");
    assert!(!listed.contains("secret") && !ok(run(&["context", "list", "-o", "json"], "")).contains("secret"));

    let before = (one.sent().len(), two.sent().len());
    ok(run(&["app", "list"], ""));
    ok(run(&["app", "list", "--context", "one"], ""));
    ok(run(&["context", "use", "one"], ""));
    ok(run(&["app", "list"], ""));
    assert_eq!((one.sent().len(), two.sent().len()), (before.0 + 2, before.1 + 1));

    // An address from elsewhere never gets a token of the file.
    let elsewhere = [("PONTOON_URL", two.url())];
    let elsewhere: Vec<(&str, &str)> = elsewhere.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let said = failed(pontoon(home.path(), &["app", "list"], "", &elsewhere), 1);
    assert!(said.contains("PONTOON_TOKEN"), "{said}");
    let said = failed(pontoon(home.path(), &["app", "list", "--context", "one"], "", &elsewhere), 2);
    assert!(said.contains("two clusters"), "{said}");
    assert_eq!(two.sent().len(), before.1 + 1);
    // A name that leads elsewhere is not led somewhere else.
    let said = failed(run(&["login", &two.url(), "--token-stdin", "--name", "one"], "secret"), 2);
    assert!(said.contains("--name"), "{said}");

    ok(run(&["logout"], ""));
    let said = failed(run(&["app", "list"], ""), 1);
    assert!(said.contains("pontoon context use"), "{said}");
    ok(run(&["context", "remove", "two"], ""));
    let said = failed(run(&["app", "list"], ""), 1);
    assert!(said.contains("pontoon login"), "{said}");
    assert!(!fs::read_to_string(&file).unwrap().contains("secret"));
}

#[test]
fn without_a_terminal_the_token_must_come_from_somewhere() {
    let home = tempfile::tempdir().unwrap();
    let said = failed(pontoon(home.path(), &["login", "http://127.0.0.1:1"], "", &[]), 2);
    assert!(said.contains("--token-stdin"), "{said}");
    let said = failed(pontoon(home.path(), &["login", "http://127.0.0.1:1", "--token-stdin"], "\n", &[]), 2);
    assert!(said.contains("empty"), "{said}");
    let said = failed(pontoon(home.path(), &["login", "https://127.0.0.1:1", "--token-stdin"], "x", &[]), 1);
    assert!(said.contains("--ca"), "{said}");
}

#[test]
fn a_token_is_the_only_line_on_stdout_and_the_audit_names_who_is_missing() {
    let (home, controller) = (tempfile::tempdir().unwrap(), Controller::start());
    let url = controller.url();
    let run = |args: &[&str]| pontoon(home.path(), args, "", &[("PONTOON_URL", &url), ("PONTOON_TOKEN", "secret")]);
    let made = run(&["token", "create", "--scope", "admin", "--ttl", "30d"]);
    assert_eq!(text(&made.stdout), "pontoon_abc\n");
    assert!(text(&made.stderr).contains("t7 (mine): admin"), "{}", text(&made.stderr));
    let json: serde_json::Value =
        serde_json::from_str(&ok(run(&["token", "create", "--scope", "read", "-o", "json"]))).unwrap();
    assert_eq!((&json["token"], &json["id"]), (&"pontoon_abc".into(), &7.into()));
    assert_eq!(
        ok(run(&["token", "revoke", "t7"])),
        "token t7 is revoked; it was the one in use here: `pontoon login URL` takes another\n"
    );

    let audit = run(&["audit", "--since", "1h", "-n", "5"]);
    assert!(text(&audit.stderr).contains("without the records of b"), "{}", text(&audit.stderr));
    let lines = ok(audit);
    assert!(
        lines.contains("1970-01-01T00:00:00Z   t7 mine   10.0.0.7   Restart   shop   200      3       a"),
        "{lines}"
    );
    let lines = ok(run(&["audit", "-o", "json"]));
    assert!(lines.lines().count() == 2 && lines.lines().all(|line| line.starts_with('{')), "{lines}");
}

/// The terminal is the test's own; the signal is what Ctrl-C sends.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_at_the_question_for_the_token_leaves_a_terminal_that_shows_what_is_typed() {
    use nix::pty::openpty;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::termios::{LocalFlags, tcgetattr};
    use nix::unistd::Pid;
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};
    let home = tempfile::tempdir().unwrap();
    let terminal = openpty(None, None).unwrap();
    let shows = || tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ECHO);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        assert!(shows());
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command.args(["login", "http://127.0.0.1:1"]).env("XDG_CONFIG_HOME", home.path()).stderr(Stdio::null());
        let mut child = command.stdin(terminal.slave.try_clone().unwrap()).spawn().unwrap();
        let begun = Instant::now();
        while shows() {
            assert!(begun.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none(), "it asks");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(signal as i32), "{ended}");
        assert!(shows(), "after {signal}");
    }
}

#[test]
fn what_a_command_line_or_the_environment_says_twice_or_in_vain_is_told() {
    let (home, controller) = (tempfile::tempdir().unwrap(), Controller::start());
    let url = controller.url();
    let run = |args: &[&str], variables: &[(&str, &str)]| pontoon(home.path(), args, "secret", variables);
    let said = failed(run(&["app", "list"], &[("PONTOON_TOKEN", "secret")]), 1);
    assert!(said.contains("PONTOON_TOKEN is set") && said.contains("PONTOON_URL"), "{said}");
    let login = ["login", &url, "--token-stdin", "--context", "home"];
    let said = failed(run(&[&login[..], &["--name", "work"]].concat(), &[]), 2);
    assert!(said.contains("--name work and --context home"), "{said}");
    let made = run(&login, &[("PONTOON_TOKEN", "other")]);
    assert!(text(&made.stderr).contains("PONTOON_TOKEN, set in this environment"), "{}", text(&made.stderr));
    assert!(ok(made).contains("context home"));
    for line in [
        &["token", "create", "--role", "agent", "--uses", "0"][..],
        &["token", "create", "--role", "agent", "--ttl", "0s"],
        &["token", "create", "--role", "agent", "--ttl", "366d"],
        &["token", "create", "--scope", "read", "--ttl", "3651d"],
        &["login", "https://127.0.0.1:1", "--fingerprint", "zz"],
    ] {
        let said = failed(run(line, &[]), 2);
        assert!(said.contains(line[line.len() - 2]), "{line:?}: {said}");
    }
    assert_eq!(controller.sent(), ["Bearer secret"], "nothing else was asked");
}

#[test]
fn who_revokes_the_token_in_use_is_told_so() {
    let (home, one) = (tempfile::tempdir().unwrap(), Controller::start());
    let variables = [("PONTOON_URL", one.url()), ("PONTOON_TOKEN", "secret".to_owned())];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let revoke = |id: &str| ok(pontoon(home.path(), &["token", "revoke", id], "", &variables));
    assert_eq!(
        revoke("t7").trim(),
        "token t7 is revoked; it was the one in use here: `pontoon login URL` takes another"
    );
    assert_eq!(revoke("t8").trim(), "token t8 is revoked");
}

#[test]
fn what_is_wrong_with_a_file_is_said_before_a_passphrase_is_asked_for() {
    let (home, one) = (tempfile::tempdir().unwrap(), Controller::start());
    let variables = [("PONTOON_URL", one.url()), ("PONTOON_TOKEN", "secret".to_owned())];
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fs::write(home.path().join("file"), "").unwrap();
    for (line, sentence) in [
        (["backup", "none/today.age"], "error: cannot write none/today.age: none is not there: make it first\n"),
        (["backup", "file/today.age"], "error: cannot write file/today.age: file is no folder\n"),
        (["restore", "none.age"], "error: cannot read none.age\n  because: No such file or directory (os error 2)\n"),
    ] {
        assert_eq!(failed(pontoon(home.path(), &line, "", &variables), 1), sentence);
    }
    let said = failed(pontoon(home.path(), &["backup", "-", "-o", "json"], "", &variables), 2);
    assert!(said.contains("leave out -o json") && !home.path().join("-").exists(), "{said}");
    let said = failed(pontoon(home.path(), &["restore", "-"], "no backup", &variables), 2);
    assert!(said.contains("--passphrase-file"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_backup_is_neither_shown_at_a_terminal_nor_typed_there() {
    let home = tempfile::tempdir().unwrap();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command
            .args(args)
            .current_dir(home.path())
            .env("PONTOON_URL", "http://127.0.0.1:1")
            .env("PONTOON_TOKEN", "secret");
        let (input, output) = (terminal.slave.try_clone().unwrap(), terminal.slave.try_clone().unwrap());
        command.stdin(input).stdout(output).stderr(Stdio::piped());
        failed(command.spawn().unwrap().wait_with_output().unwrap(), 2)
    };
    assert!(run(&["backup", "-"]).contains("no text for a terminal"));
    assert!(run(&["restore", "-", "--data-dir", "new"]).contains("is not typed"));
}
