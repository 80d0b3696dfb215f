//! CloudStack's wire protocol, against a server that answers what a test tells it to. Bodies come
//! from `tests/data/cloudstack-4.22`, recorded from a real one.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::Method;
use ovirt_gateway::cloudstack::{Client, Config, Endpoint, Error, Params, types};
use ovirt_gateway::{pki, serve, tls};
use serde_json::{Value, json};

use crate::fake_cloudstack::{Fake, Reply, recording};

#[tokio::test]
async fn reads_are_signed_gets_and_changes_are_posts() {
    let fake = Fake::start(|call| match call.command() {
        "listZones" => Reply::recorded("inv-listzones-root"),
        _ => Reply::recorded("deletevolume"),
    })
    .await;
    let client = fake.client();
    let zones = client.zones(Params::new().set("name", "a b*~[é]")).await.expect("zones");
    assert_eq!(zones[0].id, "baae38de-3f19-4d69-bde3-51edf6ee2c8a");
    client.run("deleteVolume", Params::new().set("id", "x+y=z/'(!)'")).await.expect("deleted");
    client.query("listZones", Params::new().set("ids", "x".repeat(7000))).await.expect("long");

    let zones = fake.calls("listZones");
    assert_eq!((&zones[0].method, zones[0].in_url), (&Method::GET, true));
    assert_eq!((zones[0].param("page"), zones[0].param("pagesize")), ("1", "100"));
    assert_eq!((&zones[1].method, zones[1].in_url), (&Method::POST, false), "too long for a query string");
    let deleted = &fake.calls("deleteVolume")[0];
    assert_eq!((&deleted.method, deleted.in_url), (&Method::POST, false));
    for call in zones.iter().chain([deleted]) {
        assert!(call.is_signed_with("SK") && !call.is_signed_with("sk"), "{call:?}");
        assert_eq!(
            (call.param("apikey"), call.param("signatureversion"), call.param("response")),
            ("AK", "3", "json")
        );
        assert_eq!(call.cookie, None);
    }
}

#[tokio::test]
async fn a_session_sends_both_cookies_and_its_key_and_nothing_of_api_keys() {
    let fake = Fake::start(|call| match call.command() {
        "login" => Reply::recorded("login-domain-user"),
        "getUserKeys" => Reply::recorded("getuserkeys-none"),
        "listUsers" => Reply::recorded("inv-listusers-root"),
        _ => Reply::recorded("session-call"),
    })
    .await;
    let password = "pa ss+%&/ü1".into();
    let (client, login) =
        Client::login(fake.endpoint(), "carl", &password, "ROOT/acme").await.expect("login");
    assert!(!client.is_stateless());
    assert_eq!(login.session_idle, Some(1800));
    assert_eq!((login.user.username.as_str(), login.user.accounttype), ("carl", Some(0)));
    client.zones(Params::new()).await.expect("zones");

    let login = &fake.calls("login")[0];
    assert_eq!((&login.method, login.in_url, login.cookie.as_deref()), (&Method::POST, false, None));
    assert_eq!((login.param("password"), login.param("domain")), ("pa ss+%&/ü1", "acme"));
    for command in ["getUserKeys", "listUsers", "listZones"] {
        let call = &fake.calls(command)[0];
        assert_eq!(
            call.cookie.as_deref(),
            Some("JSESSIONID=node0one.node0; sessionkey=AAAAAAAAAAAAAAAAAAAAAAAAAAA")
        );
        assert_eq!(call.param("sessionkey"), "AAAAAAAAAAAAAAAAAAAAAAAAAAA");
        for foreign in ["apikey", "signature", "expires", "signatureversion"] {
            assert!(!call.params.contains_key(foreign), "{command} {foreign}");
        }
    }
}

