//! Every way in: keys and sessions, second factors, disabled users, restarts, clocks, throttles.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::support::cloud::{Cloud, Ports};

const API: &str = "/ovirt-engine/api";
const VMS: &str = "/ovirt-engine/api/vms";

/// How often a command reached CloudStack, by the gateway's own log.
fn calls(cloud: &Cloud, command: &str) -> usize {
    let needle = format!("command=\"{command}\"");
    let plain = format!("command={command}");
    cloud.log().lines().filter(|line| line.contains(&needle) || line.contains(&plain)).count()
}

async fn names(cloud: &Cloud, user: &str) -> Vec<String> {
    let vms = cloud.json(user, VMS).await;
    let rows = vms["vm"].as_array().cloned().unwrap_or_default();
    rows.iter().map(|vm| vm["name"].as_str().expect("name").to_owned()).collect()
}

async fn deploy(cloud: &Cloud, account: &str, more: &[(&str, &str)]) -> String {
    let first = |list: Value, key: &str| list[key][0]["id"].as_str().expect("id").to_owned();
    let zone = first(cloud.cloudstack(account, "listZones", &[]).await, "zone");
    let offering = first(cloud.cloudstack(account, "listServiceOfferings", &[]).await, "serviceoffering");
    let template = cloud.cloudstack(account, "listTemplates", &[("templatefilter", "executable")]).await;
    let template = first(template, "template");
    let network = first(cloud.cloudstack(account, "listNetworks", &[]).await, "network");
    let mut params = vec![
        ("zoneid", zone.as_str()),
        ("serviceofferingid", &offering),
        ("templateid", &template),
        ("networkids", &network),
        ("startvm", "false"),
    ];
    params.extend(more);
    cloud.job(account, "deployVirtualMachine", &params).await["virtualmachine"]["id"]
        .as_str()
        .expect("id")
        .to_owned()
}

#[tokio::test]
async fn every_kind_of_account_gets_in_its_own_way() {
    let cloud = Cloud::start(3);
    // keys: signed calls; the login's session is given back
    assert_eq!(names(&cloud, "alice@acme").await.len(), 2);
    assert_eq!((calls(&cloud, "getUserKeys"), calls(&cloud, "logout")), (1, 1));
    // no keys: the session is kept, and none are made
    assert_eq!(names(&cloud, "dave@acme").await.len(), 0);
    assert_eq!((calls(&cloud, "logout"), calls(&cloud, "registerUserKeys")), (1, 0));
    let dave = cloud.cloudstack("admin", "listUsers", &[("username", "dave")]).await;
    assert!(dave["user"][0].get("apikey").is_none(), "{dave}");
    // a name with an @ in it, as LDAP has them, in a domain below a domain
    assert_eq!(cloud.login("heidi@corp.example@acme/dev", "password", VMS).await.status(), 200);
    // disabled
    let frank = cloud.login("frank@acme", "password", API).await;
    assert_eq!(frank.status(), 401);
    // a second factor: said, and keys help
    let erin = cloud.login("erin@acme", "password", API).await;
    assert_eq!(erin.status(), 401);
    let text = erin.text().await.expect("text");
    assert!(text.contains("two-factor") && text.contains("@apikey"), "{text}");
}

#[tokio::test]
async fn api_keys_are_a_name_and_a_password() {
    let cloud = Cloud::start(3);
    let keys = |who: &str| {
        let key = |name: &str| cloud.accounts[who][name].as_str().expect("key").to_owned();
        (format!("{}@apikey", key("apikey")), key("secretkey"))
    };
    for (who, seen) in [("alice", 2), ("bob", 1), ("admin", 3), ("carol", 2)] {
        let (name, secret) = keys(who);
        let answer = cloud.login(&name, &secret, VMS).await;
        assert_eq!(answer.status(), 200, "{who}");
        let vms: Value = answer.json().await.expect("JSON");
        assert_eq!(vms["vm"].as_array().map(Vec::len), Some(seen), "{who}");
    }
    assert_eq!(calls(&cloud, "login"), 0);
    let (alice, _) = keys("alice");
    let (_, bobs) = keys("bob");
    assert_eq!(cloud.login(&alice, &bobs, VMS).await.status(), 401);
    assert_eq!(cloud.login("nobody@apikey", &bobs, VMS).await.status(), 401);
    // no key in the log
    let log = cloud.log();
    assert!(!log.contains(alice.trim_end_matches("@apikey")) && !log.contains(&bobs));
}

