//! `imageio`: the data plane of one host, from its settings to its last export.

use std::io::Read;

use std::time::Duration;

use anyhow::Context;
use ovirt_gateway::cli::{Host, Imageio as Options, Settings};
use ovirt_gateway::enrol::{Places, join};
use ovirt_gateway::host::Local;
use ovirt_gateway::imageio::{Config, Daemon, Desk, Settings as DeskSettings};
use ovirt_gateway::pki::Files;
use ovirt_gateway::{config, log};
use secrecy::SecretString;

pub fn run(options: Options) -> anyhow::Result<()> {
    if let Some(Host::Enrol { gateway, token, settings }) = options.action {
        return enrol(&gateway, token, &settings);
    }
    let config: Config = config::load(options.settings.config.as_deref())?;
    config.logging.filter().map_err(|error| super::BadSetting(error.to_string()))?;
    let _log = log::start(&config.logging)?;
    super::block_on(daemon(config))
}

async fn daemon(config: Config) -> anyhow::Result<()> {
    let stop = super::asked_to_stop()?;
    let daemon = Daemon::bind(&config).await?;
    let tickets = daemon.tickets();
    let desk = Desk::open(
        DeskSettings {
            libvirt_uri: config.host.libvirt_uri,
            nvram_dir: config.host.nvram_dir,
            tpm_dir: config.host.tpm_dir,
            tpm_user: config.host.tpm_user,
            roots: config.storage.roots,
            nfs_root: config.storage.nfs_root,
            scratch_dir: config.backup.scratch_dir,
            run_dir: config.backup.run_dir,
            min_free: config.backup.min_free,
            max_scratch: config.backup.max_scratch,
            lease: Duration::from_secs(config.backup.lease.max(1)),
        },
        Local,
        move |url| tickets.cancel_url(url),
    )
    .await
    .context("[backup]")?;
    super::ready(&format!("imageio https://{}", daemon.address()?));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), control = %daemon.control_address()?, "serving images");
    let routes = desk.clone().routes();
    let activated = daemon.is_activated();
    let closed = || {
        if activated {
            desk.leave();
        }
    };
    let served = daemon.run(routes, stop, closed).await;
    // empty if another daemon has taken over
    desk.close().await;
    tracing::info!("stopped");
    Ok(served?)
}

fn enrol(gateway: &str, token: Option<SecretString>, settings: &Settings) -> anyhow::Result<()> {
    let config: Config = config::load(settings.config.as_deref())?;
    let token = match token {
        Some(token) => token,
        None => {
            let mut line = String::new();
            std::io::stdin().take(LONGEST_TOKEN).read_to_string(&mut line).context("the token")?;
            line.into()
        }
    };
    let places = Places {
        host: Files { cert: config.images.cert_file, key: config.images.key_file },
        control_ca: config.control.client_ca_file,
    };
    super::block_on(async {
        join(gateway, &token, &places).await?;
        println!("{}\n{}", places.host.cert.display(), places.control_ca.display());
        Ok(())
    })
}

/// Bytes.
const LONGEST_TOKEN: u64 = 1024;
