//! A small CloudStack and a host's control listener, both in this process: they keep objects as JSON
//! and a log of what was asked, so that a test can say which calls were made and what is left.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Form, Path as Segments, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use ovirt_gateway::auth::{Caller, HmacSecret, Role, User};
use ovirt_gateway::cloudstack::{self, Client, Endpoint};
use ovirt_gateway::hostlink::{self, HostLink};
use ovirt_gateway::pki::Site;
use ovirt_gateway::state::{self, Store};
use ovirt_gateway::transfer::{BackupConfig, Engine, Parts, RestoreConfig};
use ovirt_gateway::{serve, tls};
use serde_json::{Value, json};

pub const VM: &str = "11111111-0000-4000-8000-000000000001";
pub const DISK: &str = "22222222-0000-4000-8000-000000000001";
pub const LOOSE: &str = "22222222-0000-4000-8000-000000000002";
pub const POOL: &str = "33333333-0000-4000-8000-000000000001";
const GIB: u64 = 1 << 30;

#[derive(Default)]
pub struct Objects {
    pub vms: BTreeMap<String, Value>,
    pub volumes: BTreeMap<String, Value>,
    pub pool_type: String,
    /// Commands that alice may call.
    pub apis: Vec<&'static str>,
    pub service_apis: Vec<&'static str>,
    /// Commands that fail, with CloudStack's code.
    pub refuse: HashMap<&'static str, u16>,
    /// `who command`, lists left out; then the host's `METHOD /path`.
    pub log: Vec<String>,
    pub tickets: BTreeMap<String, Value>,
    pub backups: BTreeMap<String, Value>,
    pub exports: BTreeMap<String, Value>,
    pub files: BTreeMap<String, u64>,
    pub idle: u64,
    pub clean: bool,
    made: u32,
}

#[derive(Clone)]
pub struct World {
    pub objects: Arc<Mutex<Objects>>,
    endpoint: Arc<Endpoint>,
    hosts: hostlink::Config,
    dir: Arc<tempfile::TempDir>,
}

impl World {
    pub async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let mut objects = Objects { clean: true, pool_type: "SharedMountPoint".into(), ..Objects::default() };
        objects.apis = vec!["extractVolume", "uploadVolume", "attachVolume", "createVolume"];
        objects.vms.insert(VM.into(), json!({"id": VM, "name": "web", "state": "Stopped", "zoneid": "z"}));
        objects.volumes.insert(DISK.into(), volume(DISK, Some(VM), "ROOT"));
        objects.volumes.insert(LOOSE.into(), volume(LOOSE, None, "DATADISK"));
        let objects = Arc::new(Mutex::new(objects));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/client/api", listener.local_addr().expect("bound"));
        let router = Router::new().route("/client/api", any(cloud)).with_state(objects.clone());
        tokio::spawn(async move { axum_like(listener, None, router).await });
        let config = cloudstack::Config { endpoint, ..cloudstack::Config::default() };

        let site = Site::new(&dir.path().join("pki"));
        std::fs::create_dir(dir.path().join("pki")).expect("a directory");
        site.init().expect("authorities");
        let hosts = control_listener(&site, dir.path(), objects.clone()).await;
        Self { objects, endpoint: Endpoint::new(&config).expect("settings"), hosts, dir }
    }

    pub fn now(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().expect("no test thread has failed")
    }

    fn state(&self) -> state::Config {
        state::Config { dir: self.dir.path().join("state"), ..state::Config::default() }
    }

    pub async fn store(&self) -> Store {
        Store::open(&self.state()).await.expect("a database")
    }

    /// To be read while an engine has it.
    pub async fn beside(&self) -> Store {
        Store::beside(&self.state()).await.expect("a database")
    }

    pub async fn engine(&self) -> Arc<Engine> {
        self.engine_with(Some(self.client("service"))).await
    }

    pub async fn engine_with(&self, service: Option<Client>) -> Arc<Engine> {
        let parts = Parts {
            store: self.store().await,
            hosts: Some(HostLink::new(&self.hosts).expect("certificates")),
            service: service.map(cloudstack::Service::new),
            secret: HmacSecret::new("a secret of this test".to_owned().into()),
            images_port: 54322,
            backup: BackupConfig { poll: 1, ..BackupConfig::default() },
            restore: RestoreConfig::default(),
            keep_days: 90,
        };
        Engine::open(parts).await.expect("opens")
    }

    pub fn client(&self, name: &str) -> Client {
        Client::with_keys(self.endpoint.clone(), name.into(), "key".to_owned().into())
    }

    pub fn caller(&self, name: &str) -> Caller {
        let user = User {
            id: format!("user-{name}"),
            username: name.into(),
            principal: format!("{name}@acme"),
            account: name.into(),
            domain_id: "domain".into(),
            domain: "acme".into(),
            role: Role::User,
        };
        Caller { client: self.client(name), user }
    }

    /// Whether the host holds no ticket and no export.
    pub fn is_empty(&self) -> bool {
        let now = self.now();
        now.tickets.is_empty() && now.exports.is_empty()
    }

    /// What was asked since the last call, without lists and looks.
    pub fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.now().log)
    }
}

