//! OVFs of other platforms, edited ones and hostile ones: what is read, what is cleaned, what is
//! refused, and that nothing secret is ever written.

use std::collections::HashMap;
use std::path::Path;

use ovirt_gateway::cloudstack::types::{AffinityGroup, Nic, Tag, VirtualMachine, Volume};
use ovirt_gateway::map::ovf::{self, Error, Ovf, OvfDisk};
use ovirt_gateway::model::BiosType;
use proptest::prelude::*;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ovf").join(name);
    std::fs::read_to_string(path).expect(name)
}

fn read(name: &str) -> Ovf {
    ovf::read(&file(name)).expect(name)
}

/// What counts of disks: id, bytes, whether it boots.
fn disks(ovf: &Ovf) -> Vec<(&str, Option<u64>, bool)> {
    ovf.disks.iter().map(|disk| (disk.id.as_str(), disk.size, disk.boot)).collect()
}

fn nics(ovf: &Ovf) -> Vec<(Option<&str>, Option<&str>)> {
    ovf.nics.iter().map(|nic| (nic.mac.as_deref(), nic.network.as_deref())).collect()
}

/// Name, processors, MiB, firmware.
fn body(ovf: &Ovf) -> (Option<&str>, Option<u32>, Option<u64>, Option<BiosType>) {
    (ovf.name.as_deref(), ovf.cpus, ovf.memory_mib, ovf.bios)
}

#[test]
fn a_machine_of_vcenter() {
    let ovf = read("vcenter.ovf");
    assert_eq!(body(&ovf), (Some("ERP & more"), Some(4), Some(6144), Some(BiosType::Q35SecureBoot)));
    assert_eq!(ovf.os.as_deref(), Some("Microsoft Windows Server 2019 (64-bit)"));
    assert_eq!(ovf.id, None, "the number of a guest system is no machine's id");
    // the first on the controller boots, wherever it stands; a compressed file's size is no disk's
    assert_eq!(disks(&ovf), [("vmdisk1", Some(40 << 30), true), ("vmdisk2", Some(3_758_096_384), false)]);
    let cards =
        [(Some("00:50:56:a1:0b:01"), Some("VM Network")), (Some("00:50:56:a1:0b:02"), Some("dvPG 20"))];
    assert_eq!(nics(&ovf), cards);
    assert_eq!(ovf.cloudstack, None);
    let plain = file("vcenter.ovf").replace("vmw:value=\"true\"", "vmw:value=\"false\"");
    assert_eq!(ovf::read(&plain).expect("reads").bios, Some(BiosType::Q35Ovmf));
}

#[test]
fn a_machine_of_hyper_v() {
    let ovf = read("hyperv.ovf");
    assert_eq!(body(&ovf), (Some("fs01"), Some(2), Some(4096), Some(BiosType::Q35Ovmf)));
    assert_eq!(disks(&ovf), [("disk0", Some(136_365_211_648), true)]);
    assert_eq!(nics(&ovf), [(Some("00:15:5d:4a:1b:02"), Some("External Switch"))]);
    let first = file("hyperv.ovf").replace("SubType:2", "SubType:1");
    assert_eq!(ovf::read(&first).expect("reads").bios, Some(BiosType::I440fxSeaBios));
}

#[test]
fn a_machine_of_ovirt() {
    let ovf = read("ovirt.ovf");
    assert_eq!(body(&ovf), (Some("db"), Some(4), Some(2048), Some(BiosType::Q35SecureBoot)));
    assert_eq!(ovf.id.as_deref(), Some("3e0fd5de-1f25-4a54-8a7b-0b8c8b6f1a01"));
    assert_eq!(ovf.os.as_deref(), Some("rhel_9x64"));
    // exact beside the file if that is the disk's size; else the whole GiB beside the disk
    let rows = [
        ("5f1c6d1e-7d0a-4f8b-93d5-0a6a4d0e1101", Some(10_737_418_752), true),
        ("5f1c6d1e-7d0a-4f8b-93d5-0a6a4d0e1102", Some(5 << 30), false),
    ];
    assert_eq!(disks(&ovf), rows);
    assert_eq!(ovf.disks[0].alias.as_deref(), Some("db_Disk1"));
    assert_eq!(nics(&ovf), [(Some("56:6f:1a:2b:00:05"), Some("ovirtmgmt"))]);
    for (number, bios) in [
        ("1", Some(BiosType::I440fxSeaBios)),
        ("2", Some(BiosType::Q35SeaBios)),
        ("3", Some(BiosType::Q35Ovmf)),
        ("0", None),
    ] {
        let text = file("ovirt.ovf").replace("<BiosType>4", &format!("<BiosType>{number}"));
        assert_eq!(ovf::read(&text).expect("reads").bios, bios, "{number}");
    }
}

