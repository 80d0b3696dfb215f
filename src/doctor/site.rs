//! Verdicts on what backups run on: storage pools, hosts with their daemons, instances.

use serde::Deserialize;

use crate::cloudstack::types::{Host, StoragePool};
use crate::hostlink;

use super::finding::{Finding, Topic};

/// Whether the disks of a pool can be backed up, and why not.
pub fn pool(pool: &StoragePool) -> Finding {
    let scope = pool.scope.as_deref().unwrap_or("unknown scope").to_lowercase();
    let state = pool.state.as_deref().unwrap_or("unknown");
    let kind = &pool.r#type;
    let facts = format!("{kind}, {scope}");
    if let Some(why) = unusable(pool) {
        return Finding::warning(
            Topic::Storage,
            &pool.name,
            format!("{facts}: its disks can be neither backed up nor restored: {why}"),
            "keep disks that shall be backed up on NFS, SharedMountPoint or local pools (cmk migrate volume)",
        );
    }
    match state {
        "Up" => Finding::ok(Topic::Storage, &pool.name, format!("{facts}: can back up and restore")),
        _ => Finding::warning(
            Topic::Storage,
            &pool.name,
            format!("{facts}, state {state}: nothing can be restored to it"),
            format!("bring the pool up: cmk cancel storagemaintenance id={}", pool.id),
        ),
    }
}

fn unusable(pool: &StoragePool) -> Option<&'static str> {
    let foreign = pool.hypervisor.as_deref().is_some_and(|name| !matches!(name, "KVM" | "Any" | "None" | ""));
    if foreign {
        return Some("it is not KVM's");
    }
    match pool.r#type.as_str() {
        "NetworkFilesystem" | "Filesystem" | "SharedMountPoint" if pool.managed == Some(true) => {
            Some("it is managed by a storage plugin")
        }
        "NetworkFilesystem" | "Filesystem" | "SharedMountPoint" => None,
        "RBD" => Some("Ceph images are no files that a host can export"),
        "CLVM" | "CLVM_NG" => Some("logical volumes are no files, and raw"),
        "PowerFlex" | "Linstor" | "StorPool" | "FiberChannel" | "Iscsi" | "IscsiLUN" => {
            Some("its disks are block devices, not files")
        }
        "VMFS" | "DatastoreCluster" | "PreSetup" => Some("it is another hypervisor's"),
        _ => Some("only file pools are supported"),
    }
}

/// What a host's daemon answered: its version, or why not.
pub type Daemon = Result<String, hostlink::Error>;

/// A host; `daemon` is `None` where it was not asked.
pub fn host(host: &Host, daemon: Option<&Daemon>) -> Vec<Finding> {
    let hypervisor = host.hypervisor.as_deref().unwrap_or("KVM");
    let address = host.ipaddress.as_deref().unwrap_or("no address");
    let subject = format!("{} ({address})", host.name);
    if !hypervisor.eq_ignore_ascii_case("KVM") {
        return vec![Finding::info(
            Topic::Hosts,
            &subject,
            format!("{hypervisor}: its instances cannot be backed up"),
            "nothing to do: only KVM is supported",
        )];
    }
    let state = host.state.as_deref().unwrap_or("unknown");
    let resource = host.resourcestate.as_deref().unwrap_or("unknown");
    let mut findings = Vec::new();
    findings.push(match (state, resource) {
        ("Up", "Enabled") => Finding::ok(Topic::Hosts, &subject, "Up and Enabled"),
        ("Up", _) => Finding::info(
            Topic::Hosts,
            &subject,
            format!("Up, {resource}: not chosen for the disks of stopped instances"),
            format!("if that is not meant: cmk update host id={} allocationstate=Enable", host.id),
        ),
        _ => Finding::warning(
            Topic::Hosts,
            &subject,
            format!("state {state}: its instances cannot be backed up"),
            "start CloudStack's agent there and look at /var/log/cloudstack/agent/agent.log",
        ),
    });
    let usable = state == "Up";
    findings.extend(daemon.map(|daemon| imageio(&subject, address, usable, daemon)));
    findings
}

