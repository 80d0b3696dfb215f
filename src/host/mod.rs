//! What runs on a KVM host: programs, and the unix sockets they open.
//!
//! The only place of the crate that starts processes. Nothing here builds a shell string: a program
//! gets an argument vector. Everything above works on any [`Runner`].

pub mod archive;
mod child;
mod error;
mod local;
pub mod qcow2;
pub mod qemu;
pub mod qemu_img;
pub mod qemu_nbd;
pub mod virsh;
pub mod xml;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

pub use child::{Child, ChildCommand};
pub use error::Error;
pub use local::Local;

/// A program to run: name, arguments, what to feed it, and how long it may take.
#[derive(Debug, Clone)]
pub struct Command {
    pub program: OsString,
    pub args: Vec<OsString>,
    pub stdin: Vec<u8>,
    pub deadline: Duration,
}

impl Command {
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), args: Vec::new(), stdin: Vec::new(), deadline: DEADLINE }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<I: IntoIterator<Item = A>, A: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// What a finished program left behind.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{program} could not be started: {source}")]
    Start { program: String, source: std::io::Error },
    #[error("{program} did not finish within {seconds} s")]
    Deadline { program: String, seconds: u64 },
    #[error("{program} printed more than {limit} bytes")]
    TooMuchOutput { program: String, limit: usize },
    #[error("{program} failed ({status}): {stderr}")]
    Failed { program: String, status: i32, stderr: String },
    #[error("{program} was cut off: {source}")]
    Io { program: String, source: std::io::Error },
}

/// A place where programs run: this machine, later another one over SSH.
pub trait Runner: Send + Sync + 'static {
    /// Runs a program to its end. A non-zero exit is an `Ok(Output)`; see [`Runner::run_ok`].
    fn run(&self, command: Command) -> impl Future<Output = Result<Output, RunError>> + Send;

    /// Opens a unix socket on that machine.
    fn connect(&self, socket: &Path) -> impl Future<Output = std::io::Result<tokio::net::UnixStream>> + Send;

    /// Runs a program that must succeed, and answers its standard output.
    fn run_ok(&self, command: Command) -> impl Future<Output = Result<Vec<u8>, RunError>> + Send {
        let program = command.program.to_string_lossy().into_owned();
        async move {
            let output = self.run(command).await?;
            match output.status {
                0 => Ok(output.stdout),
                status => Err(RunError::Failed { program, status, stderr: output.stderr }),
            }
        }
    }
}

/// How long a program may take unless its caller says otherwise.
const DEADLINE: Duration = Duration::from_secs(60);