#[test]
fn texts_of_other_gateways_keep_their_owner_and_offering() {
    let python = read("gateway-python.ovf");
    let own = python.cloudstack.as_ref().expect("an owner");
    assert_eq!(body(&python), (Some("kept"), None, Some(512), None));
    assert_eq!(own.account.as_deref(), Some("alice"));
    assert_eq!(own.domain_id.as_deref(), Some("0f1e2d3c-0000-4000-8000-000000000001"));
    assert_eq!(own.project_id.as_deref(), Some("0f1e2d3c-0000-4000-8000-000000000003"));
    let own = read("cloudstack-native.ovf").cloudstack.expect("fields");
    assert_eq!(own.service_offering_id.as_deref(), Some("0f1e2d3c-0000-4000-8000-000000000004"));
    assert_eq!(own.user_data_id.as_deref(), Some("0f1e2d3c-0000-4000-8000-000000000005"));
    assert_eq!(own.affinity_groups[0].id.as_deref(), Some("0f1e2d3c-0000-4000-8000-000000000006"));
    assert_eq!(own.details.into_iter().collect::<Vec<_>>(), [("rootDiskController".into(), "virtio".into())]);
}

/// An instance with everything, and secrets where CloudStack keeps them.
fn instance() -> (VirtualMachine, Vec<Volume>) {
    let nic = |device: u32, ip: &str| Nic {
        networkid: Some(format!("0f1e2d3c-0000-4000-8000-00000000001{device}")),
        networkname: Some(format!("net {device}")),
        macaddress: Some(format!("02:01:00:cd:00:0{device}")),
        ipaddress: Some(ip.into()),
        isdefault: device == 1,
        deviceid: Some(device),
        ..Nic::default()
    };
    let tag = |key: &str, value: &str| Tag { key: key.into(), value: value.into(), ..Tag::default() };
    let secrets = [
        ("password", CANARY),
        ("Encrypted.Password", CANARY),
        ("vncPassword", CANARY),
        ("VNC.Password", CANARY),
        ("SSH.PublicKey", CANARY),
        ("SSH.KeyPairNames", CANARY),
        ("extraconfig-1", CANARY),
        ("userdata", CANARY),
        ("nicAdapter", "e1000"),
    ];
    let vm = VirtualMachine {
        id: "0f1e2d3c-0000-4000-8000-000000000020".into(),
        name: "web".into(),
        displayname: Some("Web <server>".into()),
        account: Some("alice".into()),
        domainid: Some("0f1e2d3c-0000-4000-8000-000000000001".into()),
        domainpath: Some("ROOT/acme".into()),
        zoneid: "0f1e2d3c-0000-4000-8000-000000000021".into(),
        serviceofferingid: Some("0f1e2d3c-0000-4000-8000-000000000004".into()),
        serviceofferingname: Some("Custom".into()),
        cpunumber: Some(3),
        cpuspeed: Some(700),
        memory: Some(700),
        nic: vec![nic(1, "10.1.1.2"), nic(0, "10.1.1.1")],
        affinitygroup: vec![AffinityGroup {
            id: "a1".into(),
            name: "apart".into(),
            ..AffinityGroup::default()
        }],
        tags: vec![tag("backup", "daily"), tag("note", "a & b")],
        details: secrets.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        userdataid: Some("0f1e2d3c-0000-4000-8000-000000000005".into()),
        ..VirtualMachine::default()
    };
    let volume = |id: &str, device: u32| Volume {
        id: id.into(),
        name: format!("vol {id}"),
        deviceid: Some(device),
        size: Some(u64::from(device + 1) << 30),
        ..Volume::default()
    };
    (vm, vec![volume("v4", 4), volume("v0", 0), volume("v1", 1)])
}

