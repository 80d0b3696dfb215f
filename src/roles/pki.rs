//! `pki init`, `pki issue`.

use ovirt_gateway::cli::Pki;
use ovirt_gateway::pki::Site;

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
            println!("{}\n{}", files.cert.display(), files.key.display());
        }
    }
    Ok(())
}