#[tokio::test]
async fn a_user_with_keys_is_signed_and_his_session_ended() {
    let fake = Fake::start(|call| match call.command() {
        "login" => Reply::recorded("login-domain-user"),
        "getUserKeys" => Reply::recorded("getuserkeys-self"),
        "listUsers" => Reply::recorded("inv-listusers-root"),
        _ => Reply::ok(json!({"description": "success"})),
    })
    .await;
    let (client, login) = Client::login(fake.endpoint(), "carl", &"pw".into(), "acme").await.expect("login");
    assert!(client.is_stateless());
    assert_eq!((login.session_idle, login.user.account.as_deref()), (None, Some("carl")));
    let users = &fake.calls("listUsers")[0];
    assert!(users.param("apikey").starts_with("APIKEY-of-alice") && users.cookie.is_none());
    assert!(!users.params.contains_key("sessionkey"));
    let logout = &fake.calls("logout")[0];
    assert!(logout.method == Method::POST && logout.cookie.is_some());
}

/// 4.23: many pairs for a user. One that ends, or that rules cut down, is not taken.
#[tokio::test]
async fn a_whole_key_pair_is_taken_where_there_are_many() {
    let fake = Fake::start(|call| match (call.command(), call.param("apikey")) {
        ("login", _) => Reply::recorded("login-domain-user"),
        ("getUserKeys", _) => Reply::json(432, json!({"errorresponse": {"errorcode": 432, "errortext": "no such"}})),
        ("listUserKeys", _) => Reply::ok(json!({"count": 5, "userapikey": [
            {"id": "1", "apikey": "ENDS", "secretkey": "S1", "enddate": "2027-01-01T00:00:00+0000"},
            {"id": "2", "apikey": "RULED", "secretkey": "S2", "rules": [{"rule": "list*", "permission": "allow"}]},
            {"id": "3", "apikey": "HIDDEN"},
            {"id": "4", "apikey": "WHOLE", "secretkey": "S4", "rules": []},
        ]})),
        ("listUsers", "WHOLE") => Reply::recorded("inv-listusers-root"),
        _ => Reply::recorded("session-call"),
    })
    .await;
    let (client, _) = Client::login(fake.endpoint(), "carl", &"right".into(), "acme").await.expect("logs in");
    assert!(client.is_stateless());
    assert!(fake.calls("listUsers").iter().any(|call| call.is_signed_with("S4")));
    assert_eq!(fake.calls("registerUserKeys").len(), 0);
}

#[tokio::test]
async fn keys_that_do_not_work_leave_the_session() {
    let fake = Fake::start(|call| match call.command() {
        "login" => Reply::recorded("login-domain-user"),
        "getUserKeys" => Reply::recorded("getuserkeys-self"),
        _ if call.params.contains_key("apikey") => Reply::recorded("bad-signature"),
        "listUsers" => Reply::recorded("inv-listusers-root"),
        _ => Reply::recorded("session-call"),
    })
    .await;
    let (client, _) = Client::login(fake.endpoint(), "carl", &"pw".into(), "acme").await.expect("login");
    assert!(!client.is_stateless() && !client.has_ended());
    assert!(fake.calls("logout").is_empty());
}

#[tokio::test]
async fn a_wrong_password_and_a_second_factor_are_told_apart() {
    let fake = Fake::start(|call| match call.param("username") {
        "carl" => Reply::recorded("login-wrong-password"),
        _ => Reply::ok(
            json!({"sessionkey": "k", "userid": "u", "is2faenabled": "true", "is2faverified": "false"}),
        ),
    })
    .await;
    let wrong = Client::login(fake.endpoint(), "carl", &"x".into(), "acme").await;
    assert!(matches!(wrong, Err(Error::Credentials { .. })));
    let second = Client::login(fake.endpoint(), "dora", &"x".into(), "acme").await;
    assert!(matches!(second, Err(Error::SecondFactor)));
    assert_eq!(fake.calls("getUserKeys").len(), 0);
}