fn written() -> String {
    let (vm, volumes) = instance();
    let exact = HashMap::from([("v1".to_owned(), 1_073_742_336)]);
    ovf::write(&ovf::describe(&vm, &volumes.iter().collect::<Vec<_>>(), &exact)).expect("writes")
}

#[test]
fn no_secret_is_written() {
    let text = written();
    assert!(!text.contains(CANARY), "{text}");
    for word in ["password", "ssh", "extraconfig", "keypair"] {
        assert!(!text.to_lowercase().contains(word), "{word}: {text}");
    }
    assert!(text.contains("nicAdapter") && text.contains("UserDataId"));
    // nor read: what is not let out is not let in
    let planted = text.replace("nicAdapter", "extraconfig-1");
    assert_eq!(ovf::read(&planted).expect("reads").cloudstack.expect("ours").details.len(), 0);
}

#[test]
fn order_and_devices_survive_reordering() {
    let text = written();
    let ours = ovf::read(&text).expect("reads");
    let devices =
        |ovf: &Ovf| ovf.disks.iter().map(|d: &OvfDisk| (d.id.clone(), d.device)).collect::<Vec<_>>();
    assert_eq!(devices(&ours), [("v0".into(), Some(0)), ("v1".into(), Some(1)), ("v4".into(), Some(4))]);
    assert_eq!(
        disks(&ours),
        [("v0", Some(1 << 30), true), ("v1", Some(1_073_742_336), false), ("v4", Some(5 << 30), false)]
    );
    // sections, rows and items the other way round
    let reordered = reversed(&text, "<Disk ovf:", "</Disk>");
    let reordered = reversed(&reordered, "<Item>", "</Item>");
    let reordered = reversed(&reordered, "<Nic ", "</Nic>");
    assert_ne!(reordered, text);
    let read = ovf::read(&reordered).expect("reads");
    assert_eq!((devices(&read), read.cpus, &read.cloudstack), (devices(&ours), ours.cpus, &ours.cloudstack));
    let cards: Vec<_> = read.nics.iter().rev().collect();
    assert_eq!(cards, ours.nics.iter().collect::<Vec<_>>());
}

/// The text with these elements in the opposite order, each run of them in its place.
fn reversed(text: &str, open: &str, close: &str) -> String {
    let Some(start) = text.find(open) else { return text.to_owned() };
    let mut parts = Vec::new();
    let mut rest = &text[start..];
    while rest.starts_with(open) {
        let (part, after) = rest.split_at(rest.find(close).expect("closed") + close.len());
        parts.push(part);
        rest = after;
    }
    parts.reverse();
    format!("{}{}{rest}", &text[..start], parts.concat())
}

#[test]
fn what_was_edited_counts() {
    let text = written();
    let ours = ovf::read(&text).expect("reads");
    let edited = text
        .replace("<Name>web</Name>", "<Name>web2</Name>")
        .replace("<rasd:VirtualQuantity>3<", "<rasd:VirtualQuantity>8<")
        .replace("<rasd:MACAddress>02:01:00:cd:00:01<", "<rasd:MACAddress>02:01:00:cd:00:99<");
    let read = ovf::read(&edited).expect("reads");
    assert_eq!((read.name.as_deref(), read.cpus), (Some("web2"), Some(8)));
    // a card that was changed is none that our section knows; the other one is
    assert_eq!((read.nics[1].mac.as_deref(), read.nics[1].ip.as_deref()), (Some("02:01:00:cd:00:99"), None));
    assert_eq!(read.nics[0], ours.nics[0]);
    let start = text.find("<Section xsi:type=\"ovf:CloudStackMetadata_Type\">").expect("ours");
    let end = start + text[start..].find("</Section>").expect("closed") + "</Section>".len();
    let without = ovf::read(&format!("{}{}", &text[..start], &text[end..])).expect("reads");
    assert_eq!((without.cloudstack, without.cpus, without.nics.len()), (None, Some(3), 2));
    for part in ["References", "NetworkSection"] {
        let start = text.find(&format!("<{part}>")).expect("there");
        let close = format!("</{part}>");
        let end = text.find(&close).expect("closed") + close.len();
        let read = ovf::read(&format!("{}{}", &text[..start], &text[end..])).expect("reads");
        assert_eq!((read.disks.len(), read.nics.len(), &read.cloudstack), (3, 2, &ours.cloudstack), "{part}");
    }
}

