//! The OVF text in `initialization.configuration.data`: written when a client reads an instance,
//! read when the same client restores one. The standard part is what oVirt's engine writes; a
//! section of our own keeps what CloudStack needs besides. Holds no secrets, since clients log it, but for
//! what a TPM remembers, where there is one.
//!
//! What is read comes from strangers: ids, addresses, numbers and texts are cleaned or refused here.

mod clean;
mod describe;
mod disks;
mod hardware;
mod machine;
mod own;
mod read;
mod tree;
mod write;

use std::collections::BTreeMap;

use crate::model::BiosType;

pub use describe::describe;
pub use read::read;
pub use tree::Error;
pub use write::write;

/// A machine as its OVF tells it. Everything may be missing when another platform wrote it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ovf {
    pub id: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    /// As oVirt writes it, `2026/01/05 10:11:12`.
    pub created: Option<String>,
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub bios: Option<BiosType>,
    /// The guest system: in oVirt's words in ours and oVirt's, in the platform's in others.
    pub os: Option<String>,
    /// In the order of their devices, as far as the text tells.
    pub disks: Vec<OvfDisk>,
    pub nics: Vec<OvfNic>,
    /// Our own section; `None` in foreign texts.
    pub cloudstack: Option<CloudStack>,
    /// What its firmware remembers, where somebody asked for it.
    pub firmware: Option<Firmware>,
}

/// Files of the firmware, packed and in base64, as the host gave them. Secret: a TPM has keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Firmware {
    /// The UEFI variables.
    pub nvram: Option<String>,
    /// Names and contents.
    pub tpm: Vec<(String, String)>,
    /// By which its gateway knows it again.
    pub seal: String,
}

impl std::fmt::Debug for Firmware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Firmware")
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct OvfDisk {
    pub id: String,
    pub alias: Option<String>,
    /// Exact in our own texts, whole units in some others.
    pub size: Option<u64>,
    pub boot: bool,
    /// Where it sat, which our own section tells.
    pub device: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct OvfNic {
    pub name: Option<String>,
    /// Six pairs with colons, in lower case.
    pub mac: Option<String>,
    /// The network's name.
    pub network: Option<String>,
    pub network_id: Option<String>,
    pub ip: Option<String>,
    pub ip6: Option<String>,
    pub default: bool,
}

/// What only CloudStack knows of an instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CloudStack {
    pub account: Option<String>,
    pub domain_id: Option<String>,
    /// `ROOT/acme`.
    pub domain: Option<String>,
    pub project_id: Option<String>,
    pub project: Option<String>,
    pub zone_id: Option<String>,
    pub service_offering_id: Option<String>,
    pub service_offering: Option<String>,
    /// MHz, for offerings that leave it open.
    pub cpu_speed: Option<u32>,
    pub template_id: Option<String>,
    pub os_type_id: Option<String>,
    /// CloudStack's name of the guest system.
    pub os_type: Option<String>,
    pub display_name: Option<String>,
    /// Where the user data is kept, never what it says.
    pub user_data_id: Option<String>,
    pub affinity_groups: Vec<Group>,
    pub tags: Vec<(String, String)>,
    /// Only those of [`KEPT_DETAILS`].
    pub details: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Group {
    pub id: Option<String>,
    pub name: Option<String>,
}

/// The details of an instance that its guest sees. All others stay out, in both directions: there are
/// passwords and hypervisor configuration among them.
pub const KEPT_DETAILS: &[&str] = &[
    "rootDiskController",
    "dataDiskController",
    "nicAdapter",
    "keyboard",
    "video.hardware",
    "video.ram",
    "cpu.corespersocket",
    "virtual.tpm.model",
    "virtual.tpm.version",
];

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
        let text = |text: &str| Some(text.to_owned());
        let disk = |id: &str, size, boot, device| OvfDisk {
            id: id.into(),
            alias: text(&format!("alias of {id}")),
            size: Some(size),
            boot,
            device: Some(device),
        };
        Ovf {
            id: text("8ae51722-bc0a-4df0-8bc9-884d0331976e"),
            name: text("web & <1>"),
            description: text("Web server ä"),
            created: text("2026/01/05 10:11:12"),
            cpus: Some(2),
            memory_mib: Some(2048),
            bios: Some(BiosType::Q35SecureBoot),
            os: text("rhel_9x64"),
            disks: vec![
                disk("d1", 1_073_742_336, true, 0),
                disk("d3", 512, false, 2),
                disk("d2", 7 << 30, false, 4),
            ],
            nics: vec![
                OvfNic {
                    name: text("nic1"),
                    mac: text("02:01:00:cd:00:03"),
                    network: text("shared1"),
                    network_id: text("n1"),
                    ip: text("10.1.1.12"),
                    ip6: None,
                    default: false,
                },
                OvfNic {
                    name: text("nic2"),
                    mac: text("02:01:00:cd:00:04"),
                    network: text("two words \"quoted\""),
                    network_id: text("n2"),
                    ip: None,
                    ip6: text("fd00::12"),
                    default: true,
                },
            ],
            cloudstack: Some(CloudStack {
                account: text("alice"),
                domain_id: text("d-1"),
                domain: text("ROOT/acme"),
                project_id: text("p-1"),
                project: text("apollo"),
                zone_id: text("z-1"),
                service_offering_id: text("o1"),
                service_offering: text("Custom <big>"),
                cpu_speed: Some(2000),
                template_id: text("t-1"),
                os_type_id: text("os-1"),
                os_type: text("Rocky Linux 9"),
                display_name: text("Web server ä"),
                user_data_id: text("u-1"),
                affinity_groups: vec![Group { id: text("a-1"), name: text("apart") }],
                tags: vec![("backup".into(), "daily ä & <x>".into()), ("empty".into(), String::new())],
                details: [("nicAdapter".to_owned(), "virtio".to_owned())].into(),
            }),
            firmware: Some(Firmware {
                nvram: text("H4sI+/=="),
                tpm: vec![("tpm2/tpm2-00.permall".into(), "AAAA".into())],
                seal: "c2VhbA==".into(),
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
        assert!(matches!(read("<a/>"), Err(Error::Root)));
        assert!(matches!(read("<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"), Err(Error::Doctype)));
        assert!(matches!(read(&"<a>".repeat(100)), Err(Error::Depth)));
        assert!(matches!(read(&format!("<a>{}</a>", "<b/>".repeat(200_000))), Err(Error::Size)));
        assert!(matches!(read("<a>&x;</a>"), Err(Error::Entity)));
        assert!(read("<a><b></a>").is_err());
        assert!(matches!(read("<a>"), Err(Error::Cut)));
        assert!(matches!(read(""), Err(Error::Cut)));
    }
}
