//! Exports of stopped and detached images, through qemu-nbd: started, recognised, ended.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::{Command, Error, RunError, Runner};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Beside a program that may hold the image for writing.
    SharedRead,
    Write,
}

/// What to export, and how.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub image: &'a Path,
    pub access: Access,
    /// The dirty bitmap to tell of.
    pub bitmap: Option<&'a str>,
    pub socket: &'a Path,
    pub pid: &'a Path,
}

/// Starts an export of a qcow2 on a unix socket; it answers when this returns.
pub async fn start<R: Runner>(runner: &R, order: Order<'_>) -> Result<(), Error> {
    match runner.run_ok(command(order, true)).await {
        // tmpfs and some network file systems know no O_DIRECT
        Err(RunError::Failed { stderr, .. }) if refuses_direct(&stderr) => {
            runner.run_ok(command(order, false)).await.map(drop).map_err(Error::sorted)
        }
        other => other.map(drop).map_err(Error::sorted),
    }
}

/// The pid of the export on that socket, if it is alive and truly is our program.
pub fn alive(socket: &Path, pid_file: &Path) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0);
    let ours = words.next().is_some_and(|program| program.ends_with(b"qemu-nbd"))
        && words.any(|word| word == socket.as_os_str().as_encoded_bytes());
    if ours { Pid::from_raw(pid) } else { None }
}

/// Ends an export: SIGTERM, on which qemu-nbd flushes and closes; SIGKILL after a deadline is an error
/// to a writer, because nobody knows then what was flushed.
pub async fn stop(socket: &Path, pid_file: &Path) -> Result<(), Error> {
    let Some(pid) = alive(socket, pid_file) else { return Ok(()) };
    let raw = pid.as_raw_nonzero().get();
    let _ = kill_process(pid, Signal::TERM);
    if gone(socket, pid_file, FLUSH).await {
        return Ok(());
    }
    if alive(socket, pid_file) == Some(pid) {
        let _ = kill_process(pid, Signal::KILL);
        gone(socket, pid_file, KILL).await;
    }
    Err(Error::Stuck(raw))
}

async fn gone(socket: &Path, pid_file: &Path, within: Duration) -> bool {
    let end = Instant::now() + within;
    while Instant::now() < end {
        if alive(socket, pid_file).is_none() {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}

fn command(order: Order<'_>, direct: bool) -> Command {
    let Order { image, access, bitmap, socket, pid } = order;
    let mut command =
        Command::new("qemu-nbd").args(["--fork", "--persistent", "--shared=64", "--image-opts"]);
    let mut options = String::from("driver=qcow2,");
    match access {
        Access::SharedRead => {
            command = command.args(["--read-only", "--allocation-depth"]);
            options.push_str("force-share=on,");
        }
        Access::Write => command = command.args(["--discard=unmap", "--detect-zeroes=unmap"]),
    }
    command = match (direct, access) {
        (true, Access::Write) => command.args(["--cache=none", "--aio=native"]),
        (true, Access::SharedRead) => command.arg("--cache=none"),
        (false, _) => command.arg("--cache=writeback"),
    };
    if let Some(name) = bitmap {
        command = command.arg("--bitmap").arg(name);
    }
    options.push_str("file.driver=file,file.filename=");
    options.push_str(&image.to_string_lossy().replace(',', ",,"));
    command.arg("--socket").arg(socket).arg("--pid-file").arg(pid).arg(options)
}

fn refuses_direct(stderr: &str) -> bool {
    stderr.contains("O_DIRECT") || stderr.contains("Invalid argument") || stderr.contains("aio")
}

/// A writer may have much to flush to slow storage.
const FLUSH: Duration = Duration::from_secs(60);
const KILL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_a_name_do_not_become_options() {
        let order = Order {
            image: Path::new("/p/a,b"),
            access: Access::SharedRead,
            bitmap: Some("b"),
            socket: Path::new("/s"),
            pid: Path::new("/i"),
        };
        let command = command(order, true);
        let last = command.args.last().expect("options");
        assert_eq!(last, "driver=qcow2,force-share=on,file.driver=file,file.filename=/p/a,,b");
    }
}
