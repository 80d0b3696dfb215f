//! `backup`, `restore`, `verify`: the reference client on the command line.
//!
//! Exit codes: 0, 1 for a failure or a difference, 130 when a signal ended it.

use std::io::{BufRead, BufReader, Read};
use std::process::ExitCode;

use anyhow::Context;
use ovirt_gateway::cli::{Backup, Login, Restore, Verify};
use ovirt_gateway::client::{self, Api, BackupOptions, Error, RestoreOptions};
use secrecy::SecretString;

pub fn backup(options: Backup) -> ExitCode {
    end(super::block_on(async {
        let stop = stop()?;
        let api = api(&options.login).await?;
        let options = BackupOptions {
            vm: options.vm,
            to: options.to,
            incremental: options.incremental,
            disks: options.disks,
            keep_checkpoints: options.keep_checkpoints,
        };
        client::backup(&api, &options, stop).await?;
        Ok(())
    }))
}

pub fn restore(options: Restore) -> ExitCode {
    end(super::block_on(async {
        let stop = stop()?;
        let api = api(&options.login).await?;
        let options = RestoreOptions {
            from: options.from,
            at: options.at,
            name: options.name,
            cluster: options.cluster,
            storage_domain: options.storage_domain,
            start: options.start,
        };
        client::restore(&api, &options, stop).await?;
        Ok(())
    }))
}

pub fn verify(options: &Verify) -> ExitCode {
    end(super::block_on(async {
        let verdict = client::verify_backups(&options.from).await?;
        match verdict.wrong {
            0 => Ok(()),
            1 => anyhow::bail!("1 difference in {} runs", verdict.runs),
            more => anyhow::bail!("{more} differences in {} runs", verdict.runs),
        }
    }))
}

fn end(outcome: anyhow::Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    eprintln!("ovirt-gateway: {error:#}");
    match error.downcast_ref() {
        Some(Error::Interrupted) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    }
}

/// Completes at the first signal. A second one ends the process as it is; the next call clears up.
fn stop() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let first = super::asked_to_stop()?;
    Ok(async move {
        first.await;
        eprintln!("ovirt-gateway: stopping; a second signal ends it at once");
        tokio::spawn(async {
            if let Ok(second) = super::asked_to_stop() {
                second.await;
                #[expect(clippy::disallowed_methods, reason = "that is what a second signal asks for")]
                std::process::exit(i32::from(INTERRUPTED));
            }
        });
    })
}

async fn api(login: &Login) -> anyhow::Result<Api> {
    let ca = std::fs::read(&login.ca).with_context(|| login.ca.display().to_string())?;
    let password = password(login)?;
    Ok(Api::login(&login.gateway, &ca, &login.user, password).await?)
}

fn password(login: &Login) -> anyhow::Result<SecretString> {
    let text = match (&login.password_file, std::env::var(PASSWORD)) {
        (Some(path), _) => {
            let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
            line(file).with_context(|| path.display().to_string())?
        }
        (None, Ok(password)) => password,
        (None, Err(_)) => line(std::io::stdin().lock())?,
    };
    anyhow::ensure!(
        !text.is_empty(),
        "no password for {}: give --password-file, set {PASSWORD}, or write it to standard input",
        login.user
    );
    Ok(text.into())
}

fn line(from: impl Read) -> anyhow::Result<String> {
    let mut text = String::new();
    BufReader::new(from.take(LONGEST_PASSWORD)).read_line(&mut text).context("the password")?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

const PASSWORD: &str = "OVIRT_GATEWAY_PASSWORD";
/// Bytes.
const LONGEST_PASSWORD: u64 = 4096;
/// As a shell tells of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
