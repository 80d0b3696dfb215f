//! Programs on this machine.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process;
use tokio::time::timeout;

use super::{Command, Output, RunError, Runner};

/// Runs programs here, with `LC_ALL=C`, and kills what outlives its deadline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

impl Runner for Local {
    async fn run(&self, command: Command) -> Result<Output, RunError> {
        let program = command.program.to_string_lossy().into_owned();
        let mut child = process::Command::new(&command.program)
            .args(&command.args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| RunError::Start { program: program.clone(), source })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let work = async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // a program that does not want its input closes the pipe: not our error
                    let _ = stdin.write_all(&command.stdin).await;
                }
                Ok(())
            };
            let (_, stdout, stderr) = tokio::try_join!(feed, drain(stdout), drain(stderr))?;
            let status = child.wait().await?;
            Ok::<_, io::Error>((status, stdout, stderr))
        };
        let (status, stdout, stderr) = match timeout(command.deadline, work).await {
            Err(_) => {
                return Err(RunError::Deadline { program, seconds: command.deadline.as_secs() });
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(RunError::TooMuchOutput { program, limit: MAX_OUTPUT });
            }
            Ok(Err(source)) => return Err(RunError::Io { program, source }),
            Ok(Ok(done)) => done,
        };
        Ok(Output {
            status: status.code().unwrap_or(-1),
            stdout,
            stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
        })
    }

    async fn connect(&self, socket: &Path) -> io::Result<UnixStream> {
        UnixStream::connect(socket).await
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut out).await?;
    }
    match out.len() > MAX_OUTPUT {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(out),
    }
}

/// More than any program here has to say: a domain's XML is some tens of kilobytes.
const MAX_OUTPUT: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn feeds_reads_and_reports_the_exit_status() {
        let output = Local.run(Command::new("cat").stdin("hello")).await.expect("cat");
        assert_eq!((output.status, output.stdout.as_slice()), (0, b"hello".as_slice()));
        let error = Local.run_ok(Command::new("ls").arg("/nonexistent")).await.expect_err("ls");
        assert!(matches!(error, RunError::Failed { status: 2, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_never_ends_is_killed() {
        let slow = Command::new("sleep").arg("60").deadline(Duration::from_millis(50));
        let error = Local.run(slow).await.expect_err("deadline");
        assert!(matches!(error, RunError::Deadline { .. }), "{error}");
    }
}
