//! `check-config`: reads a configuration as its role would, and starts nothing.

use ovirt_gateway::cli::CheckConfig;
use ovirt_gateway::{config, imageio};

use super::serve;

pub fn run(options: &CheckConfig) -> anyhow::Result<()> {
    let file = Some(options.config.as_path());
    if options.imageio {
        let settings: imageio::Config = config::load(file)?;
        settings.logging.filter().map_err(|error| super::BadSetting(error.to_string()))?;
    } else {
        serve::check(&config::load(file)?)?;
    }
    println!("{}: ok", options.config.display());
    Ok(())
}