fn imageio(subject: &str, address: &str, usable: bool, daemon: &Daemon) -> Finding {
    let ours = env!("CARGO_PKG_VERSION");
    let subject = format!("{subject} imageio");
    match daemon {
        Ok(version) if version == ours => {
            Finding::ok(Topic::Hosts, &subject, format!("answers, version {version}"))
        }
        Ok(version) => Finding::warning(
            Topic::Hosts,
            &subject,
            format!("version {version}, the gateway is {ours}"),
            "install the gateway's version on the host",
        ),
        Err(error) => {
            let advice = daemon_advice(address, error);
            match usable {
                true => Finding::error(Topic::Hosts, &subject, error.to_string(), advice),
                false => Finding::warning(Topic::Hosts, &subject, error.to_string(), advice),
            }
        }
    }
}

fn daemon_advice(address: &str, error: &hostlink::Error) -> String {
    let issue =
        format!("issue the host's certificate anew and install it: ovirt-gateway pki issue --host {address}");
    match error {
        hostlink::Error::Settings { .. } => {
            "run ovirt-gateway pki init, or correct the section [imageio]".into()
        }
        hostlink::Error::Unreachable { text, .. } => {
            let text = text.to_ascii_lowercase();
            if text.contains("invalid peer certificate") {
                issue
            } else if text.contains("alert") || text.contains("certificate") {
                "copy certs/control-ca.pem of this gateway to the host ([control] client_ca_file) and restart its daemon".into()
            } else if text.contains("refused") {
                "start ovirt-gateway imageio on the host, or correct [imageio] control_port".into()
            } else {
                "open the way to the host's control port (54324) for this machine, and start ovirt-gateway imageio there".into()
            }
        }
        hostlink::Error::Refused { .. } => {
            "let [imageio] client_cert_file be the certificate that pki init made (certs/gateway-client.pem)"
                .into()
        }
        _ => "look at the log of ovirt-gateway imageio on the host".into(),
    }
}

/// A row of `listVMSnapshot`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    pub id: String,
    pub displayname: Option<String>,
    pub state: Option<String>,
    pub r#type: Option<String>,
    pub virtualmachineid: Option<String>,
    pub virtualmachinename: Option<String>,
}

/// The instances whose snapshots stand in somebody's way; one `ok` if there are none.
pub fn instances(snapshots: &[Snapshot]) -> Vec<Finding> {
    let mut findings: Vec<_> = snapshots.iter().filter_map(snapshot).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let left = findings.len().saturating_sub(MOST_INSTANCES);
    if left > 0 {
        findings.truncate(MOST_INSTANCES);
        findings.push(Finding::warning(
            Topic::Instances,
            "others",
            format!("{left} more of these"),
            "settle the ones above and look again",
        ));
    }
    if findings.is_empty() {
        let text = format!("{} seen, none is left over or has memory", snapshots.len());
        findings.push(Finding::ok(Topic::Instances, "VM snapshots", text));
    }
    findings
}

fn snapshot(row: &Snapshot) -> Option<Finding> {
    let unknown = row.virtualmachineid.as_deref().unwrap_or("unknown");
    let vm = row.virtualmachinename.as_deref().unwrap_or(unknown);
    let name = row.displayname.as_deref().unwrap_or(&row.id);
    match (row.state.as_deref(), row.r#type.as_deref()) {
        (Some(state @ ("Error" | "Allocated")), _) => Some(Finding::warning(
            Topic::Instances,
            vm,
            format!(
                "the VM snapshot {name} is in state {state}: nothing can be attached, detached or resized"
            ),
            format!("if no snapshot is being made just now: cmk delete vmsnapshot vmsnapshotid={}", row.id),
        )),
        (_, Some("DiskAndMemory")) => Some(Finding::info(
            Topic::Instances,
            vm,
            format!("the VM snapshot {name} has memory: its backups are full, never incremental"),
            format!("when it is not needed any more: cmk delete vmsnapshot vmsnapshotid={}", row.id),
        )),
        _ => None,
    }
}

