//! The machine itself in the structure of oVirt's engine: its fields, its system, its devices.

use super::write::Out;
use super::{BIOS_NUMBERS, Ovf, OvfDisk, OvfNic, own};
use crate::map::ids;

pub(super) fn write(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.maybe("Name", ovf.name.as_deref())?;
    out.maybe("Description", ovf.description.as_deref())?;
    out.text("Comment", "")?;
    out.maybe("CreationDate", ovf.created.as_deref())?;
    for (tag, value) in FIXED {
        out.text(tag, value)?;
    }
    if let Some(memory) = ovf.memory_mib {
        out.text("MinAllocatedMem", &memory.to_string())?;
        out.text("MaxMemorySizeMb", &memory.to_string())?;
    }
    let number = BIOS_NUMBERS.iter().find(|(_, bios)| Some(*bios) == ovf.bios).map(|(number, _)| *number);
    out.maybe("BiosType", number)?;
    let own = ovf.cloudstack.as_ref();
    let template = own.and_then(|own| own.template_id.as_deref()).unwrap_or(ids::ZERO);
    out.text("TemplateId", template)?;
    out.text("OriginalTemplateId", template)?;
    let id = ovf.id.as_deref().unwrap_or_default();
    out.within("Section", &[("ovf:id", id), ("xsi:type", "ovf:OperatingSystemSection_Type")], |out| {
        out.text("Info", "Guest Operating System")?;
        out.maybe("Description", ovf.os.as_deref())
    })?;
    out.within("Section", &[("xsi:type", "ovf:VirtualHardwareSection_Type")], |out| hardware(out, ovf))?;
    snapshots(out, ovf)?;
    own.map_or(Ok(()), |section| own::write(out, section, ovf))
}

fn hardware(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.text("Info", "Virtual hardware")?;
    out.within("System", &[], |out| out.text("vssd:VirtualSystemType", "ENGINE 4.4.0.0"))?;
    if let Some(cpus) = ovf.cpus {
        let count = cpus.to_string();
        out.item(&[
            ("rasd:Caption", &format!("{cpus} virtual cpu")),
            ("rasd:Description", "Number of virtual CPU"),
            ("rasd:InstanceId", "1"),
            ("rasd:ResourceType", "3"),
            ("rasd:num_of_sockets", &count),
            ("rasd:cpu_per_socket", "1"),
            ("rasd:threads_per_cpu", "1"),
            ("rasd:max_num_of_vcpus", &count),
            ("rasd:VirtualQuantity", &count),
        ])?;
    }
    if let Some(memory) = ovf.memory_mib {
        out.item(&[
            ("rasd:Caption", &format!("{memory} MB of memory")),
            ("rasd:Description", "Memory Size"),
            ("rasd:InstanceId", "2"),
            ("rasd:ResourceType", "4"),
            ("rasd:AllocationUnits", "MegaBytes"),
            ("rasd:VirtualQuantity", &memory.to_string()),
        ])?;
    }
    for disk in &ovf.disks {
        disk_item(out, disk)?;
    }
    for (number, nic) in ovf.nics.iter().enumerate() {
        nic_item(out, nic, number)?;
    }
    DEVICES.iter().try_for_each(|device| out.item(device))
}

/// The one state that it is in, which oVirt lists among its snapshots.
fn snapshots(out: &mut Out, ovf: &Ovf) -> std::io::Result<()> {
    out.within("Section", &[("xsi:type", "ovf:SnapshotsSection_Type")], |out| {
        let id = ids::active_snapshot(ovf.id.as_deref().unwrap_or_default());
        out.within("Snapshot", &[("ovf:id", &id)], |out| {
            out.text("Type", "ACTIVE")?;
            out.text("Description", "Active VM")?;
            out.maybe("CreationDate", ovf.created.as_deref())
        })
    })
}

