//! What is asked of a running qemu itself, below libvirt: to write as its guest would, and to drop bitmaps.

use std::path::Path;

use serde_json::{Value, json};

use super::domain::Libvirt;

impl Libvirt {
    /// Runs an order of qemu-io on a disk, through the device that the guest sees: bitmaps record it.
    pub async fn disk_io(&self, id: &str, disk: &str, order: &str) -> Result<(), String> {
        let xml = self.virsh(&["dumpxml", id]).await?;
        let alias = alias(&xml, disk).ok_or_else(|| format!("the domain has no disk {disk}"))?;
        let order = format!("qemu-io -d /machine/peripheral/{alias}/virtio-backend \"{order}\"");
        let said = self.virsh(&["qemu-monitor-command", id, "--hmp", &order]).await?;
        let said = said.trim();
        match said.is_empty() || said.contains("wrote") || said.contains("discard") {
            true => Ok(()),
            false => Err(said.to_owned()),
        }
    }

    /// Removes all bitmaps of the image that a disk uses now.
    pub async fn drop_bitmaps(&self, id: &str, file: &Path) -> Result<(), String> {
        let nodes = self
            .monitor(id, &json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}))
            .await?;
        let path = file.display().to_string();
        let of_file = |node: &&Value| node["drv"] == "qcow2" && node["file"] == path.as_str();
        for node in nodes.as_array().into_iter().flatten().filter(of_file) {
            for bitmap in node["dirty-bitmaps"].as_array().into_iter().flatten() {
                let arguments = json!({"node": node["node-name"], "name": bitmap["name"]});
                self.monitor(id, &json!({"execute": "block-dirty-bitmap-remove", "arguments": arguments}))
                    .await?;
            }
        }
        Ok(())
    }

    async fn monitor(&self, id: &str, order: &Value) -> Result<Value, String> {
        let said = self.virsh(&["qemu-monitor-command", id, &order.to_string()]).await?;
        let said: Value = serde_json::from_str(&said).map_err(|error| error.to_string())?;
        match said.get("error") {
            Some(error) => Err(error["desc"].as_str().unwrap_or("qemu refuses").to_owned()),
            None => Ok(said["return"].clone()),
        }
    }
}

/// Libvirt's name of the device with that target.
fn alias<'a>(xml: &'a str, target: &str) -> Option<&'a str> {
    let (_, after) = xml.split_once(&format!("<target dev='{target}'"))?;
    let (disk, _) = after.split_once("</disk>")?;
    disk.split_once("<alias name='")?.1.split_once('\'').map(|(alias, _)| alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_target() {
        let xml = "<disk><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>\
                   <disk><target dev='vdb'/></disk><interface><alias name='net0'/></interface>";
        assert_eq!(alias(xml, "vda"), Some("virtio-disk0"));
        assert_eq!(alias(xml, "vdb"), None, "the alias of what follows is not its own");
    }
}
