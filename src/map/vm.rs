//! An instance: a virtual machine.

use super::{Placement, href, ids, status, timestamp};
use crate::cloudstack::types::VirtualMachine;
use crate::model::{
    Architecture, Bios, BiosType, Boot, BootDevice, BootDevices, BootMenu, Cpu, Display, DisplayType,
    HighAvailability, MemoryPolicy, Os, PlacementPolicy, Topology, Usb, Vm, VmAffinity, VmStatus, VmType,
};

/// What an instance does not say of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct VmContext<'a> {
    /// The unique name, from [`super::unique_names`].
    pub name: Option<&'a str>,
    pub placement: Option<&'a Placement>,
}

pub fn vm(vm: &VirtualMachine, context: VmContext<'_>) -> Vm {
    let path = href::vm(&vm.id);
    let state = status::vm(&vm.state);
    let memory = vm.memory.unwrap_or(0).saturating_mul(MIB);
    let template = href::to(href::template, vm.templateid.as_deref().unwrap_or(ids::ZERO));
    let cluster = context.placement.and_then(|placement| placement.cluster.as_deref());
    let host = context.placement.and_then(|placement| placement.host.as_deref()).or(vm.hostid.as_deref());
    Vm {
        actions: href::actions(&path, ACTIONS),
        link: href::links(&path, LINKS),
        href: Some(path),
        id: Some(vm.id.clone()),
        name: Some(context.name.unwrap_or(&vm.name).to_owned()),
        description: Some(vm.displayname.clone().unwrap_or_default()),
        comment: Some(String::new()),
        bios: Some(Bios { boot_menu: Some(BootMenu { enabled: Some(false) }), r#type: Some(bios(vm)) }),
        cpu: Some(cpu(vm)),
        cpu_shares: Some(0),
        creation_time: vm.created.as_deref().and_then(timestamp),
        delete_protected: Some(vm.deleteprotection.unwrap_or(false)),
        display: Some(Display { r#type: Some(DisplayType::Vnc), ..Display::default() }),
        high_availability: Some(HighAvailability {
            enabled: Some(vm.haenable.unwrap_or(false)),
            priority: Some(0),
        }),
        memory: Some(memory),
        memory_policy: Some(MemoryPolicy {
            ballooning: Some(false),
            guaranteed: Some(memory),
            max: Some(memory),
        }),
        origin: Some("ovirt".to_owned()),
        os: Some(Os {
            boot: Some(Boot { devices: Some(BootDevices { device: vec![BootDevice::Hd] }) }),
            r#type: Some(os_type(vm.osdisplayname.as_deref().unwrap_or_default()).to_owned()),
            ..Os::default()
        }),
        placement_policy: Some(PlacementPolicy { affinity: Some(VmAffinity::Migratable) }),
        start_paused: Some(false),
        stateless: Some(false),
        r#type: Some(VmType::Server),
        usb: Some(Usb { enabled: Some(false), r#type: None }),
        cluster: cluster.map(|id| href::to(href::cluster, id)),
        next_run_configuration_exists: Some(false),
        status: Some(state),
        host: host.filter(|_| state != VmStatus::Down).map(|id| href::to(href::host, id)),
        original_template: Some(template.clone()),
        template: Some(template),
        ..Vm::default()
    }
}

/// CloudStack counts processors; a detail may say how many share a socket.
fn cpu(vm: &VirtualMachine) -> Cpu {
    let count = vm.cpunumber.unwrap_or(1).max(1);
    let cores = vm
        .details
        .get("cpu.corespersocket")
        .and_then(|value| value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_u64()))
        .and_then(|cores| u32::try_from(cores).ok())
        .filter(|cores| *cores > 0 && count.is_multiple_of(*cores))
        .unwrap_or(1);
    Cpu {
        architecture: Some(Architecture::X86_64),
        topology: Some(Topology { cores: Some(cores), sockets: Some(count / cores), threads: Some(1) }),
        ..Cpu::default()
    }
}

/// The board CloudStack gives: i440fx with a BIOS, q35 with UEFI.
pub(super) fn bios(vm: &VirtualMachine) -> BiosType {
    let says = |field: &Option<String>, word: &str| {
        field.as_deref().is_some_and(|text| text.eq_ignore_ascii_case(word))
    };
    match (says(&vm.boottype, "uefi"), says(&vm.bootmode, "secure")) {
        (true, true) => BiosType::Q35SecureBoot,
        (true, false) => BiosType::Q35Ovmf,
        _ => BiosType::I440fxSeaBios,
    }
}

/// oVirt's name for a guest system. Only those that are certain; the rest is `other`.
pub(super) fn os_type(display: &str) -> &'static str {
    let name = display.to_lowercase();
    let has = |word: &str| name.contains(word);
    if has("windows") {
        return WINDOWS.iter().find(|(word, _)| has(word)).map_or("other", |(_, id)| id);
    }
    if FAMILY.iter().any(|word| has(word)) && !has("32-bit") {
        let major = name.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty());
        match major {
            Some("9") => return "rhel_9x64",
            Some("8") => return "rhel_8x64",
            Some("7") => return "rhel_7x64",
            Some("6") => return "rhel_6x64",
            _ => {}
        }
    }
    if FAMILY.iter().chain(LINUX).any(|word| has(word)) { "other_linux" } else { "other" }
}

const WINDOWS: &[(&str, &str)] = &[
    ("2025", "windows_2025"),
    ("2022", "windows_2022"),
    ("2019", "windows_2019x64"),
    ("2016", "windows_2016x64"),
    ("2012 r2", "windows_2012R2x64"),
    ("2012", "windows_2012x64"),
    ("windows 11", "windows_11"),
    ("windows 10", "windows_10x64"),
];
/// Systems that follow Red Hat's numbers.
const FAMILY: &[&str] = &["red hat", "rhel", "centos", "rocky", "alma", "oracle linux"];
const LINUX: &[&str] = &["linux", "debian", "ubuntu", "suse", "fedora", "alpine", "arch", "gentoo"];
/// What a client may follow from a machine.
const LINKS: &[&str] =
    &["backups", "checkpoints", "diskattachments", "nics", "reporteddevices", "snapshots", "tags"];
const ACTIONS: &[&str] = &["start", "stop", "shutdown", "reboot"];
/// Bytes; CloudStack's memory is in MiB.
const MIB: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_systems() {
        assert_eq!(os_type("Windows Server 2022 (64-bit)"), "windows_2022");
        assert_eq!(os_type("Rocky Linux 9"), "rhel_9x64");
        assert_eq!(os_type("CentOS 7.2 (64-bit)"), "rhel_7x64");
        assert_eq!(os_type("Debian GNU/Linux 12 (32-bit)"), "other_linux");
        assert_eq!(os_type("FreeBSD 13"), "other");
    }

    #[test]
    fn topology_keeps_the_number_of_processors() {
        let mut machine = VirtualMachine { cpunumber: Some(6), ..VirtualMachine::default() };
        let topology = |machine: &VirtualMachine| cpu(machine).topology.map(|t| (t.sockets, t.cores));
        assert_eq!(topology(&machine), Some((Some(6), Some(1))));
        machine.details.insert("cpu.corespersocket".into(), "2".into());
        assert_eq!(topology(&machine), Some((Some(3), Some(2))));
        machine.details.insert("cpu.corespersocket".into(), "4".into());
        assert_eq!(topology(&machine), Some((Some(6), Some(1))));
    }
}
