//! How a servo's process is started.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::output;
use crate::archive::APP_FOLDER;
use crate::runtime::{Launch, shell};

/// What the run image of static sites has, and this machine has not.
const SERVE_STATIC: &str = "/pontoon/serve-static";
/// Where a static site's files are looked for, as the run image does.
const STATIC_ROOTS: [&str; 4] = [".", "public", "dist", "build"];
/// For programs when the agent itself has no PATH.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command of a servo, its output going to files: nothing breaks when the agent ends.
pub(super) fn of(launch: &Launch, folder: &Path, listen_ip: IpAddr) -> Result<Command, String> {
    let spec = &launch.spec;
    let app = folder.join(APP_FOLDER);
    let path = std::env::var("PATH").unwrap_or_else(|_| USUAL_PATH.into());
    let line = match spec.command.strip_prefix(SERVE_STATIC) {
        Some(root) => static_server(&app, root.trim(), listen_ip, &path)?,
        None => spec.command.clone(),
    };
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &shell::script(&line)])
        .current_dir(&app)
        .env_clear()
        .env("PATH", path)
        .env("HOME", &app)
        .env("LANG", "C.UTF-8")
        // Output would come late otherwise: it goes to a file.
        .env("PYTHONUNBUFFERED", "1")
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(open(&folder.join(output::OUT))?)
        .stderr(open(&folder.join(output::ERR))?)
        // Its own group: a Ctrl-C at the agent's terminal is not for it, and it ends as a whole.
        .process_group(0);
    if let Some(port) = launch.port {
        command.env("PORT", port.to_string());
    }
    Ok(command)
}

fn open(path: &Path) -> Result<Stdio, String> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map(Stdio::from).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn static_server(app: &Path, root: &str, listen_ip: IpAddr, path: &str) -> Result<String, String> {
    let root = match root.trim_start_matches("/app").trim_start_matches('/') {
        "" => STATIC_ROOTS.into_iter().find(|root| app.join(root).join("index.html").is_file()).unwrap_or("."),
        root => root,
    };
    let quoted = format!("'{}'", app.join(root).display().to_string().replace('\'', r"'\''"));
    if has(path, "python3") {
        Ok(format!("python3 -m http.server \"$PORT\" --bind {listen_ip} --directory {quoted}"))
    } else if has(path, "busybox") {
        Ok(format!("busybox httpd -f -p {listen_ip}:\"$PORT\" -h {quoted}"))
    } else {
        Err("a static site needs python3 or busybox on a host without Docker; install one, or use a host with Docker"
            .into())
    }
}

fn has(path: &str, program: &str) -> bool {
    std::env::split_paths(path).map(|folder: PathBuf| folder.join(program)).any(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_static_site_is_served_by_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir_all(folder.path().join("it's/public")).unwrap();
        fs::create_dir_all(&bin).unwrap();
        let app = folder.path().join("it's");
        fs::write(app.join("public/index.html"), "").unwrap();
        let ip = [127, 0, 0, 1].into();
        let path = bin.display().to_string();
        assert!(static_server(&app, "", ip, &path).unwrap_err().contains("busybox"));
        fs::write(bin.join("busybox"), "").unwrap();
        let line = static_server(&app, "", ip, &path).unwrap();
        assert!(line.starts_with("busybox") && line.ends_with(r"it'\''s/public'"), "{line}");
        fs::write(bin.join("python3"), "").unwrap();
        assert!(static_server(&app, "/app/site", ip, &path).unwrap().ends_with(r"it'\''s/site'"));
    }
}
