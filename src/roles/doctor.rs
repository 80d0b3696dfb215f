//! `doctor`: checks a site end to end and prints what to change. Reads only.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use ovirt_gateway::auth::HmacSecret;
use ovirt_gateway::cli::Doctor;
use ovirt_gateway::cloudstack::Endpoint;
use ovirt_gateway::config::{self, Gateway as Config};
use ovirt_gateway::doctor::{self, Finding, Parts, Report, Tenant, Topic};
use ovirt_gateway::hostlink::HostLink;
use ovirt_gateway::pki::Site;
use secrecy::SecretString;

use super::serve;

/// The exit code tells how bad it is: 0, 1 for warnings, 2 for errors.
pub fn run(options: &Doctor) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    if let Some(config) = read(&options.config, &mut report) {
        let parts = Parts {
            hosts: hosts(&config),
            tenant: tenant(options.user.as_deref())?,
            secret: HmacSecret::new(uuid::Uuid::new_v4().to_string().into()),
            cloudstack: config.cloudstack,
            auth: config.auth,
        };
        super::block_on(async {
            doctor::examine(&parts, &mut report).await;
            Ok(())
        })?;
    }
    let text = match options.json {
        true => format!("{:#}\n", report.json()),
        false => report.text(),
    };
    // a reader that has seen enough is no failure
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(ExitCode::from(report.exit_code()))
}

/// The settings, if anything can be asked with them.
fn read(path: &Path, report: &mut Report) -> Option<Config> {
    let name = path.display().to_string();
    let advice = "config.ini.example shows every setting";
    let config: Config = match config::load(Some(path)) {
        Ok(config) => config,
        Err(error) => {
            report.add(Finding::error(Topic::Configuration, &name, error.to_string(), advice));
            return None;
        }
    };
    match serve::check(&config) {
        Ok(()) => report.add(Finding::ok(Topic::Configuration, &name, "can be read")),
        Err(error) => report.add(Finding::error(Topic::Configuration, &name, format!("{error:#}"), advice)),
    }
    Endpoint::new(&config.cloudstack).is_ok().then_some(config)
}

/// The client to the hosts, with the files that `serve` would use; it makes none.
fn hosts(config: &Config) -> Result<HostLink, String> {
    let site = Site::new(&config.ssl.dir());
    HostLink::new(&serve::host_link(&site, &config.imageio)).map_err(|error| error.to_string())
}

fn tenant(name: Option<&str>) -> anyhow::Result<Option<Tenant>> {
    let Some(name) = name else { return Ok(None) };
    let password = match std::env::var(PASSWORD) {
        Ok(password) => password,
        Err(_) => line()?,
    };
    anyhow::ensure!(
        !password.is_empty(),
        "no password for {name}: set {PASSWORD}, or give it on standard input"
    );
    Ok(Some(Tenant { name: name.to_owned(), password: SecretString::from(password) }))
}

/// The first line of standard input.
fn line() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(LONGEST_PASSWORD).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("the password is not UTF-8"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

const PASSWORD: &str = "OVIRT_GATEWAY_DOCTOR_PASSWORD";
/// Bytes.
const LONGEST_PASSWORD: u64 = 4096;
