//! Libvirt's XML as far as backups need it: the disks of a domain, and the orders for a backup job and a
//! checkpoint.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::Error;

/// A disk of a live domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    pub target: String,
    pub serial: Option<String>,
    pub source: Option<PathBuf>,
    pub format: Option<String>,
    /// Qemu's number for the active layer: another one for whatever is attached or snapshotted later.
    pub index: Option<String>,
}

/// One disk of a backup order; without scratch it is left out of the job.
#[derive(Debug, Clone)]
pub struct Chosen {
    pub target: String,
    pub scratch: Option<PathBuf>,
    /// The checkpoint since which the export tells the changes.
    pub base: Option<String>,
}

/// A checkpoint as libvirt is told of it: its name is its bitmap's name on each of these disks.
#[derive(Debug, Clone)]
pub struct Checkpoint<'a> {
    pub name: &'a str,
    /// Seconds since 1970; libvirt wants it for a checkpoint that exists.
    pub created: Option<i64>,
    /// Targets, and whether the disk has the bitmap.
    pub disks: Vec<(&'a str, bool)>,
}

/// The disks of a domain's XML; what lies in a `backingStore` or `mirror` is not theirs.
pub fn disks(xml: &str) -> Result<Vec<Disk>, Error> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    let mut disks = Vec::new();
    let mut disk = Disk::default();
    loop {
        match reader.read_event().map_err(unreadable)? {
            Event::Start(element) => {
                path.push(element.name().as_ref().to_string());
                see(&path, &element, &mut disk)?;
            }
            Event::Empty(element) => {
                path.push(element.name().as_ref().to_string());
                see(&path, &element, &mut disk)?;
                path.pop();
            }
            Event::Text(text) if below_disk(&path) == Some("serial") => {
                disk.serial = Some(text.trim().to_owned());
            }
            Event::End(_) => {
                if path.len() == 3 && path[1] == "devices" && path[2] == "disk" {
                    disks.push(std::mem::take(&mut disk));
                }
                path.pop();
            }
            Event::Eof => return Ok(disks),
            _ => {}
        }
    }
}

/// The file with a domain's UEFI variables.
pub fn nvram(xml: &str) -> Result<Option<PathBuf>, Error> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    loop {
        match reader.read_event().map_err(unreadable)? {
            Event::Start(element) => path.push(element.name().as_ref().to_string()),
            Event::Text(text) if path.len() == 3 && path[1] == "os" && path[2] == "nvram" => {
                return Ok(Some(PathBuf::from(text.trim().to_owned())).filter(|path| path.is_absolute()));
            }
            Event::End(_) => drop(path.pop()),
            Event::Eof => return Ok(None),
            _ => {}
        }
    }
}

/// The order for one job in pull mode, served on a unix socket; each export is named by its target.
pub fn backup(socket: &Path, disks: &[Chosen]) -> String {
    let mut xml = String::from("<domainbackup mode='pull'>\n");
    let _ = writeln!(xml, "<server transport='unix' socket='{}'/>\n<disks>", escaped(socket));
    for disk in disks {
        let target = quick_xml::escape::escape(&disk.target);
        let mode = match &disk.base {
            None => String::from("backupmode='full'"),
            Some(base) => {
                format!("backupmode='incremental' incremental='{}'", quick_xml::escape::escape(base))
            }
        };
        let _ = match &disk.scratch {
            None => writeln!(xml, "<disk name='{target}' backup='no'/>"),
            Some(file) => writeln!(
                xml,
                "<disk name='{target}' backup='yes' type='file' exportname='{target}' {mode}><driver type='qcow2'/><scratch file='{}'/></disk>",
                escaped(file)
            ),
        };
    }
    xml.push_str("</disks>\n</domainbackup>\n");
    xml
}

/// A checkpoint to make or to tell libvirt of again. It names no parent: each bitmap stands by itself.
pub fn checkpoint(checkpoint: &Checkpoint<'_>) -> String {
    let name = quick_xml::escape::escape(checkpoint.name);
    let mut xml = format!("<domaincheckpoint>\n<name>{name}</name>\n");
    if let Some(created) = checkpoint.created {
        let _ = writeln!(xml, "<creationTime>{created}</creationTime>");
    }
    xml.push_str("<disks>\n");
    for (target, bitmap) in &checkpoint.disks {
        let target = quick_xml::escape::escape(*target);
        let _ = match bitmap {
            true => writeln!(xml, "<disk name='{target}' checkpoint='bitmap' bitmap='{name}'/>"),
            false => writeln!(xml, "<disk name='{target}' checkpoint='no'/>"),
        };
    }
    xml.push_str("</disks>\n</domaincheckpoint>\n");
    xml
}

fn see(path: &[String], element: &BytesStart<'_>, disk: &mut Disk) -> Result<(), Error> {
    match below_disk(path) {
        Some("target") => disk.target = attribute(element, "dev")?.unwrap_or_default(),
        Some("source") => {
            disk.source = attribute(element, "file")?.map(PathBuf::from);
            disk.index = attribute(element, "index")?;
        }
        Some("driver") => disk.format = attribute(element, "type")?,
        _ => {}
    }
    Ok(())
}

fn below_disk(path: &[String]) -> Option<&str> {
    (path.len() == 4 && path[1] == "devices" && path[2] == "disk").then(|| path[3].as_str())
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, Error> {
    let Some(found) = element.try_get_attribute(name).map_err(unreadable)? else { return Ok(None) };
    Ok(Some(quick_xml::escape::unescape(&found.value).map_err(unreadable)?.into_owned()))
}

fn escaped(path: &Path) -> String {
    quick_xml::escape::escape(path.to_string_lossy().as_ref()).into_owned()
}

fn unreadable(error: impl std::fmt::Display) -> Error {
    Error::Unreadable { program: "virsh", why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_not_its_backing_file() {
        let xml = "<domain><devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>\
            <source file='/p/a&amp;b' index='3'/><backingStore type='file'><format type='raw'/><source file='/p/base'/></backingStore>\
            <target dev='vda' bus='virtio'/><serial>0123456789abcdef0123</serial></disk></devices></domain>";
        let disk = Disk {
            target: "vda".into(),
            serial: Some("0123456789abcdef0123".into()),
            source: Some("/p/a&b".into()),
            format: Some("qcow2".into()),
            index: Some("3".into()),
        };
        assert_eq!(disks(xml).expect("xml"), [disk]);
    }

    #[test]
    fn unchosen_disks_are_left_out_of_the_job() {
        let all = [
            Chosen { target: "vda".into(), scratch: Some("/s/1".into()), base: Some("c".into()) },
            Chosen { target: "vdb".into(), scratch: None, base: None },
        ];
        let xml = backup(Path::new("/r/x.sock"), &all);
        assert!(xml.contains("<disk name='vdb' backup='no'/>"), "{xml}");
        let chosen = "exportname='vda' backupmode='incremental' incremental='c'><driver type='qcow2'/>\
            <scratch file='/s/1'/>";
        assert!(xml.contains(chosen), "{xml}");
    }

    #[test]
    fn a_checkpoint_names_the_disks_that_have_no_bitmap_too() {
        let disks = vec![("vda", true), ("hdc", false)];
        let xml = checkpoint(&Checkpoint { name: "c", created: Some(5), disks });
        assert!(xml.contains("<creationTime>5</creationTime>"), "{xml}");
        assert!(xml.contains("<disk name='vda' checkpoint='bitmap' bitmap='c'/>"), "{xml}");
        assert!(xml.contains("<disk name='hdc' checkpoint='no'/>"), "{xml}");
    }
}