/// A machine with these fields and items, in oVirt's form.
fn machine(fields: &str, items: &str) -> String {
    format!(
        "<Envelope><Content>{fields}<Section type=\"x:VirtualHardwareSection_Type\">{items}</Section></Content></Envelope>"
    )
}

fn item(kind: u8, quantity: &str) -> String {
    format!("<Item><ResourceType>{kind}</ResourceType><VirtualQuantity>{quantity}</VirtualQuantity></Item>")
}

#[test]
fn hostile_texts_are_refused() {
    let laughs = "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;\">]><Envelope>&b;</Envelope>";
    let external = "<!DOCTYPE l [<!ENTITY a SYSTEM \"file:///etc/passwd\">]><Envelope>&a;</Envelope>";
    for text in [laughs, external, "<!DOCTYPE Envelope SYSTEM \"http://127.0.0.1/x.dtd\"><Envelope/>"] {
        assert!(matches!(ovf::read(text), Err(Error::Doctype)));
    }
    let refused = |text: &str| ovf::read(text).expect_err(&text[..text.len().min(80)]).to_string();
    assert!(refused("<Envelope>&lol;</Envelope>").contains("entity"));
    assert!(refused(&"<Envelope>".repeat(40)).contains("deeper"));
    assert!(refused(&format!("<Envelope>{}", "<a>".repeat(31).repeat(3))).contains("deeper"));
    assert!(refused(&format!("<Envelope>{}</Envelope>", "<b/>".repeat(120_000))).contains("longer"));
    assert!(refused(&format!("<Envelope>{}</Envelope>", "a".repeat(1 << 20))).contains("longer"));
    let attributes: String = (0..20_000).map(|n| format!(" a{n}=\"\"")).collect();
    assert!(refused(&format!("<Envelope{attributes}/>")).contains("longer"));
    assert!(refused("<html><body/></html>").contains("Envelope"));
    for text in
        ["", "   ", "{}", "<Envelope", "<Envelope><Content></Envelope>", "<Envelope a=\"1\" a=\"2\"/>"]
    {
        refused(text);
    }
    for (kind, quantity) in [
        (3, "4294967295"),
        (3, "18446744073709551616"),
        (4, "9223372036854775808"),
        (4, "99999999999999999999999999"),
    ] {
        assert!(
            refused(&machine("", &item(kind, quantity))).contains("no machine has so much"),
            "{kind} {quantity}"
        );
    }
}

#[test]
fn hostile_values_are_cleaned() {
    for (kind, quantity) in
        [(3, "-1"), (3, "1e30"), (3, "0"), (3, "NaN"), (4, "-1"), (4, "1e30"), (4, "0"), (4, "")]
    {
        let ovf = ovf::read(&machine("", &item(kind, quantity))).expect("reads");
        assert_eq!((ovf.cpus, ovf.memory_mib), (None, None), "{kind} {quantity}");
    }
    // of what is there twice the first counts
    let twice = format!("{}{}", item(3, "2"), item(3, "64"));
    let text = machine("<Name>first</Name><Name>second</Name>", &twice)
        .replace("</Envelope>", "<Content><Name>third</Name></Content></Envelope>");
    let ovf = ovf::read(&text).expect("reads");
    assert_eq!((ovf.name.as_deref(), ovf.cpus), (Some("first"), Some(2)));
    let long = "y".repeat(900_000);
    let name = format!("<Name>&#1;<![CDATA[<script>alert(1)</script>]]>&#x202e;\u{7f}&#10;{long}</Name>");
    let name = ovf::read(&machine(&name, "")).expect("reads").name.expect("a name");
    assert!(name.starts_with("<script>alert(1)</script>") && name.chars().count() == 255);
    assert!(!name.chars().any(char::is_control));
    for size in ["-1", "1e30", "18446744073709551615", "99999999999999999999999", ""] {
        let text = format!(
            "<Envelope><Section type=\"ovf:DiskSection_Type\"><Disk diskId=\"../../etc/passwd\" size=\"{size}\"/></Section><DiskSection><Disk diskId=\"x\" capacity=\"{size}\" capacityAllocationUnits=\"byte * 2^63\"/></DiskSection></Envelope>"
        );
        let ovf = ovf::read(&text).expect("reads");
        assert_eq!(disks(&ovf), [("etcpasswd", None, true), ("x", None, false)], "{size}");
    }
}

