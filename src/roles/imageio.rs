//! `imageio`: the data plane of one host.

use ovirt_gateway::cli::Settings;

pub fn run(_: Settings) -> anyhow::Result<()> {
    anyhow::bail!("not there yet")
}
