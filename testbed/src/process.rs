//! One role as a process: started, killed, stopped, started again.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binary;
use crate::until::until;

/// A process of the binary, with its log in a file.
pub struct Process {
    name: String,
    args: Vec<String>,
    log: PathBuf,
    /// Another than the one under test.
    binary: Option<PathBuf>,
    /// Variables of its environment.
    variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl Process {
    /// Starts `pontoon ARGS`; output is appended to `log`.
    pub fn start(name: &str, args: &[&str], log: PathBuf) -> Result<Self> {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut process = Self { name: name.to_owned(), args, log, binary: None, variables: Vec::new(), child: None };
        process.restart()?;
        Ok(process)
    }

    /// From its next start on it runs another binary.
    pub fn run_from_now_on(&mut self, binary: PathBuf) {
        self.binary = Some(binary);
    }

    /// From its next start on it has these variables in its environment.
    pub fn with_from_now_on(&mut self, variables: Vec<(String, String)>) {
        self.variables = variables;
    }

    /// Starts it again, after it was killed or stopped.
    pub fn restart(&mut self) -> Result<()> {
        let open = || -> Result<File> { Ok(OpenOptions::new().create(true).append(true).open(&self.log)?) };
        let binary = self.binary.clone().map_or_else(binary::pontoon, Ok)?;
        let child = Command::new(binary)
            .args(&self.args)
            .env("PONTOON_LOG", "info")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open()?)
            .stderr(open()?)
            .spawn()
            .with_context(|| format!("{} does not start", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits until it has ended by itself.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM)?;
        let ended = until(&format!("{} to end", self.name), Duration::from_secs(45), || match child.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("it still runs"),
        });
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended.map(|_| ())
    }

    /// SIGSTOP: it does nothing until [`Process::resume`], and its connections stay open.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(pid as i32), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Whether it was started and has not ended by itself.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Its exit code, if it has ended by itself.
    pub fn exit_code(&mut self) -> Result<Option<i32>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        Ok(child.try_wait()?.map(|status| status.code().unwrap_or(-1)))
    }

    /// Everything it has logged, over all its starts.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The newest part of its log, for a failing test's message.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Processes whose working folder lies below `folder`: servos of the process runtime.
pub fn servos_below(folder: &Path) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pid = |process: std::fs::DirEntry| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        let cwd = std::fs::read_link(process.path().join("cwd")).ok()?;
        cwd.starts_with(folder).then_some(Pid::from_raw(pid))
    };
    processes.flatten().filter_map(pid).collect()
}

/// kill -9 of a process that is not our child.
pub fn end(pid: Pid) {
    // One that ended meanwhile is fine.
    let _ = kill(pid, Signal::SIGKILL);
}