pub fn volume(id: &str, vm: Option<&str>, kind: &str) -> Value {
    json!({"id": id, "name": "data", "type": kind, "virtualmachineid": vm, "state": "Ready", "size": GIB,
        "deviceid": vm.map(|_| 0), "path": format!("file-{id}"), "storageid": POOL, "zoneid": "z"})
}

async fn axum_like(
    listener: tokio::net::TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
) {
    let service = move |_: &serve::Peer| router.clone();
    serve::run(listener, tls, service, serve::Options::default(), std::future::pending()).await;
}

async fn control_listener(site: &Site, _: &Path, objects: Arc<Mutex<Objects>>) -> hostlink::Config {
    let files = site.host("127.0.0.1").expect("a certificate");
    let identity = tls::Identity::load(&files.cert, &files.key).expect("loads");
    let clients = tls::roots(&site.control_ca.cert).expect("loads");
    let config = tls::mutual_server(tls::Current::new(&identity).expect("fits"), clients, tls::Alpn::Http1)
        .expect("fits");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let router = Router::new()
        .route("/info", any(info))
        .route("/{kind}/{name}", any(host))
        .route("/{kind}/{name}/{verb}", any(host_verb))
        .with_state(objects);
    tokio::spawn(async move { axum_like(listener, Some(config), router).await });
    hostlink::Config {
        control_port: port,
        ca_file: Some(site.ca.cert.clone()),
        client_cert_file: Some(site.gateway.cert.clone()),
        client_key_file: Some(site.gateway.key.clone()),
        ..hostlink::Config::default()
    }
}

async fn cloud(
    State(objects): State<Arc<Mutex<Objects>>>,
    Form(asked): Form<HashMap<String, String>>,
) -> Response {
    let mut world = objects.lock().expect("no test thread has failed");
    let command = asked.get("command").cloned().unwrap_or_default();
    let who = asked.get("apiKey").or_else(|| asked.get("apikey")).cloned().unwrap_or_default();
    if !command.starts_with("list") && !command.starts_with("query") {
        world.log.push(format!("{who} {command}"));
    }
    let envelope = format!("{}response", command.to_lowercase());
    if let Some(code) = world.refuse.get(command.as_str()) {
        let body = json!({&envelope: {"errorcode": code, "errortext": "refused by the test"}});
        return (StatusCode::from_u16(*code).expect("a status"), Json(body)).into_response();
    }
    let body = world.answer(&who, &command, &asked);
    Json(json!({ &envelope: body })).into_response()
}

