//! The binary: parse arguments, run one role, answer with an exit code.

mod roles;

use std::process::ExitCode;

use clap::Parser;
use ovirt_gateway::cli::{Cli, Role};
use ovirt_gateway::config;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.role {
        Role::Serve(settings) => roles::serve::run(settings),
        Role::Imageio(settings) => roles::imageio::run(settings),
        Role::Simulator(options) => roles::simulator::run(options),
        Role::Demo(options) => roles::demo::run(options),
        Role::Backup(options) => return roles::client::backup(options),
        Role::Restore(options) => return roles::client::restore(options),
        Role::Verify(options) => return roles::client::verify(&options),
        Role::CheckConfig(options) => roles::check_config::run(&options),
        Role::Doctor(options) => match roles::doctor::run(&options) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Role::State { action } => match roles::state::run(&action) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Role::Pki { action } => roles::pki::run(&action),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ovirt-gateway: {error:#}");
            let settings = error.is::<config::Error>() || error.is::<roles::BadSetting>();
            ExitCode::from(if settings { config::EXIT_CODE } else { 1 })
        }
    }
}