#[tokio::test]
async fn a_401_is_looked_into_before_the_keys_are_called_bad() {
    let fake = Fake::start(|call| match (call.param("apikey"), call.command()) {
        ("AK", "listCapabilities") => Reply::recorded("listcapabilities"),
        ("AK", _) => Reply::recorded("unknown-command"),
        _ => Reply::recorded("bad-signature"),
    })
    .await;
    let good = fake.client();
    let unknown = good.query("listNonsense", Params::new()).await;
    assert!(matches!(unknown, Err(Error::NotAllowed { command, .. }) if command == "listNonsense"));
    assert!(!good.has_ended());
    let bad = Client::with_keys(fake.endpoint(), "old".into(), "SK".into());
    assert!(matches!(bad.zones(Params::new()).await, Err(Error::Credentials { .. })));
    assert!(bad.has_ended());
}

#[tokio::test]
async fn a_session_that_died_says_so() {
    let fake = Fake::start(|call| match call.command() {
        "login" => Reply::recorded("login-domain-user"),
        "getUserKeys" => Reply::recorded("getuserkeys-none"),
        "listUsers" => Reply::recorded("inv-listusers-root"),
        "listNonsense" => Reply::recorded("session-unknown-command"),
        _ => Reply::recorded("session-dead-after-that"),
    })
    .await;
    let (client, _) = Client::login(fake.endpoint(), "carl", &"pw".into(), "acme").await.expect("login");
    let unknown = client.query("listNonsense", Params::new()).await;
    assert!(matches!(unknown, Err(Error::NotAllowed { .. })) && !client.has_ended());
    assert!(matches!(client.zones(Params::new()).await, Err(Error::SessionEnded)));
    assert!(client.has_ended());
}

#[tokio::test]
async fn recorded_refusals_become_causes() {
    let fake = Fake::start(|call| Reply::recorded(call.param("which"))).await;
    let client = fake.client();
    let asked =
        async |which: &str| client.query("stopVirtualMachine", Params::new().set("which", which)).await;
    assert!(matches!(asked("unknown-uuid").await, Err(Error::NotFound { .. })));
    assert!(matches!(asked("foreign-stop").await, Err(Error::Forbidden { .. })));
    assert!(matches!(asked("forbidden-listHosts-alice").await, Err(Error::NotAllowed { .. })));
    assert!(matches!(asked("pagesize-501").await, Err(Error::Invalid { text }) if text.contains("500")));
    assert!(matches!(asked("login-by-get").await, Err(Error::Unreadable { .. })));
}

#[tokio::test]
async fn one_object_is_none_when_unknown_or_foreign() {
    let fake = Fake::start(|call| match call.param("id") {
        "unknown" => Reply::recorded("unknown-uuid"),
        "foreign" => Reply::recorded("empty-list"),
        _ => Reply::recorded("listvirtualmachines-full-root"),
    })
    .await;
    let client = fake.client();
    let first =
        recording("listvirtualmachines-full-root")["body"]["listvirtualmachinesresponse"]["virtualmachine"]
            [0]["id"]
            .as_str()
            .expect("id")
            .to_owned();
    assert_eq!(client.virtual_machine("unknown").await.expect("none"), None);
    assert_eq!(client.virtual_machine("foreign").await.expect("none"), None);
    assert_eq!(client.virtual_machine("not that one").await.expect("none"), None, "never another object");
    assert_eq!(client.virtual_machine(&first).await.expect("one").expect("one").id, first);
    let call = &fake.calls("listVirtualMachines")[0];
    assert_eq!((call.param("listall"), call.params.contains_key("projectid")), ("true", false));
    assert_eq!(call.param("details"), "nics,tmpl,servoff,iso,volume,affgrp");
}

fn rows(ids: impl Iterator<Item = usize>, count: usize) -> Reply {
    let rows: Vec<_> = ids.map(|id| json!({"id": format!("v{id}"), "name": "v"})).collect();
    Reply::ok(json!({"count": count, "volume": rows}))
}