impl Objects {
    fn answer(&mut self, who: &str, command: &str, asked: &HashMap<String, String>) -> Value {
        let id = asked.get("id").cloned().unwrap_or_default();
        let list = |key: &str, rows: Vec<Value>| json!({"count": rows.len(), key: rows});
        let job = |id: Option<&str>, result: Value| json!({"jobid": result.to_string(), "id": id});
        match command {
            "listApis" => {
                let names = if who == "service" { &self.service_apis } else { &self.apis };
                list("api", names.iter().map(|name| json!({"name": name, "params": []})).collect())
            }
            "queryAsyncJobResult" => {
                let result: Value =
                    asked.get("jobid").and_then(|job| serde_json::from_str(job).ok()).unwrap_or_default();
                json!({"jobstatus": 1, "jobresult": result})
            }
            "listVirtualMachines" => {
                let rows = self.vms.values().filter(|vm| who != "bob" && (id.is_empty() || vm["id"] == id));
                list("virtualmachine", rows.cloned().collect())
            }
            "listVolumes" => {
                let vm = asked.get("virtualmachineid");
                let rows = self.volumes.values().filter(|volume| {
                    who != "bob"
                        && (id.is_empty() || volume["id"] == id)
                        && vm.is_none_or(|vm| volume["virtualmachineid"] == **vm)
                });
                let mut rows: Vec<Value> = rows.cloned().collect();
                if who != "service" {
                    // As for every owner: where it lies is not for him.
                    for row in rows.iter_mut().filter_map(Value::as_object_mut) {
                        row.remove("path");
                        row.remove("storageid");
                    }
                }
                list("volume", rows)
            }
            "listStoragePools" if who == "service" => list(
                "storagepool",
                vec![
                    json!({"id": POOL, "name": "pool", "type": self.pool_type, "path": "/pool", "state": "Up",
                    "scope": "CLUSTER", "zoneid": "z", "clusterid": "c"}),
                ],
            ),
            "listHosts" if who == "service" => list(
                "host",
                vec![json!({"id": "h", "name": "h", "state": "Up", "resourcestate": "Enabled",
                    "ipaddress": "127.0.0.1", "clusterid": "c", "zoneid": "z", "hypervisor": "KVM"})],
            ),
            "listZones" => list("zone", vec![json!({"id": "z", "name": "zone"})]),
            "listNetworks" => list("network", vec![json!({"id": "n", "name": "net", "zoneid": "z"})]),
            "listTemplates" => list(
                "template",
                vec![json!({"id": "t", "name": "tiny", "isready": true, "hypervisor": "KVM", "size": 1})],
            ),
            "listServiceOfferings" => list(
                "serviceoffering",
                vec![json!({"id": "s", "name": "small", "cpunumber": 1, "cpuspeed": 500, "memory": 512})],
            ),
            "listDiskOfferings" => list(
                "diskoffering",
                vec![json!({"id": "o", "name": "custom", "iscustomized": true, "storagetype": "shared"})],
            ),
            "createVolume" => {
                let new = self.fresh("44444444");
                let size = asked["size"].parse::<u64>().unwrap_or(0) * GIB;
                self.volumes.insert(
                    new.clone(),
                    json!({"id": new, "name": asked["name"], "type": "DATADISK", "state": "Allocated", "size": size}),
                );
                job(Some(&new), json!({"volume": {"id": new}}))
            }
            "importVolume" => {
                let new = self.fresh("55555555");
                let mut row = volume(&new, None, "DATADISK");
                row["path"] = json!(asked["path"]);
                self.volumes.insert(new.clone(), row);
                job(None, json!({"volume": {"id": new}}))
            }
            "updateVolume" => {
                let mut row = self.volumes.remove(&id).unwrap_or_default();
                for key in ["path", "storageid", "state"] {
                    if let Some(value) = asked.get(key) {
                        row[key] = json!(value);
                    }
                }
                let id = asked.get("customid").cloned().unwrap_or(id);
                row["id"] = json!(id);
                self.volumes.insert(id, row);
                job(None, json!({"volume": {}}))
            }
            "deployVirtualMachine" => {
                let new = self.fresh("66666666");
                let root = self.fresh("77777777");
                let vm = json!({"id": new, "name": asked["name"], "state": "Stopped", "zoneid": "z"});
                self.vms.insert(new.clone(), vm);
                let mut row = volume(&root, Some(&new), "ROOT");
                row["state"] = json!("Allocated");
                self.volumes.insert(root, row);
                job(Some(&new), json!({"virtualmachine": {"id": new}}))
            }
            "attachVolume" | "detachVolume" => {
                let vm = asked.get("virtualmachineid").cloned();
                if let Some(row) = self.volumes.get_mut(&id) {
                    row["virtualmachineid"] = json!(vm);
                    row["deviceid"] = json!(asked.get("deviceid"));
                }
                job(None, json!({"volume": {"id": id}}))
            }
            "deleteVolume" => {
                self.volumes.remove(&id);
                json!({"success": "true"})
            }
            "destroyVirtualMachine" => {
                self.vms.remove(&id);
                for volume in asked.get("volumeids").map(String::as_str).unwrap_or_default().split(',') {
                    self.volumes.remove(volume);
                }
                job(None, json!({"virtualmachine": {"id": id}}))
            }
            _ => json!({}),
        }
    }

