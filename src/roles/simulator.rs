//! `simulator`.

use std::time::Duration;

use anyhow::Context;
use ovirt_gateway::cli::Simulator as Options;
use ovirt_gateway::log;
use ovirt_gateway::simulator::{Config, Simulator, Version};

pub fn run(options: Options) -> anyhow::Result<()> {
    let _log = log::start(&log::Config { level: "warn".into(), file: None })?;
    let version = Version::parse(&options.version)
        .with_context(|| format!("--version {}: not one of 4.18 to 4.23", options.version))?;
    super::block_on(async {
        let config = Config {
            listen: options.listen,
            dir: options.dir,
            instances: options.instances,
            libvirt: !options.no_libvirt,
            libvirt_uri: options.libvirt_uri,
            latency: Duration::from_millis(options.latency_ms),
            snapshot_wait: Duration::from_secs(options.snapshot_wait),
            lag: Duration::from_secs(options.lag),
            version,
            instance_name: options.instance_name,
            hosts: options.hosts,
            servers: options.servers,
            enforce_post: options.enforce_post,
            faults: options.faults,
        };
        let stop = super::asked_to_stop()?;
        let simulator = Simulator::bind(config).await?;
        super::ready(&format!("simulator {}", simulator.url()));
        simulator.run(stop).await?;
        Ok(())
    })
}