#[tokio::test]
async fn a_long_list_comes_in_parallel_pages_within_the_limit() {
    let fake = Fake::start(|call| {
        let page: usize = call.param("page").parse().expect("page");
        rows(((page - 1) * 10..page * 10).filter(|id| *id < 95), 95).after(Duration::from_millis(20))
    })
    .await;
    let endpoint = fake.endpoint_with(|config| (config.page_size, config.max_in_flight) = (10, 3));
    let client = Client::with_keys(endpoint, "AK".into(), "SK".into());
    let volumes = client.volumes(Params::new()).await.expect("volumes");
    let ids: Vec<_> = volumes.iter().map(|volume| volume.id.clone()).collect();
    assert_eq!(ids, (0..95).map(|id| format!("v{id}")).collect::<Vec<_>>(), "all, once, in order");
    assert_eq!(fake.calls("listVolumes").len(), 10);
    assert_eq!(fake.most_at_once(), 3);
    assert_eq!(fake.calls("listVolumes")[0].param("projectid"), "-1");
}

#[tokio::test]
async fn a_list_that_shifted_is_looked_at_once_more() {
    let walks = AtomicUsize::new(0);
    let fake = Fake::start(move |call| match call.param("page") {
        // A volume is added before the second page is read: v9 comes twice, v19 is pushed out.
        "1" if walks.fetch_add(1, Ordering::SeqCst) == 0 => rows(0..10, 20),
        "2" if walks.load(Ordering::SeqCst) == 1 => rows(9..19, 20),
        "1" => rows(0..10, 20),
        _ => rows(10..20, 20),
    })
    .await;
    let endpoint = fake.endpoint_with(|config| config.page_size = 10);
    let client = Client::with_keys(endpoint, "AK".into(), "SK".into());
    assert_eq!(client.volumes(Params::new()).await.expect("volumes").len(), 20);
    assert_eq!(fake.calls("listVolumes").len(), 4);
}

#[tokio::test]
async fn a_smaller_largest_page_of_the_server_is_taken_over() {
    let fake = Fake::start(|call| {
        let (page, size): (usize, usize) =
            (call.param("page").parse().expect("page"), call.param("pagesize").parse().expect("size"));
        match size {
            0..=10 => rows(((page - 1) * size..page * size).filter(|id| *id < 25), 25),
            _ => Reply::json(
                431,
                json!({"r": {"errorcode": 431,
                "errortext": "Page size can't exceed max allowed page size value: 10"}}),
            ),
        }
    })
    .await;
    let client = fake.client();
    assert_eq!(client.volumes(Params::new()).await.expect("volumes").len(), 25);
    assert_eq!(client.volumes(Params::new()).await.expect("volumes").len(), 25);
    assert_eq!(fake.calls("listVolumes").len(), 1 + 3 + 3);
}

#[tokio::test]
async fn a_short_throttle_is_waited_for_and_a_long_one_is_said() {
    let calls = AtomicUsize::new(0);
    let throttled = |wait: u32| {
        let text =
            format!("The given user has reached his/her account api limit, please retry after {wait} ms.");
        Reply::json(429, json!({"r": {"errorcode": 429, "errortext": text}}))
    };
    let fake = Fake::start(move |call| match call.command() {
        "listUsers" => throttled(9000),
        _ if calls.fetch_add(1, Ordering::SeqCst) < 2 => throttled(30),
        _ => Reply::recorded("inv-listzones-root"),
    })
    .await;
    let client = fake.client();
    assert_eq!(client.zones(Params::new()).await.expect("zones").len(), 1);
    assert_eq!(fake.calls("listZones").len(), 3);
    let long = client.users(Params::new()).await;
    assert!(matches!(long, Err(Error::Throttled { wait }) if wait == Duration::from_secs(9)));
    assert_eq!(fake.calls("listUsers").len(), 1);
}

#[tokio::test]
async fn a_session_is_over_before_cloudstack_ends_it() {
    let fake = Fake::start(|call| match call.command() {
        "login" => Reply::ok(json!({"sessionkey": "k", "userid": "u", "timeout": 61})),
        _ => Reply::ok(json!({})),
    })
    .await;
    let (client, _) = Client::login(fake.endpoint(), "carl", &"pw".into(), "").await.expect("login");
    assert!(!client.has_ended());
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.query("listZones", Params::new()).await.expect("zones");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!client.has_ended(), "used a moment ago");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(client.has_ended());
}

