//! `demo`.

use ovirt_gateway::cli::Demo;
use ovirt_gateway::client;

pub fn run(options: Demo) -> anyhow::Result<()> {
    super::block_on(client::demo(client::Options {
        keep: options.keep,
        dir: options.dir,
        cloudstack: options.cloudstack,
    }))
}