/// Findings about instances that are printed.
const MOST_INSTANCES: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    #[test]
    fn file_pools_of_kvm_are_good() {
        let of = |kind: &str, hypervisor: Option<&str>, state: &str| {
            let row = StoragePool {
                name: "p".into(),
                r#type: kind.into(),
                hypervisor: hypervisor.map(Into::into),
                state: Some(state.into()),
                ..StoragePool::default()
            };
            pool(&row).severity
        };
        for kind in ["NetworkFilesystem", "Filesystem", "SharedMountPoint"] {
            assert_eq!(of(kind, Some("KVM"), "Up"), Severity::Ok, "{kind}");
        }
        for kind in ["RBD", "CLVM", "PowerFlex", "Linstor", "VMFS", "", "New"] {
            assert_eq!(of(kind, None, "Up"), Severity::Warning, "{kind}");
        }
        assert_eq!(of("NetworkFilesystem", Some("VMware"), "Up"), Severity::Warning);
        assert_eq!(of("NetworkFilesystem", Some("Any"), "Maintenance"), Severity::Warning);
    }

    #[test]
    fn a_host_without_its_daemon_is_an_error_while_it_is_up() {
        let row = |state: &str| Host {
            name: "h".into(),
            state: Some(state.into()),
            resourcestate: Some("Enabled".into()),
            hypervisor: Some("KVM".into()),
            ipaddress: Some("10.0.0.1".into()),
            ..Host::default()
        };
        let down = |text: &str| -> Daemon {
            Err(hostlink::Error::Unreachable { host: "10.0.0.1".into(), text: text.into() })
        };
        let of = |state: &str, daemon: &Daemon| -> Vec<_> {
            host(&row(state), Some(daemon)).iter().map(|finding| finding.severity).collect()
        };
        use Severity::{Error, Ok, Warning};
        assert_eq!(of("Up", &Result::Ok(env!("CARGO_PKG_VERSION").into())), [Ok, Ok]);
        assert_eq!(of("Up", &Result::Ok("0.0.1".into())), [Ok, Warning]);
        assert_eq!(of("Up", &down("Connection refused")), [Ok, Error]);
        assert_eq!(of("Down", &down("Connection refused")), [Warning, Warning]);
        let advice = |text: &str| match down(text) {
            Err(error) => daemon_advice("10.0.0.1", &error),
            _ => String::new(),
        };
        assert!(advice("Connection refused (os error 111)").contains("start ovirt-gateway imageio"));
        assert!(advice("invalid peer certificate: UnknownIssuer").contains("pki issue --host 10.0.0.1"));
        assert!(advice("received fatal alert: CertificateRequired").contains("control-ca.pem"));
    }

    #[test]
    fn leftover_and_memory_snapshots_are_named() {
        let row = |state: &str, kind: &str| Snapshot {
            id: "s".into(),
            state: Some(state.into()),
            r#type: Some(kind.into()),
            virtualmachinename: Some("web".into()),
            ..Snapshot::default()
        };
        let of = |rows: &[Snapshot]| -> Vec<_> {
            instances(rows).iter().map(|finding| (finding.severity, finding.subject.clone())).collect()
        };
        assert_eq!(of(&[row("Ready", "Disk")]), [(Severity::Ok, "VM snapshots".to_owned())]);
        assert_eq!(
            of(&[row("Ready", "DiskAndMemory"), row("Error", "Disk"), row("Allocated", "DiskAndMemory")]),
            [Severity::Warning, Severity::Warning, Severity::Info]
                .map(|severity| (severity, "web".to_owned()))
        );
        assert_eq!(of(&vec![row("Error", "Disk"); 150]).len(), 101);
    }
}
