//! `imageio`: the data plane of one host, from its settings to its last export.

use anyhow::Context;
use ovirt_gateway::cli::Settings;
use ovirt_gateway::host::Local;
use ovirt_gateway::imageio::{Config, Daemon, Desk, Settings as DeskSettings};
use ovirt_gateway::{config, log};

pub fn run(settings: Settings) -> anyhow::Result<()> {
    let config: Config = config::load(settings.config.as_deref())?;
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
            roots: config.storage.roots,
            nfs_root: config.storage.nfs_root,
            scratch_dir: config.backup.scratch_dir,
            run_dir: config.backup.run_dir,
            min_free: config.backup.min_free,
            max_scratch: config.backup.max_scratch,
        },
        Local,
        move |url| tickets.cancel_url(url),
    )
    .await
    .context("[backup]")?;
    super::ready(&format!("imageio https://{}", daemon.address()?));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), control = %daemon.control_address()?, "serving images");
    let routes = desk.clone().routes();
    let served = daemon.run(routes, stop).await;
    desk.close().await;
    tracing::info!("stopped");
    Ok(served?)
}
