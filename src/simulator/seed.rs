//! The first state: two tenants, two administrators, one zone, and some instances.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::images::TEMPLATE_SIZE;
use super::rows::MAX_FAILED;
use super::world::{
    Account, Cluster, DiskOffering, Domain, Host, Ids, Kind, Network, Nic, Offering, Pool, Project,
    Registered, Template, Vm, Volume, World, id, now,
};

/// A new world below `dir`, with so many instances. Files are made later.
pub fn world(dir: &Path, instances: usize, hosts: u8) -> World {
    let domains = ["ROOT", "ROOT/acme", "ROOT/globex", "ROOT/acme/dev"].map(|path| Domain {
        id: id(),
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        path: path.to_owned(),
    });
    let account = |number: u64, name: &str, domain: usize, kind: Kind, role: &str| Account {
        id: id(),
        user_id: id(),
        name: name.to_owned(),
        domain: domains[domain].id.clone(),
        kind,
        role: role.to_owned(),
        password: "password".to_owned(),
        api_key: key(),
        secret_key: key(),
        key_access: true,
        number,
        ..Account::default()
    };
    let keyless = |account: Account| Account { api_key: String::new(), secret_key: String::new(), ..account };
    let accounts = vec![
        account(2, "admin", 0, Kind::RootAdmin, "Root Admin"),
        Account {
            allowed: Some(SERVICE.iter().map(|name| (*name).to_owned()).collect()),
            ..account(3, "gateway", 0, Kind::RootAdmin, "oVirt gateway")
        },
        account(4, "alice", 1, Kind::User, "User"),
        account(5, "bob", 2, Kind::User, "User"),
        account(6, "carol", 1, Kind::DomainAdmin, "Domain Admin"),
        keyless(account(7, "dave", 1, Kind::User, "User")),
        keyless(Account { second_factor: true, ..account(8, "erin", 1, Kind::User, "User") }),
        Account { failed_logins: MAX_FAILED, ..account(9, "frank", 1, Kind::User, "User") },
        Account {
            allowed: Some(READ_ONLY.iter().map(|name| (*name).to_owned()).collect()),
            ..account(10, "grace", 0, Kind::RootAdmin, "Read-Only Admin")
        },
        account(11, "heidi@corp.example", 3, Kind::User, "User"),
        account(12, "ivan", 1, Kind::User, "User"),
        keyless(Account { password: key(), ..account(13, "PrjAcct-apollo-1", 1, Kind::Project, "") }),
    ];
    let project = Project {
        id: id(),
        name: "apollo".into(),
        domain: domains[1].id.clone(),
        account: "PrjAcct-apollo-1".into(),
        members: vec!["ivan".into()],
    };
    let clusters: Vec<_> = (1..=hosts.clamp(1, 2))
        .map(|number| Cluster { id: id(), name: format!("cluster-sim{number}") })
        .collect();
    let hosts: Vec<_> = (1..=hosts.max(1))
        .map(|number| Host {
            id: id(),
            name: format!("simhost{number}"),
            cluster: clusters[usize::from(number > 1)].id.clone(),
            address: format!("127.0.0.{number}"),
            state: "Up".into(),
        })
        .collect();
    let pool = |name: &str, kind: &str, scope: &str| {
        let id = id();
        let below = if kind == "NetworkFilesystem" { dir.join("mnt").join(&id) } else { dir.join(name) };
        let dir = below.display().to_string();
        let path = if kind == "NetworkFilesystem" { format!("/export/{name}") } else { dir.clone() };
        Pool {
            id,
            name: name.into(),
            kind: kind.into(),
            scope: scope.into(),
            cluster: (scope != "ZONE").then(|| clusters[0].id.clone()),
            host: (scope == "HOST").then(|| hosts[0].id.clone()),
            path,
            dir,
        }
    };
    let pools = vec![
        pool("nfs1", "NetworkFilesystem", "CLUSTER"),
        pool("smp1", "SharedMountPoint", "CLUSTER"),
        pool("local1", "Filesystem", "HOST"),
        pool("zone1", "NetworkFilesystem", "ZONE"),
        pool("rbd1", "RBD", "ZONE"),
    ];
    let os_types: Vec<_> =
        ["Debian GNU/Linux 12 (64-bit)", "Other Linux (64-bit)", "Windows Server 2022 (64-bit)"]
            .map(|name| (id(), name.to_owned()))
            .into();
    let template = Template {
        id: id(),
        name: "writer".into(),
        size: TEMPLATE_SIZE,
        os_type: os_types[0].0.clone(),
        file: id(),
        account: None,
    };
    let offering =
        |name: &str, cpus, memory| Offering { id: id(), name: name.to_owned(), cpus, mhz: 500, memory };
    let registered =
        |name: &str, account: &str| Registered { id: id(), name: name.into(), account: account.into() };
    let mut world = World {
        ids: Ids { zone: id(), pod: id(), management: id() },
        domains: domains.into(),
        accounts,
        projects: vec![project],
        clusters,
        hosts,
        pools,
        templates: vec![template],
        offerings: vec![offering("Tiny", Some(1), Some(128)), offering("Custom", None, None)],
        disk_offerings: vec![
            DiskOffering { id: id(), name: "Custom".into(), size: None, storage: "shared".into() },
            DiskOffering { id: id(), name: "Small".into(), size: Some(5), storage: "shared".into() },
            DiskOffering { id: id(), name: "Custom local".into(), size: None, storage: "local".into() },
        ],
        networks: vec![Network { id: id(), name: "shared1".into(), owner: None }],
        os_types,
        affinity_groups: vec![registered("apart", "alice"), registered("apart", "bob")],
        user_data: vec![registered("cloud-init", "alice"), registered("cloud-init", "bob")],
        vms: BTreeMap::new(),
        volumes: BTreeMap::new(),
        tags: Vec::new(),
        snapshots: Vec::new(),
        volume_snapshots: Vec::new(),
        jobs: BTreeMap::new(),
        events: Vec::new(),
        next: 10,
        instance_name: "VM".into(),
    };
    for index in 0..instances {
        instance(&mut world, index);
    }
    world
}