    fn fresh(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}-0000-4000-8000-{:012}", self.made)
    }
}

async fn info(State(objects): State<Arc<Mutex<Objects>>>) -> Response {
    let world = objects.lock().expect("no test thread has failed");
    let names = |map: &BTreeMap<String, Value>| map.keys().cloned().collect::<Vec<_>>();
    Json(json!({"version": "0", "backups": names(&world.backups), "exports": names(&world.exports)}))
        .into_response()
}

async fn host_verb(
    State(objects): State<Arc<Mutex<Objects>>>,
    Segments((_, name, verb)): Segments<(String, String, String)>,
) -> Response {
    let mut world = objects.lock().expect("no test thread has failed");
    world.log.push(format!("host {verb} volume"));
    match verb.as_str() {
        "delete" => {
            world.files.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => Json(json!({"path": name, "format": "qcow2", "virtual_size": GIB, "actual_size": 0}))
            .into_response(),
    }
}

async fn host(
    State(objects): State<Arc<Mutex<Objects>>>,
    Segments((kind, name)): Segments<(String, String)>,
    request: Request,
) -> Response {
    let method = request.method().clone();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("a body");
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let mut world = objects.lock().expect("no test thread has failed");
    if method != Method::GET {
        world.log.push(format!("host {method} {kind}"));
    }
    let missing = || (StatusCode::NOT_FOUND, "no such thing").into_response();
    match (kind.as_str(), method.as_str()) {
        ("tickets", "PUT") => {
            world.tickets.insert(name, body);
            StatusCode::OK.into_response()
        }
        ("tickets", "GET") => match world.tickets.get(&name) {
            None => missing(),
            Some(ticket) => {
                let mut info = ticket.clone();
                for (key, value) in [
                    ("active", json!(false)),
                    ("canceled", json!(false)),
                    ("connections", json!(0)),
                    ("expires", json!(9)),
                    ("idle_time", json!(world.idle)),
                    ("transferred", json!(512)),
                ] {
                    info[key] = value;
                }
                Json(info).into_response()
            }
        },
        ("tickets", _) => {
            world.tickets.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        ("backups", "PUT") => {
            let exports = body["disks"].as_array().cloned().unwrap_or_default();
            let exports = exports
                .iter()
                .map(|disk| json!({"id": disk["id"], "size": GIB + 512, "url": "nbd:unix:/run/backup"}));
            let made = json!({"id": name, "instance": body["instance"], "source": body["source"], "state": "ready",
                "disks": exports.collect::<Vec<_>>()});
            world.backups.insert(name, made.clone());
            Json(made).into_response()
        }
        ("backups", "GET") => world.backups.get(&name).map_or_else(missing, |row| Json(row).into_response()),
        ("backups", _) => {
            world.backups.remove(&name);
            Json(json!({"clean": world.clean})).into_response()
        }
        ("exports", "PUT") => {
            let made = json!({"id": name, "size": GIB, "url": "nbd:unix:/run/export"});
            world.exports.insert(name, body);
            Json(made).into_response()
        }
        ("exports", _) => Json(json!({"found": world.exports.remove(&name).is_some()})).into_response(),
        ("volumes", "PUT") => {
            let size = body["size"].as_u64().unwrap_or(0);
            world.files.insert(name.clone(), size);
            Json(json!({"path": name, "format": "qcow2", "virtual_size": size, "actual_size": 0}))
                .into_response()
        }
        _ => missing(),
    }
}
