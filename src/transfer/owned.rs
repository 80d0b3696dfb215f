//! Objects that a caller was just shown by CloudStack, and what his role lets him do with their data.

use crate::cloudstack::types::{VirtualMachine, Volume};
use crate::cloudstack::{Client, Owned, Params};

use super::Error;

/// An instance; a destroyed one is none.
pub(super) async fn instance(caller: &Client, id: &str) -> Result<Option<Owned<VirtualMachine>>, Error> {
    let found = caller.own_instance(id).await?;
    Ok(found.filter(|vm| !matches!(vm.state.as_str(), "Destroyed" | "Expunging")))
}

/// A volume; a destroyed one is none.
pub(super) async fn volume(caller: &Client, id: &str) -> Result<Option<Owned<Volume>>, Error> {
    Ok(caller.own_volume(id).await?.filter(|volume| lives(volume)))
}

/// All volumes of an instance, in the order of their devices.
pub(super) async fn volumes(
    caller: &Client,
    vm: &Owned<VirtualMachine>,
) -> Result<Vec<Owned<Volume>>, Error> {
    let mut volumes = caller.own_volumes(Params::new().set("virtualmachineid", &vm.id)).await?;
    volumes.retain(|volume| lives(volume) && volume.virtualmachineid.as_deref() == Some(&vm.id));
    volumes.sort_by(|a, b| (a.deviceid, &a.id).cmp(&(b.deviceid, &b.id)));
    Ok(volumes)
}

/// Whether the caller's role includes reading the data of disks.
pub(super) async fn may_read(caller: &Client) -> Result<(), Error> {
    let apis = caller.apis().await?;
    match apis.allows("extractVolume") || apis.allows("createSnapshot") {
        true => Ok(()),
        false => Err(forbidden("reading disks needs extractVolume or createSnapshot in this account's role")),
    }
}

/// Whether the caller's role includes writing the data of disks.
pub(super) async fn may_write(caller: &Client) -> Result<(), Error> {
    let apis = caller.apis().await?;
    match apis.allows("uploadVolume") && apis.allows("attachVolume") {
        true => Ok(()),
        false => Err(forbidden("writing disks needs uploadVolume and attachVolume in this account's role")),
    }
}

fn forbidden(text: &str) -> Error {
    Error::Forbidden { text: text.into() }
}

fn lives(volume: &Volume) -> bool {
    !matches!(volume.state.as_str(), "Destroy" | "Destroying" | "Expunging" | "Expunged")
}