/// The first one shall run, the third is the other tenant's; all but these three have no files yet.
fn instance(world: &mut World, index: usize) {
    let owner = if index == 2 { "bob" } else { "alice" };
    let name = match index {
        0 => "writer".to_owned(),
        1 => "web".to_owned(),
        2 => "globex-db".to_owned(),
        index => format!("vm-{index:05}"),
    };
    let number = world.number();
    let vm = Vm {
        id: id(),
        number,
        display_name: format!("{name} of {owner}"),
        name,
        account: owner.to_owned(),
        state: "Stopped".into(),
        offering: world.offerings[0].id.clone(),
        cpus: 1,
        mhz: 500,
        memory: 128,
        template: world.templates[0].id.clone(),
        os_type: world.os_types[0].0.clone(),
        created: now(),
        nics: vec![nic(world, &world.networks[0].id, number, 0)],
        details: BTreeMap::new(),
        boot: None,
        ever_started: index < 3,
        affinity_groups: Vec::new(),
        user_data: None,
        host: None,
    };
    for device in 0..=u32::from(index < 3) {
        let number = world.number();
        let root = device == 0;
        let volume = Volume {
            id: id(),
            number,
            name: if root { format!("ROOT-{}", vm.number) } else { format!("data-{}", vm.number) },
            root,
            account: owner.to_owned(),
            size: if root { TEMPLATE_SIZE } else { DATA_SIZE },
            state: "Allocated".into(),
            device: Some(device),
            vm: Some(vm.id.clone()),
            // filled in when the file is made
            pool: (index < 3).then(|| world.pools[device as usize].id.clone()),
            path: None,
            offering: (!root).then(|| world.disk_offerings[0].id.clone()),
            template: root.then(|| vm.template.clone()),
            created: now(),
            below: None,
        };
        world.volumes.insert(volume.id.clone(), volume);
    }
    world.vms.insert(vm.id.clone(), vm);
}

/// A card with the next address of a network.
pub fn nic(world: &World, network: &str, number: u64, device: u32) -> Nic {
    let used = world.vms.values().map(|vm| vm.nics.len()).sum::<usize>() + 10;
    Nic {
        id: id(),
        network: network.to_owned(),
        mac: format!(
            "02:01:{:02x}:{:02x}:{:02x}:{:02x}",
            number >> 16 & 255,
            number >> 8 & 255,
            number & 255,
            device
        ),
        ip: format!("10.99.{}.{}", used / 250 % 250, used % 250 + 2),
        default: device == 0,
        device,
    }
}

/// 64 random bytes in base64: the look of CloudStack's keys.
pub fn key() -> String {
    let bytes: Vec<u8> = (0..4).flat_map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What the custom Admin-type role of the gateway's own account lets through, and no more.
const SERVICE: &[&str] = &[
    "listApis",
    "listCapabilities",
    "listZones",
    "listClusters",
    "listHosts",
    "listStoragePools",
    "listVirtualMachines",
    "listVolumes",
    "listVMSnapshot",
    "listDiskOfferings",
    "listUsers",
    "listEvents",
    "listConfigurations",
    "queryAsyncJobResult",
    "importVolume",
    "updateVolume",
    "deleteVolume",
    "destroyVirtualMachine",
];

/// What the custom Admin-type role of `grace` lets through: she sees all and changes nothing.
const READ_ONLY: &[&str] = &[
    "listApis",
    "listCapabilities",
    "getUserKeys",
    "listUsers",
    "listAccounts",
    "listDomains",
    "listProjects",
    "listZones",
    "listPods",
    "listClusters",
    "listHosts",
    "listStoragePools",
    "listNetworks",
    "listVirtualMachines",
    "listVolumes",
    "listNics",
    "listTags",
    "listTemplates",
    "listEvents",
    "queryAsyncJobResult",
];

/// The second disk of the first instances.
const DATA_SIZE: u64 = 64 << 20;