#[tokio::test]
async fn every_recorded_row_is_read() {
    fn all<T: serde::de::DeserializeOwned>(name: &str, key: &str) -> Vec<T> {
        let body = recording(name)["body"].clone();
        let inner = body.as_object().expect("envelope").values().next().expect("answer").clone();
        let rows = inner[key].as_array().expect(name).clone();
        let read = |row| serde_json::from_value(row).expect(name);
        rows.into_iter().map(read).collect()
    }
    for name in ["listvirtualmachines-full-alice", "listvirtualmachines-full-root"] {
        for vm in all::<types::VirtualMachine>(name, "virtualmachine") {
            assert!(vm.cpunumber.is_some() && vm.memory.is_some() && !vm.nic.is_empty(), "{vm:?}");
            assert_eq!(vm.hostid.is_some() && vm.instancename.is_some(), name.ends_with("root"), "{name}");
        }
    }
    for volume in all::<types::Volume>("listvolumes-root", "volume") {
        assert!(volume.size.is_some() && volume.path.is_some() == volume.storageid.is_some(), "{volume:?}");
    }
    assert!(all::<types::Volume>("listvolumes-alice", "volume").iter().all(|volume| volume.path.is_none()));
    assert_eq!(all::<types::Host>("inv-listhosts-Routing-root", "host")[0].state.as_deref(), Some("Up"));
    assert!(all::<types::StoragePool>("inv-liststoragepools-root", "storagepool")[0].disksizetotal.is_some());
    all::<types::Cluster>("inv-listclusters-root", "cluster");
    all::<types::Network>("inv-listnetworks-root", "network");
    all::<types::Template>("inv-listtemplates-root", "template");
    all::<types::ServiceOffering>("inv-listserviceofferings-root", "serviceoffering");
    all::<types::DiskOffering>("inv-listdiskofferings-root", "diskoffering");
    all::<types::Tag>("inv-listtags-alice", "tag");
    all::<types::User>("inv-listusers-root", "user");
    all::<types::Domain>("inv-listdomains-root", "domain");
    all::<types::VmSnapshot>("listvmsnapshot", "vmSnapshot");
}

#[tokio::test]
async fn a_job_is_polled_once_for_all_who_wait() {
    let looks = AtomicUsize::new(0);
    let fake = Fake::start(move |call| match call.command() {
        "createVolume" => Reply::recorded("createvolume"),
        _ if looks.fetch_add(1, Ordering::SeqCst) < 1 => Reply::recorded("start-running.job-pending"),
        _ => Reply::recorded("createvolume.job"),
    })
    .await;
    let client = fake.client();
    let submitted = client.submit("createVolume", Params::new()).await.expect("submitted");
    let id = submitted.id.expect("the new id");
    let (one, two, three) = tokio::join!(
        client.finish(&submitted.job),
        client.finish(&submitted.job),
        client.finish(&submitted.job)
    );
    for result in [one, two, three] {
        assert_eq!(result.expect("done")["volume"]["id"], id);
    }
    let looks = fake.calls("queryAsyncJobResult");
    assert_eq!(looks.len(), 2);
    assert_eq!(looks[0].param("jobid"), submitted.job);
}

#[tokio::test]
async fn a_failed_job_is_read_by_the_same_table() {
    let fake = Fake::start(|call| match call.command() {
        "queryAsyncJobResult" => Reply::recorded(call.param("jobid")),
        _ => Reply::recorded("start-running"),
    })
    .await;
    let client = fake.client();
    let job = async |name: &str| client.finish(name).await;
    assert!(
        matches!(job("start-running.job").await, Err(Error::Invalid { text }) if text.contains("already running"))
    );
    assert!(
        matches!(job("resize-shrink.job").await, Err(Error::Invalid { text }) if text.contains("shrink"))
    );
    assert!(matches!(job("createtags-foreign.job").await, Err(Error::Forbidden { .. })));
    assert!(
        matches!(job("unknown-uuid").await, Err(Error::JobLost { text }) if text.contains("unknown-uuid"))
    );
}

