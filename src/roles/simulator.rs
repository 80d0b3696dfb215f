//! `simulator`.

use std::time::Duration;

use ovirt_gateway::cli::Simulator as Options;
use ovirt_gateway::log;
use ovirt_gateway::simulator::{Config, Simulator};

pub fn run(options: Options) -> anyhow::Result<()> {
    let _log = log::start(&log::Config { level: "warn".into(), file: None })?;
    super::block_on(async {
        let config = Config {
            listen: options.listen,
            dir: options.dir,
            instances: options.instances,
            libvirt: !options.no_libvirt,
            libvirt_uri: options.libvirt_uri,
            latency: Duration::from_millis(options.latency_ms),
        };
        let stop = super::asked_to_stop()?;
        let simulator = Simulator::bind(config).await?;
        super::ready(&format!("simulator {}", simulator.url()));
        simulator.run(stop).await?;
        Ok(())
    })
}
