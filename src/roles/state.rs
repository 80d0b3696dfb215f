//! `state check` and `state rebuild`: the database beside what the images tell.

use std::process::ExitCode;

use anyhow::Context;
use ovirt_gateway::auth::HmacSecret;
use ovirt_gateway::cli::{Settings, State};
use ovirt_gateway::cloudstack::Endpoint;
use ovirt_gateway::config::{self, Gateway as Config};
use ovirt_gateway::hostlink::HostLink;
use ovirt_gateway::pki::Site;
use ovirt_gateway::state::{Aside, Store, Summary};
use ovirt_gateway::transfer::{self, Comparison, Engine, Seen};

use super::serve;

pub fn run(action: &State) -> anyhow::Result<ExitCode> {
    match action {
        State::Check { settings } => {
            let config = read(settings)?;
            super::block_on(async move { check(&config).await })
        }
        State::Rebuild { settings, installation } => {
            let config = read(settings)?;
            super::block_on(async move { rebuild(&config, installation.as_deref()).await })
        }
    }
}

fn read(settings: &Settings) -> anyhow::Result<Config> {
    let config: Config = config::load(settings.config.as_deref())?;
    serve::check(&config)?;
    Ok(config)
}

async fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let store = Store::beside(&config.state).await?;
    let summary = store.summary().await?;
    println!(
        "the database is in order, schema {}, installation {}",
        summary.schema,
        store.instance_id().await?
    );
    println!("{}", counted(&summary));
    let Some(parts) = parts(config, store)? else {
        println!("without a service account the images cannot be asked");
        return Ok(ExitCode::SUCCESS);
    };
    let Comparison { seen, lost, unknown } = Engine::compare(parts).await?;
    tell(&seen);
    for (checkpoint, disk) in &lost {
        println!("checkpoint {checkpoint}: no usable bitmap in disk {disk}: the next backup from it is full");
    }
    for (checkpoint, disk) in &unknown {
        println!("disk {disk} has a bitmap of checkpoint {checkpoint}, which the database does not know");
    }
    if !unknown.is_empty() {
        println!("`ovirt-gateway state rebuild` takes unknown ones over");
    }
    let good = lost.is_empty() && unknown.is_empty() && seen.unseen.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn rebuild(config: &Config, installation: Option<&str>) -> anyhow::Result<ExitCode> {
    if let Some(Aside(path)) = Aside::put(&config.state).await? {
        println!("the damaged database is now {}", path.display());
    }
    let store = Store::open(&config.state).await?;
    let parts = parts(config, store.clone())?.context("[cloudstack] api_key and secret_key are needed")?;
    let rebuilt = Engine::rebuild(parts, installation).await?;
    tell(&rebuilt.seen);
    println!("{} checkpoints taken over; installation {}", rebuilt.checkpoints, store.instance_id().await?);
    store.close().await;
    // what was not seen can be taken over later: the command may be run again
    Ok(if rebuilt.seen.unseen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn counted(summary: &Summary) -> String {
    format!(
        "{} backups, {} of them open; {} transfers, {} open; {} checkpoints; {} disks made here; {} unfinished",
        summary.backups,
        summary.open_backups,
        summary.transfers,
        summary.open_transfers,
        summary.checkpoints,
        summary.disks,
        summary.unfinished_work
    )
}

fn tell(seen: &Seen) {
    println!("looked at {} disks of {} instances", seen.disks, seen.instances);
    for (instance, why) in &seen.unseen {
        println!("instance {instance} could not be looked at: {why}");
    }
}

/// `None` without a service account.
fn parts(config: &Config, store: Store) -> anyhow::Result<Option<transfer::Parts>> {
    let endpoint = Endpoint::new(&config.cloudstack)?;
    let Some(service) = serve::service_account(config, &endpoint) else { return Ok(None) };
    let site = Site::new(&config.ssl.dir());
    let hosts = HostLink::new(&serve::host_link(&site, &config.imageio)).context("[imageio]")?;
    let secret = HmacSecret::new(uuid::Uuid::new_v4().to_string().into());
    Ok(Some(serve::parts(config, store, Some(hosts), Some(service), secret)))
}
