//! UEFI variables and a TPM go with an instance's configuration and come back with it: real domains with
//! Debian's OVMF and swtpm, on two hosts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cloud::{Cloud, Part, Ports};
use crate::support::databases;
use crate::support::flow::{self, API};
use crate::support::skipped;

const ALICE: &str = "alice@acme";
const HOSTS: [&str; 2] = ["127.0.0.1", "127.0.0.2"];
const TPM: &str = "/var/lib/libvirt/swtpm";
const TEMPLATE: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

fn variables(cloud: &Cloud, host: &str, vm: &str) -> PathBuf {
    cloud.dir.path().join(format!("sim/nvram/{host}/{vm}.fd"))
}

fn tpm(vm: &str) -> PathBuf {
    Path::new(TPM).join(vm).join("tpm2/tpm2-00.permall")
}

async fn power(cloud: &Cloud, vm: &str, action: &str, wanted: &str) {
    let (status, answer) = cloud.post(ALICE, &format!("{API}/vms/{vm}/{action}"), "{}").await;
    assert_eq!(status, 200, "{action}: {answer}");
    let until = Instant::now() + Duration::from_secs(60);
    while cloud.json(ALICE, &format!("{API}/vms/{vm}")).await["status"] != *wanted {
        assert!(Instant::now() < until, "it does not become {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The configuration that a backup product keeps.
async fn configuration(cloud: &Cloud, vm: &str) -> String {
    configuration_for(cloud, ALICE, vm).await
}

async fn configuration_for(cloud: &Cloud, user: &str, vm: &str) -> String {
    let vm = cloud.json(user, &format!("{API}/vms/{vm}?all_content=true")).await;
    vm["initialization"]["configuration"]["data"].as_str().expect("an OVF").to_owned()
}

async fn restore(cloud: &Cloud, name: &str, ovf: &str) -> String {
    let configuration = json!({"data": ovf, "type": "ovf"});
    let body = json!({"name": name, "initialization": {"configuration": configuration}});
    let (status, vm) = cloud.post(ALICE, &format!("{API}/vms"), &body.to_string()).await;
    assert_eq!(status, 201, "{vm}");
    flow::id(&vm)
}

/// How many pieces of 32 bytes of the first are somewhere in the second: keys do not change.
fn shared(one: &[u8], other: &[u8]) -> usize {
    one.chunks_exact(32).filter(|piece| other.windows(32).any(|window| window == *piece)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn uefi_variables_and_a_tpm_come_back_with_their_instance() {
    let there = Path::new(TEMPLATE).exists() && Path::new("/usr/bin/swtpm").exists();
    if !there {
        return skipped("firmware::uefi_variables", "no ovmf or swtpm");
    }
    let ports = Ports::choose();
    let cloud = Cloud::live(0, &["--hosts", "2"], &ports.settings());
    let _hosts: Vec<Part> = HOSTS.iter().map(|host| cloud.host_at(host, &ports, 0)).collect();
    // as CloudStack has it: UEFI at the deployment, the TPM as details
    let zones = cloud.cloudstack("alice", "listZones", &[]).await["zone"][0]["id"].clone();
    let offerings = cloud.cloudstack("alice", "listServiceOfferings", &[]).await["serviceoffering"].clone();
    let fixed = offerings.as_array().expect("offerings").iter().find(|row| row["iscustomized"] == false);
    let templates =
        cloud.cloudstack("alice", "listTemplates", &[("templatefilter", "executable")]).await["template"]
            .clone();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (zone, offering, template) =
        (text(&zones), text(&fixed.expect("one")["id"]), text(&templates[0]["id"]));
    let params = [
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &offering),
        ("templateid", &template),
        ("name", "firm"),
        ("startvm", "false"),
        ("boottype", "UEFI"),
        ("bootmode", "LEGACY"),
        ("details[0].virtual.tpm.model", "tpm-crb"),
        ("details[0].virtual.tpm.version", "2.0"),
    ];
    let vm = text(&cloud.job("alice", "deployVirtualMachine", &params).await["virtualmachine"]["id"]);
    assert!(!configuration(&cloud, &vm).await.contains("NvramData"), "it never ran");
    power(&cloud, &vm, "start", "up").await;
    let home = HOSTS.iter().find(|host| variables(&cloud, host, &vm).exists()).expect("a host");
    // the guest has set a variable: the store is not as it came
    tokio::time::sleep(Duration::from_secs(4)).await;
    let ovf = configuration(&cloud, &vm).await;
    assert!(ovf.contains("<NvramData>") && ovf.contains("tpm2/tpm2-00.permall"), "{}", cloud.warnings());
    assert!(ovf.len() < 200_000, "{} bytes", ovf.len());
    // who sees the instance but may not read its disks does not get its keys either
    let outside = configuration_for(&cloud, "grace@ROOT", &vm).await;
    assert!(outside.contains("CloudStackMetadata") && !outside.contains("NvramData"));
    let keys = std::fs::read(tpm(&vm)).expect("a TPM");
    power(&cloud, &vm, "stop", "down").await;
    let mut store = std::fs::read(variables(&cloud, home, &vm)).expect("variables");
    assert!(!tpm(&vm).exists(), "of a transient domain libvirt forgets the TPM");
    // what is stopped is read as well; a mark shows whose it is
    let end = store.len();
    store[end - 64..].copy_from_slice(&[0x5a; 64]);
    std::fs::write(variables(&cloud, home, &vm), &store).expect("writes");
    let stopped = configuration(&cloud, &vm).await;
    assert!(stopped.contains("<NvramData>") && !stopped.contains("TpmData"));

    // restored from the stopped one: the store byte for byte, on every host, before it starts anywhere
    let again = restore(&cloud, "again", &stopped).await;
    for host in HOSTS {
        assert_eq!(std::fs::read(variables(&cloud, host, &again)).expect(host), store, "{host}");
    }
    // and from the running one: its TPM's keys as well
    let whole = restore(&cloud, "whole", &ovf).await;
    assert_eq!(std::fs::read(tpm(&whole)).expect("a TPM"), keys);
    let disk = flow::new_disk(&cloud, ALICE, "zone1", 4 << 20).await.expect("a disk");
    assert_eq!(flow::attach(&cloud, ALICE, &whole, &disk, true).await.0, 201);
    power(&cloud, &whole, "start", "up").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let now = std::fs::read(tpm(&whole)).expect("a TPM");
    let same = shared(&keys, &now);
    assert!(same * 10 > keys.len() / 32 * 8, "{same} of {} pieces", keys.len() / 32);
    let stranger = shared(&keys, &now.iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
    assert!(stranger * 10 < same, "the comparison tells keys apart");
    power(&cloud, &whole, "stop", "down").await;

    // a TPM's state that no host of ours wrote is not put on a host; UEFI variables are the guest's own
    let forged = ovf.replacen("seal=\"", "seal=\"AA", 1);
    let forged = restore(&cloud, "forged", &forged).await;
    assert!(!tpm(&forged).exists() && variables(&cloud, home, &forged).exists());
    let events = cloud.json(ALICE, &format!("{API}/events?max=50")).await.to_string();
    assert!(events.contains("the TPM's state was not kept"), "{events}");
    // nobody logs it
    let log = cloud.log();
    let nvram = ovf.split("<NvramData>").nth(1).expect("data").split('<').next().expect("data");
    assert!(!log.contains(nvram));
}

#[tokio::test(flavor = "multi_thread")]
async fn firmware_goes_again_with_a_restore_that_broke_off_and_a_silent_host_stops_none() {
    if !Path::new(TEMPLATE).exists() {
        return skipped("firmware::firmware_goes_again", "no ovmf");
    }
    let ports = Ports::choose();
    let mut cloud = Cloud::of(0, &["--hosts", "2"], &ports.settings());
    let mut hosts: Vec<Part> = HOSTS.iter().map(|host| cloud.host_at(host, &ports, 0)).collect();
    let ovf = configuration(&cloud, &flow::new_vm(&cloud, ALICE, "plain").await).await;
    // variables that came from elsewhere, in a document of ours
    let packed = "H4sIAAAAAAAAA0tMSgYAwkEkNQMAAAA=";
    let section = "CloudStackMetadata_Type\">";
    let firmware = format!("{section}<Firmware seal=\"\"><NvramData>{packed}</NvramData></Firmware>");
    let ovf = ovf.replacen(section, &firmware, 1);
    let vm = restore(&cloud, "elsewhere", &ovf).await;
    for host in HOSTS {
        assert_eq!(std::fs::read(variables(&cloud, host, &vm)).expect(host), b"abc");
    }
    // what is no file of a firmware is told, and harms nobody
    for bad in ["AAAA", "%%%"] {
        let vm = restore(&cloud, "bad", &ovf.replace(packed, bad)).await;
        assert!(!variables(&cloud, HOSTS[0], &vm).exists());
    }
    // a gateway that died between the files and its answer
    let file = cloud.dir.path().join("state/state.db");
    let subject = json!({"instance": vm, "hosts": HOSTS}).to_string();
    let step = format!("INSERT INTO steps VALUES ('w', 1, 'firmware', '{subject}', 0)");
    cloud.gateway.kill();
    databases::tell(&format!("sqlite:{}", file.display()), &step).await;
    cloud.restart(&ports.settings());
    for host in HOSTS {
        assert!(!variables(&cloud, host, &vm).exists(), "{host}");
    }
    hosts[1].kill();
    let vm = restore(&cloud, "half", &ovf).await;
    assert!(variables(&cloud, HOSTS[0], &vm).exists() && !variables(&cloud, HOSTS[1], &vm).exists());
    let events = cloud.json(ALICE, &format!("{API}/events?max=50")).await.to_string();
    assert!(events.contains("on some hosts the instance would start with new UEFI variables"), "{events}");
}