#[tokio::test]
async fn a_session_outlives_a_restart_of_the_management_server_for_who_sends_his_password() {
    let cloud = Cloud::start(3);
    let vm = deploy(&cloud, "admin", &[]).await;
    assert_eq!(names(&cloud, "dave@acme").await, Vec::<String>::new());
    let token = cloud
        .ask(
            "",
            Method::POST,
            "/ovirt-engine/sso/oauth/token",
            &[("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")],
            "grant_type=password&scope=ovirt-app-api&username=dave@acme&password=password",
        )
        .await;
    let token: Value = token.json().await.expect("JSON");
    let bearer = format!("Bearer {}", token["access_token"].as_str().expect("token"));
    let header = [("authorization", bearer.as_str())];
    let with_token = || cloud.ask("", Method::GET, API, &header, "");
    assert_eq!(with_token().await.status(), 200);
    cloud.tell("restart", "").await;
    // longer than a session is trusted without a word
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(cloud.login("dave@acme", "password", VMS).await.status(), 200, "a new login, unseen");
    assert_eq!(calls(&cloud, "login"), 2);
    assert_eq!(with_token().await.status(), 401, "no password behind a token");
    // changes too
    cloud.tell("restart", "").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (status, _) = cloud.post("dave@acme", &format!("{VMS}/{vm}/start"), "{}").await;
    assert_eq!(status, 404, "another's instance, as before: not 401");
    assert_eq!(calls(&cloud, "login"), 3);
}

#[tokio::test]
async fn a_changed_password_ends_what_the_old_one_had() {
    let cloud = Cloud::with(3, &[("OVIRT_GATEWAY__AUTH__RECHECK", "1".to_owned())]);
    assert_eq!(cloud.login("alice@acme", "password", VMS).await.status(), 200);
    let grant = "grant_type=password&scope=ovirt-app-api&username=alice@acme&password=password";
    let form = [("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")];
    let token = cloud.ask("", Method::POST, "/ovirt-engine/sso/oauth/token", &form, grant).await;
    let token: Value = token.json().await.expect("JSON");
    let bearer = format!("Bearer {}", token["access_token"].as_str().expect("token"));
    let id = cloud.accounts["alice"]["userid"].as_str().expect("id");
    cloud.cloudstack("admin", "updateUser", &[("id", id), ("password", "another")]).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cloud.login("alice@acme", "password", VMS).await.status(), 401);
    let with_token = cloud.ask("", Method::GET, API, &[("authorization", &bearer)], "").await;
    assert_eq!(with_token.status(), 401, "what was granted for the old password");
    assert_eq!(cloud.login("alice@acme", "another", VMS).await.status(), 200);
}

#[tokio::test]
async fn a_clock_that_differs_by_hours_is_followed() {
    for ahead in [2 * 3600, -3 * 3600] {
        let cloud = Cloud::start(3);
        cloud.tell("clock", &ahead.to_string()).await;
        assert_eq!(names(&cloud, "alice@acme").await.len(), 2, "{ahead}");
        assert_eq!(
            cloud.json("alice@acme", "/ovirt-engine/api/clusters").await["cluster"].as_array().map(Vec::len),
            Some(1)
        );
        assert!(cloud.log().contains("clock"), "it is said");
        // and when it is set right again in between
        cloud.tell("clock", "0").await;
        assert_eq!(names(&cloud, "alice@acme").await.len(), 2, "{ahead}");
    }
}

#[tokio::test]
async fn several_management_servers_behind_one_name() {
    let cloud = Cloud::of(3, &["--servers", "3"], &[]);
    for _ in 0..6 {
        // a session: the balancer's cookie keeps it on its server
        assert_eq!(cloud.login("dave@acme", "password", VMS).await.status(), 200);
        // keys: any server will do
        assert_eq!(names(&cloud, "alice@acme").await.len(), 2);
    }
    assert_eq!(calls(&cloud, "login"), 2);
}

#[tokio::test]
async fn enforced_posts_and_timestamps_change_nothing() {
    let cloud = Cloud::of(3, &["--enforce-post"], &[]);
    assert_eq!(names(&cloud, "alice@acme").await.len(), 2);
    assert_eq!(cloud.login("dave@acme", "password", VMS).await.status(), 200);
    let vm = cloud.vm("alice@acme", "down").await;
    let (status, _) = cloud.post("alice@acme", &format!("{VMS}/{vm}/tags"), r#"{"name": "blue"}"#).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn a_throttle_is_waited_for_or_told_with_its_wait() {
    let cloud = Cloud::start(3);
    assert_eq!(names(&cloud, "alice@acme").await.len(), 2);
    cloud.tell("faults", "throttle=300:listVirtualMachines:1").await;
    assert_eq!(names(&cloud, "alice@acme").await.len(), 2, "a short one is waited for");
    cloud.tell("faults", "throttle=45000:listVirtualMachines").await;
    let answer = cloud.login("alice@acme", "password", VMS).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "45");
}

