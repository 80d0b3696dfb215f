//! What an instance's firmware remembers: asked for with its configuration, put back when it is restored.
//!
//! CloudStack keeps UEFI variables and the state of a TPM on the host alone where an instance runs, and does
//! not say beforehand where one will start: what is restored goes to every host that may be it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::cloudstack::types::VirtualMachine;
use crate::cloudstack::{Client, Params};
use crate::imageio::api;
use crate::map::ovf::Firmware;

use super::core::{Core, Who};
use super::notes::Severity;
use super::place::{has_kvm, placed};
use super::undo::Work;
use super::{Error, owned};

impl Core {
    /// Where the instance runs, or was last seen. `None` for callers who may not read its disks either,
    /// where it has no such firmware, or its host does not answer: a configuration without it is better
    /// than none.
    pub(super) async fn firmware(&self, caller: &Client, vm: &VirtualMachine) -> Option<Firmware> {
        if !remembers(vm) || owned::may_read(caller).await.is_err() {
            return None;
        }
        let host = vm.hostid.clone().or_else(|| self.seen.of(&vm.id)?.host_id)?;
        let read = async {
            let host = self.service("reading firmware")?.host(&host).await?;
            let gone = || Error::conflict("its host is not known");
            let address = host.as_ref().and_then(placed).ok_or_else(gone)?.address;
            Ok::<_, Error>(self.hosts()?.firmware(&address, &vm.id).await?)
        };
        match read.await {
            Ok(found) if found == api::Firmware::default() => None,
            Ok(found) => {
                let tpm = found.tpm.into_iter().map(|file| (file.name, file.data)).collect();
                let firmware = Firmware { nvram: found.nvram, tpm, seal: String::new() };
                let seal = STANDARD.encode(self.seal(&firmware));
                Some(Firmware { seal, ..firmware })
            }
            Err(error) => {
                tracing::warn!(vm = vm.id, %error, "what the instance's firmware remembers is left out");
                None
            }
        }
    }

    /// Puts it where a new instance may start. What cannot be put back is told, and no reason to fail.
    pub(super) async fn restore_firmware(
        &self,
        who: &Who,
        zone: &str,
        vm: &str,
        firmware: Firmware,
        work: &mut Work,
    ) -> Result<(), Error> {
        if owned::may_write(&who.client).await.is_err() {
            self.told(who, vm, "UEFI variables and TPM were not kept: this account may not write disks");
            return Ok(());
        }
        let mut firmware = firmware;
        let sealed = STANDARD.decode(&firmware.seal).unwrap_or_default();
        if !firmware.tpm.is_empty() && !bool::from(sealed.ct_eq(&self.seal(&firmware))) {
            // a TPM's emulator runs on the host: it reads only what a host wrote
            firmware.tpm.clear();
            self.told(who, vm, "the TPM's state was not kept: it is not as this gateway wrote it");
        }
        if firmware.nvram.is_none() && firmware.tpm.is_empty() {
            return Ok(());
        }
        let params = Params::new().set("type", "Routing").set("state", "Up").set("zoneid", zone);
        let hosts = self.service("restoring firmware")?.hosts(params).await?;
        let hosts: Vec<String> = hosts
            .iter()
            .filter(|host| has_kvm(host))
            .filter_map(|host| Some(placed(host)?.address))
            .collect();
        work.firmware(self, vm, &hosts).await?;
        let tpm = firmware.tpm.into_iter().map(|(name, data)| api::TpmFile { name, data }).collect();
        let firmware = api::Firmware { nvram: firmware.nvram, tpm };
        let order = &api::FirmwareOrder { instance: vm.to_owned(), firmware };
        let link = self.hosts()?;
        let failed = futures_util::stream::iter(hosts)
            .map(|host| async move {
                let error = link.write_firmware(&host, order).await.err()?;
                Some((host, error))
            })
            .buffer_unordered(AT_ONCE)
            .filter_map(std::future::ready);
        let failed: Vec<_> = failed.collect().await;
        for (host, error) in &failed {
            tracing::warn!(vm, host, %error, "firmware could not be put back");
        }
        if !failed.is_empty() {
            let text = "on some hosts the instance would start with new UEFI variables and a new TPM";
            self.told(who, vm, text);
        }
        Ok(())
    }

    /// A file that stays is small, and its name nobody's.
    pub(super) async fn take_firmware_away(&self, vm: &str, hosts: &[String]) {
        let Ok(link) = self.hosts() else { return };
        futures_util::stream::iter(hosts.to_vec())
            .for_each_concurrent(AT_ONCE, |host| async move {
                if let Err(error) = link.delete_firmware(&host, vm).await {
                    tracing::warn!(vm, host, %error, "the firmware of a half-made instance stays");
                }
            })
            .await;
    }

    fn told(&self, who: &Who, vm: &str, text: &str) {
        self.notes.add(&who.user, vm, Severity::Warning, text.to_owned());
    }

    fn seal(&self, firmware: &Firmware) -> [u8; 32] {
        let mut digest = Sha256::new();
        for (name, data) in &firmware.tpm {
            digest.update(Sha256::digest(name));
            digest.update(Sha256::digest(data));
        }
        self.parts.secret.mac("firmware", &digest.finalize())
    }
}

/// Whether its firmware is such that remembers anything.
fn remembers(vm: &VirtualMachine) -> bool {
    let uefi = vm.boottype.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("uefi"));
    uefi || vm.details.keys().any(|key| key.starts_with("virtual.tpm."))
}

const AT_ONCE: usize = 16;
