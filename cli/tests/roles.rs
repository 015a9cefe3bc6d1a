//! A role as a process of its own: what its configuration may be, and that signals end it well.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_cli::dev::provision::{AgentLayout, BalancerLayout, ControllerLayout, Layout, RoleFile, provision};

/// Debug builds on a machine that compiles meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A balancer and the controller it will not find.
fn layout(data_dir: &Path, listen: SocketAddr) -> Layout {
    let site = || "test.here".parse().unwrap();
    Layout {
        data_dir: data_dir.to_owned(),
        cluster_prefix: "test".into(),
        controllers: vec![ControllerLayout {
            name: "north".parse().unwrap(),
            site: site(),
            rest: free_address(),
            grpc: free_address(),
        }],
        agents: Vec::new(),
        balancers: vec![BalancerLayout {
            name: "b1".parse().unwrap(),
            site: site(),
            listen,
            listen_tls: None,
            peer_listen: None,
        }],
        runtime: "process".into(),
        base_domain: "localhost".into(),
        stop_servos_on_exit: true,
    }
}

fn start(role: &str, config: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
    command.args([role, "--config"]).arg(config).stdin(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Looks until `look` gives something; kills the process and fails when it takes too long.
fn until<T>(what: &str, child: &mut Child, mut look: impl FnMut(&mut Child) -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look(child) {
            return found;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("waited {PATIENCE:?} for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sigterm_ends_a_role_with_exit_code_0() {
    ends_well_by(&["-TERM"]);
}

#[test]
fn a_sigterm_that_comes_twice_at_once_is_one() {
    ends_well_by(&["-TERM", "-TERM", "-INT"]);
}

#[test]
fn a_terminal_that_is_closed_ends_a_role_as_sigterm_does() {
    ends_well_by(&["-HUP", "-HUP", "-TERM"]);
}

/// Nobody reads what it writes by then, as when its terminal is gone.
fn ends_well_by(signals: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let listen = free_address();
    let files = provision(&layout(folder.path(), listen)).unwrap();
    let mut child = start("balancer", &files.balancers[0].config);
    until("the balancer to listen", &mut child, |child| {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        TcpStream::connect(listen).ok()
    });
    drop(child.stderr.take());
    for signal in signals {
        // It is not waited for before the end: until then its id is its own.
        let sent = Command::new("kill").args([*signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
    let status = until("the balancer to end", &mut child, |child| child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_configuration_that_cannot_be_used_is_exit_code_1_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("role.toml");
    for role in ["controller", "agent", "balancer"] {
        fs::write(&config, "colour = \"red\"").unwrap();
        let output = start(role, &config).wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{role}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("role.toml"), "{role}: {stderr}");
    }
}

fn provisioned(folder: &Path) -> [(&'static str, std::path::PathBuf); 3] {
    let mut layout = layout(folder, free_address());
    layout.agents.push(AgentLayout {
        name: "h1".parse().unwrap(),
        site: "test.here".parse().unwrap(),
        ports: "24900-24909".into(),
        memory: None,
    });
    let files = provision(&layout).unwrap();
    let config = |files: &[RoleFile]| files[0].config.clone();
    [
        ("controller", config(&files.controllers)),
        ("agent", config(&files.agents)),
        ("balancer", config(&files.balancers)),
    ]
}

#[test]
fn a_configuration_can_be_checked_without_running_anything() {
    let folder = tempfile::tempdir().unwrap();
    for (role, config) in provisioned(folder.path()) {
        let check = || {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
            let output = command.args([role, "--check", "--config"]).arg(&config).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            (output.status.code(), String::from_utf8_lossy(&said).into_owned())
        };
        assert_eq!(check(), (Some(0), format!("{} can be used\n", config.display())), "{role}");
        let (tls, aside) = (config.with_file_name("tls"), config.with_file_name("aside"));
        fs::rename(&tls, &aside).unwrap();
        // What runs may log before it gives up.
        let same_words = || {
            let (code, said) = check();
            assert!(code == Some(1) && said.starts_with("error: "), "{role}: {code:?} {said}");
            assert!(refused(role, &config).ends_with(&said), "{role}: {said}");
        };
        same_words();
        fs::rename(&aside, &tls).unwrap();
        let key = fs::read(tls.join("key.pem")).unwrap();
        fs::write(tls.join("key.pem"), "no key").unwrap();
        same_words();
        fs::write(tls.join("key.pem"), key).unwrap();
        let good = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("colour = \"red\"\n{good}")).unwrap();
        let (code, said) = check();
        assert!(code == Some(1) && said.contains("colour"), "{role}: {code:?} {said}");
    }
}

/// Starts a role that cannot run; what it says.
fn refused(role: &str, config: &Path) -> String {
    let output = start(role, config).wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{role}: {stderr}");
    stderr
}

#[test]
fn a_key_that_others_can_read_is_used_by_no_role() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for (role, config) in provisioned(folder.path()) {
        let key = config.with_file_name("tls/key.pem");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let said = refused(role, &config);
        assert!(said.contains(&format!("`chmod 600 {}`", key.display())), "{role}: {said}");
    }
}

#[test]
fn a_role_without_its_certificate_says_which_file_is_lost_and_what_gets_it_back() {
    let folder = tempfile::tempdir().unwrap();
    for (role, config) in provisioned(folder.path()) {
        for file in ["cert.pem", "key.pem"] {
            let path = config.with_file_name("tls").join(file);
            let kept = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let said = refused(role, &config);
            assert!(said.contains(&format!("{} is not there", path.display())), "{role}: {said}");
            assert!(said.contains(&format!("`pontoon {role} join ADDR --token TOKEN`")), "{role}: {said}");
            fs::write(&path, kept).unwrap();
        }
    }
}

#[test]
fn the_first_controller_gets_its_certificate_back_from_the_authority_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command.args(["controller", "init", "--data-dir"]).arg(folder.path()).args(args).output().unwrap()
    };
    assert!(run(&["--name", "north", "--advertise", "127.0.0.1"]).status.success());
    let read = |file: &str| fs::read(folder.path().join(file)).unwrap();
    let (key, config, token) = (read("tls/key.pem"), read("config.toml"), read("token"));
    let again = run(&[]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.code() == Some(1) && said.contains("there already"), "{said}");
    fs::remove_file(folder.path().join("tls/cert.pem")).unwrap();
    let again = run(&[]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!((read("tls/key.pem"), read("config.toml"), read("token")), (key, config, token));
    let identity = pontoon_kit::Identity::load_usable(&folder.path().join("tls")).unwrap();
    assert_eq!(identity.peer().unwrap().to_string(), "controller north");
}

#[test]
fn programs_are_told_of_a_new_cluster_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pontoon"));
        command.args([
            "controller",
            "init",
            "-o",
            "json",
            "--name",
            "north",
            "--cluster",
            "home",
            "--advertise",
            "10.0.0.5",
        ]);
        let output = command.arg("--data-dir").arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let made = run();
    let authority = pontoon_kit::Authority::load(&folder.path().join("ca")).unwrap();
    assert_eq!(made["fingerprint"], authority.fingerprint().unwrap().to_string());
    assert!(made["token"].as_str().unwrap().starts_with("pontoon_"), "{made}");
    for (field, value) in [
        ("cluster", "home"),
        ("name", "north"),
        ("url", "https://10.0.0.5:7700"),
        ("grpc", "10.0.0.5:7710"),
        ("config", folder.path().join("config.toml").to_str().unwrap()),
        ("authority_key", folder.path().join("ca/ca-key.pem").to_str().unwrap()),
    ] {
        assert_eq!(made[field], value, "{field}");
    }
    fs::remove_file(folder.path().join("tls/cert.pem")).unwrap();
    assert_eq!(run()["name"], "north");
}

#[test]
fn a_role_that_is_told_nothing_says_what_there_is() {
    for (role, sentence) in [
        ("controller", "`pontoon controller init` begins a cluster, `pontoon controller join` makes this machine one"),
        ("agent", "error: `pontoon agent join` makes this machine one"),
        ("balancer", "error: `pontoon balancer join` makes this machine one"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_pontoon")).arg(role).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(sentence), "{role}: {said}");
    }
}
