//! Zones, clusters and hosts: data centers, clusters and hosts.

use super::{href, status};
use crate::cloudstack::types::{self, Zone};
use crate::model::{
    Architecture, BiosType, Cluster, ClusterCpu, Cpu, DataCenter, Host, HostType, Os, QuotaModeType,
    StorageFormat, Topology, Version, Versions, VmSummary,
};

pub fn data_center(zone: &Zone) -> DataCenter {
    let path = href::data_center(&zone.id);
    DataCenter {
        link: href::links(&path, DATA_CENTER_LINKS),
        href: Some(path),
        id: Some(zone.id.clone()),
        name: Some(zone.name.clone()),
        description: Some(String::new()),
        local: Some(false),
        quota_mode: Some(QuotaModeType::Disabled),
        status: Some(status::data_center(zone.allocationstate.as_deref())),
        storage_format: Some(StorageFormat::V5),
        supported_versions: Some(Versions { version: vec![compatibility()] }),
        version: Some(compatibility()),
        ..DataCenter::default()
    }
}

pub fn cluster(cluster: &types::Cluster) -> Cluster {
    let path = href::cluster(&cluster.id);
    Cluster {
        link: href::links(&path, CLUSTER_LINKS),
        href: Some(path),
        id: Some(cluster.id.clone()),
        name: Some(cluster.name.clone()),
        ballooning_enabled: Some(false),
        bios_type: Some(BiosType::I440fxSeaBios),
        cpu: Some(ClusterCpu { architecture: Some(architecture(cluster.arch.as_deref())), r#type: None }),
        gluster_service: Some(false),
        version: Some(compatibility()),
        virt_service: Some(true),
        data_center: Some(href::to(href::data_center, &cluster.zoneid)),
        ..Cluster::default()
    }
}

/// `full` is for root admins; others learn id, name, status and the cluster they need to place a
/// restored machine.
pub fn host(host: &types::Host, full: bool) -> Host {
    let path = href::host(&host.id);
    let known = Host {
        link: href::links(&path, HOST_LINKS),
        href: Some(path),
        id: Some(host.id.clone()),
        name: Some(host.name.clone()),
        status: Some(status::host(host.state.as_deref(), host.resourcestate.as_deref())),
        r#type: Some(HostType::Rhel),
        cluster: host.clusterid.as_deref().map(|id| href::to(href::cluster, id)),
        ..Host::default()
    };
    if !full {
        return known;
    }
    let sockets = host.cpusockets.unwrap_or(1).max(1);
    Host {
        address: host.ipaddress.clone(),
        cpu: Some(Cpu {
            speed: host.cpuspeed.map(|megahertz| megahertz as f64),
            topology: Some(Topology {
                cores: Some((host.cpunumber.unwrap_or(sockets) / sockets).max(1)),
                sockets: Some(sockets),
                threads: Some(1),
            }),
            ..Cpu::default()
        }),
        memory: host.memorytotal,
        os: Some(operating_system(host)),
        summary: Some(VmSummary { active: Some(0), migrating: Some(0), total: Some(0) }),
        version: host
            .version
            .clone()
            .map(|full_version| Version { full_version: Some(full_version), ..Version::default() }),
        ..known
    }
}

/// Clients read `os.version.major` and `minor` as integers that are there.
fn operating_system(host: &types::Host) -> Os {
    let detail = |key| host.details.get(key).and_then(|value| value.as_str());
    let text = detail("Host.OS.Version").unwrap_or_default();
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    Os {
        r#type: Some(detail("Host.OS").unwrap_or("Linux").to_owned()),
        version: Some(Version {
            full_version: (!text.is_empty()).then(|| text.to_owned()),
            major: Some(parts.next().unwrap_or(0)),
            minor: Some(parts.next().unwrap_or(0)),
            ..Version::default()
        }),
        ..Os::default()
    }
}

fn architecture(word: Option<&str>) -> Architecture {
    match word {
        None | Some("x86_64") => Architecture::X86_64,
        Some("aarch64") => Architecture::Aarch64,
        Some("s390x") => Architecture::S390x,
        Some(_) => Architecture::Undefined,
    }
}

/// The level of features that data centers and clusters claim: the newest of the engine we resemble.
fn compatibility() -> Version {
    Version { major: Some(4), minor: Some(8), ..Version::default() }
}

const DATA_CENTER_LINKS: &[&str] = &["storagedomains", "networks", "clusters"];
const CLUSTER_LINKS: &[&str] = &["networks"];
const HOST_LINKS: &[&str] = &[];