#[test]
fn hostile_ids_and_addresses_are_left_out() {
    let text = machine(
        "<Section xmlns:e=\"urn:evil\" e:type=\"e:CloudStackMetadata_Type\">
         <Account>a\u{0}lice</Account><DomainId>../../1</DomainId><ProjectId>-1,x</ProjectId>
         <ServiceOfferingId>a&amp;command=destroyVirtualMachine</ServiceOfferingId><OsTypeId>%2e%2e</OsTypeId>
         <UserDataId>' OR 1=1</UserDataId><CpuSpeed>99999999999</CpuSpeed>
         <Nic mac=\"02:01:00:cd:00:03\" networkId=\"a/b\" ip=\"10.0.0.1;id\" ip6=\"::/0\" default=\"yes\"/>
         <AffinityGroup id=\"a,b\" name=\"\"/><Tag key=\"\" value=\"x\"/><Tag key=\"k\"/>
         <Detail key=\"extraconfig\" value=\"x\"/></Section>",
        "<evil:Item xmlns:evil=\"urn:evil\"><evil:ResourceType>10</evil:ResourceType><evil:MACAddress>02:01:00:cd:00:03</evil:MACAddress></evil:Item>",
    );
    let ovf = ovf::read(&text).expect("reads");
    let own = ovf.cloudstack.expect("ours");
    assert_eq!(own.account.as_deref(), Some("alice"));
    let ids = [own.domain_id, own.project_id, own.service_offering_id, own.os_type_id, own.user_data_id];
    assert!(ids.iter().all(Option::is_none), "{ids:?}");
    assert_eq!((own.cpu_speed, own.affinity_groups.len(), own.details.len()), (None, 0, 0));
    assert_eq!(own.tags, [("k".to_owned(), String::new())]);
    let nic = &ovf.nics[0];
    assert_eq!(
        (nic.mac.as_deref(), &nic.network_id, &nic.ip, &nic.ip6, nic.default),
        (Some("02:01:00:cd:00:03"), &None, &None, &None, false)
    );
}

#[test]
fn many_of_everything_is_read_in_no_time() {
    let items =
        "<Item><ResourceType>10</ResourceType><MACAddress>020100cd0003</MACAddress></Item>".repeat(9_000);
    let own = format!(
        "<Section type=\"ovf:CloudStackMetadata_Type\">{}{}</Section>",
        "<Tag key=\"k\"/>".repeat(5_000),
        "<Nic mac=\"020100cd0003\"/>".repeat(2_000)
    );
    let started = std::time::Instant::now();
    let ovf = ovf::read(&machine(&own, &items)).expect("reads");
    assert_eq!((ovf.nics.len(), ovf.cloudstack.expect("ours").tags.len()), (32, 50));
    assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever becomes of a good text: it is refused, or what is read can be written, and reads the same.
    #[test]
    fn a_mutated_text_is_refused_or_harmless(
        which in 0..3_usize,
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..60_usize, "[<>/&;a-z0-9\"'=: \u{1}-\u{9}é\u{fffe}]{0,12}"), 0..6),
    ) {
        let mut text: Vec<char> = match which {
            0 => written(),
            1 => file("vcenter.ovf"),
            _ => file("ovirt.ovf"),
        }.chars().collect();
        for (at, length, put) in cuts {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Ok(first) = ovf::read(&text) {
            let again = ovf::read(&ovf::write(&first).expect("writes")).expect("what is written reads");
            let twice = ovf::read(&ovf::write(&again).expect("writes")).expect("what is written reads");
            prop_assert_eq!(&again, &twice);
            prop_assert_eq!(&again.cloudstack, &first.cloudstack.filter(|own| *own != Default::default()).or(again.cloudstack.clone()));
        }
    }
}

const CANARY: &str = "canary-4711-hunter2";
