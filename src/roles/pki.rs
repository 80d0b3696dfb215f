//! `pki init`, `pki issue`, `pki enrol`, `pki list`, `pki revoke`.

use std::time::Duration;

use anyhow::Context;
use ovirt_gateway::cli::{Pki, Settings};
use ovirt_gateway::config::{self, Gateway as Config};
use ovirt_gateway::pki::{Leaf, Office, Signed, Site};
use ovirt_gateway::tls;

use super::serve;

pub fn run(action: &Pki) -> anyhow::Result<()> {
    match action {
        Pki::Init { dir } => {
            let site = Site::new(dir);
            site.init()?;
            for files in [&site.ca, &site.control_ca, &site.gateway] {
                println!("{}", files.cert.display());
            }
        }
        Pki::Issue { host, dir } => {
            let site = Site::new(dir);
            site.init()?;
            let files = site.host(host)?;
            let leaf = tls::certificates(&files.cert)?.first().and_then(|leaf| Leaf::read(leaf));
            let Leaf { serial, until, .. } = leaf.context("the certificate cannot be read")?;
            let office = Office::new(dir, Duration::ZERO);
            if !office.hosts()?.iter().any(|known| known.serial == serial) {
                office.note(host, &Signed { chain: String::new(), serial, until })?;
            }
            println!("{}\n{}", files.cert.display(), files.key.display());
        }
        Pki::Enrol { host, minutes, settings } => enrol(host, *minutes, settings)?,
        Pki::List { settings } => {
            for host in office(settings)?.hosts()? {
                let until = i64::try_from(host.until).ok();
                let until = until.and_then(|until| time::OffsetDateTime::from_unix_timestamp(until).ok());
                let until = until.map(|until| until.date().to_string()).unwrap_or_default();
                let state = if host.revoked.is_some() { "revoked" } else { "good" };
                println!("{}\t{}\tuntil {until}\t{state}", host.address, host.serial);
            }
        }
        Pki::Revoke { host, settings } => match office(settings)?.revoke(host)? {
            0 => println!("{host} has no certificate and no invitation that counts"),
            ended => println!("{host}: {ended} ended"),
        },
    }
    Ok(())
}

/// The token goes to standard output alone, so that it can be piped; what to do with it does not.
fn enrol(host: &str, minutes: u64, settings: &Settings) -> anyhow::Result<()> {
    let config: Config = config::load(settings.config.as_deref())?;
    let handed_out = serve::Pki::prepare(&config)?.handed_out;
    let authorities = tls::certificates_in(&handed_out.ca)?;
    let token = serve::office(&config).invite(host, &authorities, Duration::from_secs(minutes * 60))?;
    eprintln!("For {host}, within {minutes} minutes, once. There, with this token on standard input:");
    let name = config.server.public_ip.unwrap_or_else(|| "THIS-GATEWAY".into());
    eprintln!("  ovirt-gateway imageio enrol --gateway https://{name}:{}", config.server.port);
    println!("{}", *token.reveal());
    Ok(())
}

fn office(settings: &Settings) -> anyhow::Result<Office> {
    let config: Config = config::load(settings.config.as_deref())?;
    Ok(serve::office(&config))
}
