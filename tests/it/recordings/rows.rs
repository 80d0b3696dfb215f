//! Lists and objects: every row is read, nothing of it is lost, and what oVirt has a word for is mapped.

use std::collections::HashSet;

use ovirt_gateway::cloudstack::types::{VirtualMachine, VmSnapshot, Volume};
use ovirt_gateway::cloudstack::{Error, Params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::lossless::lost;
use super::mapping::{Findings, Mapped};
use super::{Kind, Player, Recording, of};

/// Calls a macro's arm for the type behind a command: the table of what the product reads.
macro_rules! typed {
    ($command:expr, $call:ident, $none:expr) => {
        match $command {
            "listAccounts" => $call!(ovirt_gateway::cloudstack::types::Account, "account"),
            "listAsyncJobs" => $call!(ovirt_gateway::cloudstack::types::AsyncJob, "asyncjobs"),
            "listClusters" => $call!(ovirt_gateway::cloudstack::types::Cluster, "cluster"),
            "listDiskOfferings" => $call!(ovirt_gateway::cloudstack::types::DiskOffering, "diskoffering"),
            "listDomains" => $call!(ovirt_gateway::cloudstack::types::Domain, "domain"),
            "listEvents" => $call!(ovirt_gateway::cloudstack::types::Event, "event"),
            "listHosts" => $call!(ovirt_gateway::cloudstack::types::Host, "host"),
            "listNetworks" => $call!(ovirt_gateway::cloudstack::types::Network, "network"),
            "listNics" => $call!(ovirt_gateway::cloudstack::types::Nic, "nic"),
            "listOsTypes" => $call!(ovirt_gateway::cloudstack::types::OsType, "ostype"),
            "listProjects" => $call!(ovirt_gateway::cloudstack::types::Project, "project"),
            "listServiceOfferings" => {
                $call!(ovirt_gateway::cloudstack::types::ServiceOffering, "serviceoffering")
            }
            "listSnapshots" => $call!(ovirt_gateway::cloudstack::types::Snapshot, "snapshot"),
            "listStoragePools" => $call!(ovirt_gateway::cloudstack::types::StoragePool, "storagepool"),
            "listTags" => $call!(ovirt_gateway::cloudstack::types::Tag, "tag"),
            "listTemplates" => $call!(ovirt_gateway::cloudstack::types::Template, "template"),
            "listUsers" => $call!(ovirt_gateway::cloudstack::types::User, "user"),
            "listVMSnapshot" => $call!(ovirt_gateway::cloudstack::types::VmSnapshot, "vmSnapshot"),
            "listVirtualMachines" => {
                $call!(ovirt_gateway::cloudstack::types::VirtualMachine, "virtualmachine")
            }
            "listVolumes" => $call!(ovirt_gateway::cloudstack::types::Volume, "volume"),
            "listZones" => $call!(ovirt_gateway::cloudstack::types::Zone, "zone"),
            _ => $none,
        }
    };
}

pub(crate) use typed;

/// The name of a list's array, if the list has a type.
pub fn key(command: &str) -> Option<&'static str> {
    macro_rules! name {
        ($row:ty, $key:literal) => {
            Some($key)
        };
    }
    typed!(command, name, None)
}

#[tokio::test]
async fn lists_are_read_without_loss_and_mapped() {
    let player = Player::start().await;
    let (mut found, mut count) = (Findings::default(), 0);
    for recording in of(Kind::Rows) {
        macro_rules! check {
            ($row:ty, $key:literal) => {
                list::<$row>(&player, &recording, $key, &mut found).await
            };
        }
        count += typed!(recording.command(), check, 0);
    }
    println!("{count} rows");
    found.finish();
    assert!(count > 180, "{count} rows");
}

/// Reads a recorded list as the product does, and compares.
async fn list<T: DeserializeOwned + Serialize + Mapped>(
    player: &Player,
    recording: &Recording,
    key: &str,
    found: &mut Findings,
) -> usize {
    let client = player.play(recording);
    let opened = client.query(recording.command(), recording.params()).await.expect(&recording.name);
    assert_eq!(&opened, recording.inner(), "{}", recording.name);
    let mut seen = HashSet::new();
    let recorded: Vec<Value> = recording.inner()[key].as_array().into_iter().flatten().cloned().collect();
    let recorded: Vec<Value> = recorded
        .into_iter()
        .filter(|row| seen.insert(row["id"].as_str().map_or_else(|| row.to_string(), str::to_owned)))
        .collect();
    let listed = client.list::<T>(recording.command(), key, Params::new()).await;
    if recorded.is_empty() && recording.inner()["count"].as_u64().is_some_and(|count| count > 0) {
        // a page beyond the end: as a first page it would be a list without its rows
        assert!(matches!(listed, Err(Error::Unreadable { .. })), "{}", recording.name);
        return 0;
    }
    let rows = listed.expect(&recording.name);
    assert_eq!(rows.len(), recorded.len(), "{}: a row is unreadable", recording.name);
    for (row, recorded) in rows.iter().zip(&recorded) {
        let read = serde_json::to_value(row).expect("a value");
        lost(&read, recorded, &format!("{} {key}", recording.name), &mut found.lines);
    }
    super::mapping::compare(&recording.name, &rows, &recorded, found);
    recorded.len()
}

/// An object in an answer or in a job's result.
pub fn object<T: DeserializeOwned + Serialize + Mapped>(name: &str, recorded: &Value, found: &mut Findings) {
    let row: T = serde_json::from_value(recorded.clone()).expect(name);
    lost(&serde_json::to_value(&row).expect("a value"), recorded, name, &mut found.lines);
    super::mapping::compare(name, &[row], std::slice::from_ref(recorded), found);
}

/// Whatever object is inside: an instance, a volume, a snapshot, or that it worked.
pub fn result(name: &str, result: &Value, found: &mut Findings) {
    let (key, inside) = result.as_object().and_then(|result| result.iter().next()).expect(name);
    match key.as_str() {
        // what is left of an instance that was expunged: nothing to map
        "virtualmachine" if inside["id"].is_null() => assert_eq!(name, "destroy-expunge-root.job"),
        "virtualmachine" => object::<VirtualMachine>(name, inside, found),
        "volume" => object::<Volume>(name, inside, found),
        "vmsnapshot" => object::<VmSnapshot>(name, inside, found),
        "success" => assert!(inside == true, "{name}"),
        "capability" => assert!(inside["cloudstackversion"].is_string(), "{name}"),
        _ => found.lines.push(format!("{name}: nothing here reads {key}")),
    }
}

#[tokio::test]
async fn objects_are_read_without_loss_and_mapped() {
    let player = Player::start().await;
    let mut found = Findings::default();
    for recording in of(Kind::Object) {
        let client = player.play(&recording);
        let answer = client.run(recording.command(), recording.params()).await.expect(&recording.name);
        assert_eq!(&answer, recording.inner(), "{}", recording.name);
        result(&recording.name, &answer, &mut found);
    }
    found.finish();
}

#[tokio::test]
async fn features_are_read_with_their_parameters() {
    let player = Player::start().await;
    for recording in of(Kind::Apis) {
        let apis = player.play(&recording).apis().await.expect(&recording.name);
        for api in recording.inner()["api"].as_array().expect("commands") {
            let command = api["name"].as_str().expect("a name");
            assert!(apis.allows(command), "{command}");
            for param in api["params"].as_array().expect("parameters") {
                let param = param["name"].as_str().expect("a name");
                assert!(apis.takes(command, param), "{command} {param}");
            }
            assert!(!apis.takes(command, "nonsense") && !apis.allows(&command.to_lowercase()));
        }
    }
}
