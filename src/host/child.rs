//! A program that runs beside us until it is told to stop.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{self, ChildStdout};
use tokio::time::timeout;

/// What to start, and with which environment on top of ours.
#[derive(Debug, Clone, Default)]
pub struct ChildCommand {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, String)>,
    /// Where its standard error goes; without it, to ours.
    pub stderr: Option<PathBuf>,
}

/// A running program in a process group of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    process: process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    left: bool,
}

impl Child {
    pub fn spawn(command: &ChildCommand) -> io::Result<Self> {
        let stderr = match &command.stderr {
            Some(path) => Stdio::from(File::options().create(true).append(true).open(path)?),
            None => Stdio::inherit(),
        };
        let mut process = process::Command::new(&command.program)
            .args(&command.args)
            .envs(command.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C is for us: we end our children in an order
            .process_group(0)
            .spawn()?;
        let stdout = process.stdout.take().ok_or_else(|| io::Error::other("no standard output"))?;
        Ok(Self { process, lines: BufReader::new(stdout).lines(), left: false })
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// The next line of its standard output; `None` when it has closed that.
    pub async fn line(&mut self) -> io::Result<Option<String>> {
        self.lines.next_line().await
    }

    /// SIGTERM, and SIGKILL for what does not end in time. True if it ended by itself.
    pub async fn terminate(mut self, deadline: Duration) -> io::Result<bool> {
        let pid = self.process.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // it may have ended since: then there is nothing to tell it
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(deadline, self.process.wait()).await {
            Ok(ended) => ended.map(|_| true),
            Err(_) => self.process.kill().await.map(|()| false),
        }
    }

    /// Lets it run on after us.
    pub fn leave(mut self) {
        self.left = true;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.left {
            // an error means that it has ended
            let _ = self.process.start_kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let args = ["-c", script].map(OsString::from).to_vec();
        Child::spawn(&ChildCommand { program: "/bin/sh".into(), args, ..Default::default() }).expect("sh")
    }

    #[tokio::test]
    async fn reads_lines_and_ends_what_obeys() {
        let mut child = shell("echo ready; exec sleep 60");
        assert_eq!(child.line().await.expect("line").as_deref(), Some("ready"));
        assert!(child.terminate(Duration::from_secs(10)).await.expect("end"));
    }

    #[tokio::test]
    async fn kills_what_does_not() {
        let mut child = shell("trap '' TERM; echo ready; while :; do sleep 1; done");
        child.line().await.expect("line");
        assert!(!child.terminate(Duration::from_millis(100)).await.expect("end"));
    }
}
