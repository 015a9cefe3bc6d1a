//! A role as a process of its own: what its configuration may be, and that signals end it well.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pontoon_cli::dev::provision::{BalancerLayout, ControllerLayout, Layout, provision};

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
        balancers: vec![BalancerLayout { name: "b1".parse().unwrap(), site: site(), listen, listen_tls: None }],
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