fn disk_item(out: &mut Out, disk: &OvfDisk) -> std::io::Result<()> {
    out.item(&[
        ("rasd:Caption", disk.alias.as_deref().unwrap_or_default()),
        ("rasd:InstanceId", &disk.id),
        ("rasd:ResourceType", "17"),
        ("rasd:HostResource", &format!("{0}/{0}", disk.id)),
        ("rasd:Parent", "00000000-0000-0000-0000-000000000000"),
        ("rasd:Template", "00000000-0000-0000-0000-000000000000"),
        ("Type", "disk"),
        ("Device", "disk"),
        ("BootOrder", if disk.boot { "1" } else { "0" }),
        ("IsPlugged", "true"),
        ("IsReadOnly", "false"),
    ])
}

fn nic_item(out: &mut Out, nic: &OvfNic, number: usize) -> std::io::Result<()> {
    let name = nic.name.as_deref().unwrap_or_default();
    out.item(&[
        ("rasd:Caption", "Ethernet adapter"),
        ("rasd:InstanceId", &format!("nic-{}", number + 1)),
        ("rasd:ResourceType", "10"),
        ("rasd:ResourceSubType", "3"),
        ("rasd:Connection", nic.network.as_deref().unwrap_or_default()),
        ("rasd:Linked", "true"),
        ("rasd:Name", name),
        ("rasd:ElementName", name),
        ("rasd:MACAddress", nic.mac.as_deref().unwrap_or_default()),
        ("rasd:speed", "10000"),
        ("Type", "interface"),
        ("Device", "bridge"),
        ("IsPlugged", "true"),
    ])
}

/// What is the same for every instance.
const FIXED: &[(&str, &str)] = &[
    ("DeleteProtected", "false"),
    ("SsoMethod", "none"),
    ("IsSmartcardEnabled", "false"),
    ("NumOfIoThreads", "0"),
    ("TimeZone", "Etc/GMT"),
    ("default_boot_sequence", "0"),
    ("Generation", "1"),
    ("ClusterCompatibilityVersion", "4.8"),
    ("VmType", "1"),
    ("IsStateless", "false"),
    ("IsRunAndPause", "false"),
    ("AutoStartup", "false"),
    ("Priority", "0"),
    ("MigrationSupport", "0"),
    ("IsBootMenuEnabled", "false"),
    ("CustomEmulatedMachine", ""),
    ("CustomCpuName", ""),
    ("PredefinedProperties", ""),
    ("UserDefinedProperties", ""),
    ("MultiQueuesEnabled", "true"),
    ("VirtioScsiMultiQueuesEnabled", "false"),
    ("UseHostCpu", "false"),
    ("BalloonEnabled", "false"),
    ("CpuPinningPolicy", "0"),
    ("ClusterName", ""),
    ("TemplateName", ""),
    // the engine's own spelling
    ("IsInitilized", "true"),
    ("Origin", "3"),
    ("quota_id", ids::ZERO),
    ("DefaultDisplayType", "1"),
    ("TrustedService", "false"),
    ("OriginalTemplateName", ""),
    ("UseLatestVersion", "false"),
];

/// Devices that every instance has.
const DEVICES: &[&[(&str, &str)]] = &[
    &[
        ("rasd:Caption", "USB Controller"),
        ("rasd:InstanceId", "3"),
        ("rasd:ResourceType", "23"),
        ("rasd:UsbPolicy", "DISABLED"),
    ],
    &[
        ("rasd:Caption", "Graphical Controller"),
        ("rasd:InstanceId", "vga"),
        ("rasd:ResourceType", "20"),
        ("rasd:VirtualQuantity", "1"),
        ("Type", "video"),
        ("Device", "vga"),
    ],
    &[
        ("rasd:Caption", "Graphical Framebuffer"),
        ("rasd:InstanceId", "vnc"),
        ("rasd:ResourceType", "26"),
        ("Type", "graphics"),
        ("Device", "vnc"),
    ],
    &[
        ("rasd:Caption", "CDROM"),
        ("rasd:InstanceId", "cdrom"),
        ("rasd:ResourceType", "15"),
        ("Type", "disk"),
        ("Device", "cdrom"),
        ("BootOrder", "0"),
    ],
];