#[tokio::test]
async fn waiting_ends_at_the_deadlines() {
    let fake = Fake::start(|call| match call.command() {
        "queryAsyncJobResult" => Reply::recorded("start-running.job-pending"),
        _ => Reply::ok(json!({})).after(Duration::from_secs(5)),
    })
    .await;
    let endpoint = fake.endpoint_with(|config| (config.timeout, config.job_timeout) = (1, 1));
    let client = Client::with_keys(endpoint, "AK".into(), "SK".into());
    let (call, job) = tokio::join!(client.query("listZones", Params::new()), client.finish("job"));
    assert!(matches!(call, Err(Error::Deadline { command }) if command == "listZones"));
    assert!(matches!(job, Err(Error::Deadline { command }) if command == "queryAsyncJobResult"));
}

#[tokio::test]
async fn failures_of_the_connection_hold_no_key_and_no_redirect_is_followed() {
    let unused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
        listener.local_addr().expect("address")
    };
    let config = Config { endpoint: format!("http://{unused}/client/api"), ..Config::default() };
    let client =
        Client::with_keys(Endpoint::new(&config).expect("endpoint"), "CANARYKEY".into(), "SK".into());
    let error = client.query("listZones", Params::new()).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error} {error:?} {client:?}").contains("CANARYKEY"));

    let fake = Fake::start(|_| Reply::json(302, Value::Null)).await;
    let redirected = fake.client().query("listZones", Params::new()).await;
    assert!(matches!(redirected, Err(Error::Unreadable { .. })));
    assert_eq!(fake.calls("listZones").len(), 1);
}

#[tokio::test]
async fn a_certificate_counts_only_from_the_named_authority() {
    let dir = tempfile::tempdir().expect("dir");
    let (site, other) = (pki::Site::new(&dir.path().join("site")), pki::Site::new(&dir.path().join("other")));
    site.init().expect("authorities");
    other.init().expect("authorities");
    let files = site.host("127.0.0.1").expect("certificate");
    let identity = tls::Identity::load(&files.cert, &files.key).expect("identity");
    let config = tls::server(tls::Current::new(&identity).expect("fits"), tls::Alpn::Http1).expect("server");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("port");
    let endpoint = format!("https://{}/client/api", listener.local_addr().expect("address"));
    let app = axum::Router::new().fallback(|| async { json!({"listzonesresponse": {}}).to_string() });
    let forever = std::future::pending();
    let server = tokio::spawn(serve::run(
        listener,
        Some(config),
        move |_| app.clone(),
        serve::Options::default(),
        forever,
    ));
    let asked = async |ca_file: Option<PathBuf>, verify_tls| {
        let config = Config { endpoint: endpoint.clone(), ca_file, verify_tls, ..Config::default() };
        let endpoint = Endpoint::new(&config).expect("endpoint");
        Client::with_keys(endpoint, "AK".into(), "SK".into())
            .zones(Params::new())
            .await
            .map(|zones| zones.len())
    };
    assert!(matches!(asked(Some(site.ca.cert), true).await, Ok(0)));
    assert!(matches!(asked(Some(other.ca.cert), true).await, Err(Error::Unreachable { .. })));
    assert!(matches!(asked(None, true).await, Err(Error::Unreachable { .. })));
    assert!(matches!(asked(None, false).await, Ok(0)));
    server.abort();
}

#[tokio::test]
async fn rights_are_asked_for_once() {
    let fake = Fake::start(|_| {
        Reply::ok(json!({"count": 1, "api": [{"name": "createVolume", "params": [{"name": "customid"}]}]}))
    })
    .await;
    let client = fake.client();
    let (one, two) = tokio::join!(client.apis(), client.apis());
    assert!(one.expect("apis").takes("createVolume", "customid"));
    assert!(!two.expect("apis").allows("listHosts"));
    assert_eq!(fake.calls("listApis").len(), 1);
}
