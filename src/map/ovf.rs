//! The OVF text in `initialization.configuration.data`: written when a client reads an instance,
//! read when the same client restores one. The standard part is what oVirt's engine writes; a
//! section of our own keeps what CloudStack needs besides. Holds no secrets: clients log it.

mod describe;
mod read;
mod write;

use crate::model::BiosType;

pub use describe::describe;
pub use read::{Error, read};
pub use write::write;

/// A machine as its OVF tells it. Everything may be missing when another platform wrote it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ovf {
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub bios: Option<BiosType>,
    /// The guest system, in oVirt's words.
    pub os: Option<String>,
    pub disks: Vec<OvfDisk>,
    pub nics: Vec<OvfNic>,
    /// Our own section; `None` in foreign texts.
    pub cloudstack: Option<CloudStack>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct OvfDisk {
    pub id: String,
    pub alias: Option<String>,
    /// Exact in our own texts, whole GiB in others'.
    pub size: Option<u64>,
    pub boot: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct OvfNic {
    pub name: Option<String>,
    pub mac: Option<String>,
    /// The network's name.
    pub network: Option<String>,
    pub network_id: Option<String>,
}

/// What only CloudStack knows of an instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloudStack {
    pub account: Option<String>,
    pub domain_id: Option<String>,
    pub project_id: Option<String>,
    pub zone_id: Option<String>,
    pub service_offering_id: Option<String>,
    pub template_id: Option<String>,
    pub os_type_id: Option<String>,
    pub display_name: Option<String>,
}

/// oVirt's numbers of the boards; the words are the API's.
const BIOS_NUMBERS: &[(&str, BiosType)] = &[
    ("1", BiosType::I440fxSeaBios),
    ("2", BiosType::Q35SeaBios),
    ("3", BiosType::Q35Ovmf),
    ("4", BiosType::Q35SecureBoot),
];

const GIB: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Ovf {
        Ovf {
            id: Some("8ae51722-bc0a-4df0-8bc9-884d0331976e".into()),
            name: Some("web & <1>".into()),
            description: Some("Web server ä".into()),
            cpus: Some(2),
            memory_mib: Some(2048),
            bios: Some(BiosType::Q35SecureBoot),
            os: Some("rhel_9x64".into()),
            disks: vec![OvfDisk {
                id: "d1".into(),
                alias: Some("ROOT-5".into()),
                size: Some(1_073_742_336),
                boot: true,
            }],
            nics: vec![OvfNic {
                name: Some("nic1".into()),
                mac: Some("02:01:00:cd:00:03".into()),
                network: Some("shared1".into()),
                network_id: Some("n1".into()),
            }],
            cloudstack: Some(CloudStack {
                account: Some("alice".into()),
                service_offering_id: Some("o1".into()),
                ..CloudStack::default()
            }),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let ovf = sample();
        let text = write(&ovf).expect("writes");
        assert_eq!(read(&text).expect("reads"), ovf, "{text}");
    }

    #[test]
    fn a_foreign_text_lacks_our_section() {
        let text = write(&Ovf { cloudstack: None, ..sample() }).expect("writes");
        assert!(!text.contains("CloudStackMetadata_Type"));
        assert_eq!(read(&text).expect("reads").cloudstack, None);
        let bare = r#"<Envelope><Content><Name>x</Name><Section><Item>
            <rasd:ResourceType xmlns:rasd="r">4</rasd:ResourceType>
            <rasd:AllocationUnits xmlns:rasd="r">byte * 2^30</rasd:AllocationUnits>
            <rasd:VirtualQuantity xmlns:rasd="r">2</rasd:VirtualQuantity></Item></Section></Content></Envelope>"#;
        let ovf = read(bare).expect("reads");
        assert_eq!((ovf.name.as_deref(), ovf.memory_mib, ovf.cpus), (Some("x"), Some(2048), None));
    }

    #[test]
    fn hostile_texts_are_refused() {
        assert!(matches!(read("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), Err(Error::Doctype)));
        assert!(matches!(read(&"<a>".repeat(100)), Err(Error::Depth)));
        assert!(matches!(read(&format!("<a>{}</a>", "<b/>".repeat(200_000))), Err(Error::Size)));
        assert!(matches!(read("<a>&x;</a>"), Err(Error::Entity)));
        assert!(read("<a><b></a>").is_err());
        assert!(matches!(read("<a>"), Err(Error::Cut)));
        assert!(matches!(read(""), Err(Error::Cut)));
    }
}