#[tokio::test]
async fn a_storm_of_two_hundred_clients_costs_one_login() {
    let cloud = Cloud::start(3);
    let path = "/ovirt-engine/api";
    let all =
        futures_util::future::join_all((0..200).map(|_| cloud.login("alice@acme", "password", path))).await;
    assert!(all.iter().all(|answer| answer.status() == 200));
    assert_eq!((calls(&cloud, "login"), calls(&cloud, "getUserKeys")), (1, 1));
    // the same for a session that was quiet for a while, and for one that a restart has ended
    for (restarted, logins) in [(false, 1), (true, 2)] {
        assert_eq!(cloud.login("dave@acme", "password", path).await.status(), 200);
        if restarted {
            cloud.tell("restart", "").await;
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        let before = calls(&cloud, "listCapabilities");
        let all = (0..200).map(|_| cloud.login("dave@acme", "password", path));
        assert!(futures_util::future::join_all(all).await.iter().all(|answer| answer.status() == 200));
        assert_eq!(calls(&cloud, "listCapabilities") - before, 1);
        assert_eq!(calls(&cloud, "login"), 1 + logins);
    }
    let logins = calls(&cloud, "login");
    // a wrong password in as many hands reaches CloudStack once, and the user is not locked
    let all =
        futures_util::future::join_all((0..200).map(|_| cloud.login("bob@globex", "wrong", path))).await;
    assert!(all.iter().all(|answer| answer.status() == 401));
    assert_eq!(calls(&cloud, "login"), logins + 1);
    assert_eq!(cloud.login("bob@globex", "password", path).await.status(), 200);
}

#[tokio::test]
async fn too_many_wrong_passwords_are_said_with_a_time() {
    let cloud = Cloud::start(3);
    for wrong in ["a", "b", "c"] {
        assert_eq!(cloud.login("bob@globex", wrong, API).await.status(), 401);
    }
    let locked = cloud.login("bob@globex", "password", API).await;
    assert_eq!(locked.status(), 401);
    let wait: u64 = locked.headers()["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((600..=900).contains(&wait), "{wait}");
    let bob = cloud.cloudstack("admin", "listUsers", &[("username", "bob")]).await;
    assert_eq!(bob["user"][0]["state"], "enabled", "CloudStack was spared the fourth and fifth");
}

/// A tenant without keys backs up; his session dies in between, as it does when it idles out.
#[tokio::test]
async fn a_backup_survives_the_end_of_its_owners_session() {
    let ports = Ports::choose();
    let cloud = Cloud::with(3, &ports.settings());
    let _host = cloud.host(&ports, 0);
    let dave = "dave@acme";
    // an instance with a file, his own: as the account's own keys are missing, an administrator makes it
    let domain = cloud.cloudstack("admin", "listUsers", &[("username", "dave")]).await;
    let domain = domain["user"][0]["domainid"].as_str().expect("id").to_owned();
    let vm = deploy(&cloud, "admin", &[("account", "dave"), ("domainid", &domain)]).await;
    cloud.job("admin", "startVirtualMachine", &[("id", &vm)]).await;
    cloud.job("admin", "stopVirtualMachine", &[("id", &vm)]).await;
    let (status, backup) = cloud.post(dave, &format!("{VMS}/{vm}/backups"), "{}").await;
    assert_eq!(status, 200, "{backup}");
    let backup = format!("{VMS}/{vm}/backups/{}", backup["id"].as_str().expect("id"));
    let phase = |wanted: &'static str| {
        let (cloud, backup) = (&cloud, &backup);
        async move {
            for _ in 0..200 {
                let found = cloud.json(dave, backup).await;
                if found["phase"] == wanted {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("not {wanted}: {}", cloud.json(dave, backup).await);
        }
    };
    phase("ready").await;
    cloud.tell("restart", "").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let disks = cloud.json(dave, &format!("{backup}/disks")).await;
    let disk = disks["disk"][0]["id"].as_str().expect("disk").to_owned();
    let id = backup.rsplit('/').next().expect("id");
    let body = format!(
        r#"{{"disk": {{"id": "{disk}"}}, "backup": {{"id": "{id}"}}, "direction": "download", "format": "raw"}}"#
    );
    let (status, transfer) = cloud.post(dave, "/ovirt-engine/api/imagetransfers", &body).await;
    assert_eq!(status, 201, "{transfer}");
    let transfer = format!("/ovirt-engine/api/imagetransfers/{}", transfer["id"].as_str().expect("id"));
    for _ in 0..100 {
        if cloud.json(dave, &transfer).await["phase"] == "transferring" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // the management server goes down once more, while data flows
    cloud.tell("restart", "").await;
    assert_eq!(cloud.json(dave, &transfer).await["phase"], "transferring");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(cloud.post(dave, &format!("{transfer}/finalize"), "{}").await.0, 200);
    assert_eq!(cloud.post(dave, &format!("{backup}/finalize"), "{}").await.0, 200);
    phase("succeeded").await;
}
