//! An instance and its disks, as the gateway shows them.

use serde_json::Value;

use super::api::text;
use super::{Api, Error};

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub id: String,
    pub name: String,
    pub status: String,
    /// The boot disk first.
    pub disks: Vec<Disk>,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub id: String,
    pub name: String,
    pub bootable: bool,
    pub interface: String,
    pub storage_domain: String,
}

impl Machine {
    pub async fn all(api: &Api) -> Result<Vec<Self>, Error> {
        let mut machines = Vec::new();
        for document in api.list("vms", "vm").await? {
            machines.push(Self::read(api, &document).await?);
        }
        Ok(machines)
    }

    /// By id, or by name if there is one such instance only.
    pub async fn find(api: &Api, wanted: &str) -> Result<Self, Error> {
        if uuid::Uuid::try_parse(wanted).is_ok() {
            match api.get(&format!("vms/{wanted}")).await {
                Ok(document) => return Self::read(api, &document).await,
                Err(Error::Status { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let mut named = api.list("vms", "vm").await?;
        named.retain(|document| document["name"] == wanted);
        match named.as_slice() {
            [document] => Self::read(api, document).await,
            _ => Err(Error::NoInstance(wanted.to_owned())),
        }
    }

    async fn read(api: &Api, document: &Value) -> Result<Self, Error> {
        let id = text(document, "/id", "vm")?;
        let mut disks = Vec::new();
        for attachment in api.list(&format!("vms/{id}/diskattachments"), "disk_attachment").await? {
            let disk = text(&attachment, "/disk/id", "disk attachment")?;
            let document = api.get(&format!("disks/{disk}")).await?;
            disks.push(Disk {
                name: text(&document, "/name", "disk")?,
                bootable: text(&attachment, "/bootable", "disk attachment")? == "true",
                interface: text(&attachment, "/interface", "disk attachment")?,
                storage_domain: text(&document, "/storage_domains/storage_domain/0/id", "disk")?,
                id: disk,
            });
        }
        disks.sort_by_key(|disk| !disk.bootable);
        let (name, status) = (text(document, "/name", "vm")?, text(document, "/status", "vm")?);
        Ok(Self { id, name, status, disks })
    }

    /// By id or by name.
    pub fn disk(&self, wanted: &str) -> Result<&Disk, Error> {
        let mut found = self.disks.iter().filter(|disk| disk.id == wanted || disk.name == wanted);
        match (found.next(), found.next()) {
            (Some(disk), None) => Ok(disk),
            _ => Err(Error::NoDisk(wanted.to_owned())),
        }
    }
}
