//! The rows of answers, with the fields the recordings have, and only those that a role may see.

use serde_json::{Value, json};

use super::apis::Version;
use super::world::{Account, Cluster, Host, Kind, Nic, Project, Vm, Volume, World};

/// Whose eyes a row is made for.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub world: &'a World,
    pub caller: &'a Account,
}

impl View<'_> {
    pub(super) fn full(&self) -> bool {
        self.caller.kind == Kind::RootAdmin
    }

    pub(super) fn owner(&self, name: &str, row: &mut Value) {
        let account = self.world.account(name);
        let domain = account.and_then(|account| self.world.domain(&account.domain));
        match self.world.project_of(name) {
            None => row["account"] = name.into(),
            Some(project) => {
                (row["project"], row["projectid"]) = (project.name.clone().into(), project.id.clone().into());
            }
        }
        row["domainid"] = domain.map(|domain| domain.id.clone()).into();
        row["domain"] = domain.map(|domain| domain.name.clone()).into();
        row["domainpath"] = domain.map(|domain| domain.path.clone()).into();
    }

    fn tags(&self, kind: &str, id: &str) -> Vec<Value> {
        let tags = self.world.tags.iter().filter(|tag| tag.kind == kind && tag.resource == id);
        // inside another row a tag does not say its domain's path
        let within = |mut row: Value| {
            row.as_object_mut().and_then(|row| row.remove("domainpath"));
            row
        };
        tags.map(|tag| within(self.tag(tag))).collect()
    }

    pub fn tag(&self, tag: &super::world::Tag) -> Value {
        let mut row = json!({
            "key": tag.key, "value": tag.value, "resourcetype": tag.kind, "resourceid": tag.resource,
        });
        self.owner(&tag.account, &mut row);
        row
    }

    pub fn zone(&self) -> Value {
        json!({
            "id": self.world.ids.zone, "name": ZONE, "networktype": "Advanced", "securitygroupsenabled": false,
            "allocationstate": "Enabled", "dhcpprovider": "VirtualRouter", "localstorageenabled": true, "tags": [],
            "type": "Core", "hasannotations": false,
        })
    }

    pub fn cluster(&self, cluster: &Cluster) -> Value {
        json!({
            "id": cluster.id, "name": cluster.name, "podid": self.world.ids.pod, "podname": POD,
            "zoneid": self.world.ids.zone, "zonename": ZONE, "hypervisortype": "KVM", "clustertype": "CloudManaged",
            "allocationstate": "Enabled", "managedstate": "Managed", "cpuovercommitratio": "1.0",
            "memoryovercommitratio": "1.0", "arch": "x86_64",
            "resourcedetails": {"memoryOvercommitRatio": "1.0", "cpuOvercommitRatio": "1.0"}, "hasannotations": false,
        })
    }

    pub fn host(&self, host: &Host, version: Version) -> Value {
        json!({
            "id": host.id, "name": host.name, "state": host.state, "type": "Routing", "ipaddress": host.address,
            "zoneid": self.world.ids.zone, "zonename": ZONE, "podid": self.world.ids.pod, "podname": POD,
            "version": version.full(), "hypervisor": "KVM", "cpusockets": 1, "cpunumber": 2, "cpuspeed": 2596,
            "cpuallocated": "10.0%", "cpuused": "1.2%", "memorytotal": 24_202_760_192u64, "memoryallocated": 0,
            "memoryused": 1_926_549_504u64, "capabilities": "hvm,snapshot", "clusterid": host.cluster,
            "clustername": self.cluster_name(&host.cluster), "clustertype": "CloudManaged", "islocalstorageactive": false,
            "created": "2026-11-22T21:14:07+0000", "resourcestate": "Enabled", "hahost": false,
            "details": {"Host.OS": "Debian GNU/Linux", "Host.OS.Version": "12", "secured": "false"},
            "ueficapability": false, "encryptionsupported": false, "arch": "x86_64", "hasannotations": false,
        })
    }

    pub(super) fn cluster_name(&self, id: &str) -> Option<&str> {
        self.world.clusters.iter().find(|cluster| cluster.id == id).map(|cluster| cluster.name.as_str())
    }

    pub fn pool(&self, pool: &super::world::Pool) -> Value {
        let host = pool.host.as_deref().and_then(|id| self.world.host(id));
        let address = match (pool.kind.as_str(), host) {
            ("NetworkFilesystem", _) => "127.0.0.1",
            (_, Some(host)) => &host.address,
            _ => "localhost",
        };
        let mut row = json!({
            "id": pool.id, "zoneid": self.world.ids.zone, "zonename": ZONE, "name": pool.name, "ipaddress": address,
            "path": pool.path, "created": "2026-11-22T21:15:11+0000", "type": pool.kind,
            "disksizetotal": 270_553_174_016u64, "disksizeallocated": 0, "disksizeused": 14_541_398_016u64,
            "state": "Up", "scope": pool.scope, "overprovisionfactor": "2.0", "hypervisor": "KVM",
            "provider": "DefaultPrimary", "managed": false, "details": {}, "hasannotations": false,
        });
        if let Some(cluster) = &pool.cluster {
            (row["podid"], row["podname"]) = (self.world.ids.pod.clone().into(), POD.into());
            (row["clusterid"], row["clustername"]) =
                (cluster.clone().into(), self.cluster_name(cluster).into());
        }
        row
    }

    pub fn network(&self, network: &super::world::Network) -> Value {
        let mut row = json!({
            "id": network.id, "name": network.name, "displaytext": network.name, "broadcastdomaintype": "Native",
            "traffictype": "Guest", "gateway": "10.99.0.1", "netmask": "255.255.0.0", "cidr": "10.99.0.0/16",
            "zoneid": self.world.ids.zone, "zonename": ZONE, "issystem": false, "state": "Setup",
            "related": network.id, "type": if network.owner.is_some() { "Isolated" } else { "Shared" },
            "acltype": if network.owner.is_some() { "Account" } else { "Domain" }, "subdomainaccess": true,
            "service": [], "canusefordeploy": true, "ispersistent": false, "tags": [],
            "created": "2026-11-22T21:29:13+0000", "hasannotations": false,
        });
        match &network.owner {
            Some(owner) => self.owner(owner, &mut row),
            None => {
                let root = &self.world.domains[0];
                (row["domainid"], row["domain"], row["domainpath"]) =
                    (root.id.clone().into(), root.name.clone().into(), root.path.clone().into());
            }
        }
        row
    }

    pub fn offering(&self, offering: &super::world::Offering) -> Value {
        let mut row = json!({
            "id": offering.id, "name": offering.name, "state": "Active", "displaytext": offering.name,
            "created": "2026-11-22T21:07:25+0000", "storagetype": "shared",
            "provisioningtype": "thin", "offerha": false, "limitcpuuse": false, "isvolatile": false, "issystem": false,
            "defaultuse": false, "iscustomized": offering.cpus.is_none(), "diskofferingstrictness": false,
            "encryptroot": false, "hasannotations": false,
        });
        if let (Some(cpus), Some(memory)) = (offering.cpus, offering.memory) {
            (row["cpunumber"], row["memory"]) = (cpus.into(), memory.into());
            row["cpuspeed"] = offering.mhz.into();
        }
        row
    }

    pub fn disk_offering(&self, offering: &super::world::DiskOffering) -> Value {
        json!({
            "id": offering.id, "name": offering.name, "state": "Active", "displaytext": offering.name,
            "disksize": offering.size.unwrap_or(0), "created": "2026-11-22T21:07:25+0000",
            "iscustomized": offering.size.is_none(), "storagetype": offering.storage, "provisioningtype": "thin",
            "displayoffering": true, "disksizestrictness": false, "encrypt": false, "hasannotations": false,
        })
    }

    pub fn template(&self, template: &super::world::Template) -> Value {
        let root = &self.world.domains[0];
        let mut row = json!({
            "id": template.id, "name": template.name, "displaytext": "a guest that writes", "ispublic": true,
            "created": "2026-11-22T21:16:21+0000", "isready": true, "passwordenabled": false, "format": "QCOW2",
            "isfeatured": true, "crossZones": false, "ostypeid": template.os_type,
            "ostypename": self.os_type(&template.os_type), "account": "system", "zoneid": self.world.ids.zone,
            "zonename": ZONE, "size": template.size, "templatetype": "USER",
            "hypervisor": "KVM", "domain": root.name, "domainpath": root.path, "domainid": root.id,
            "isextractable": false, "details": {}, "arch": "x86_64", "tags": [], "hasannotations": false,
        });
        if let Some(owner) = &template.account {
            self.owner(owner, &mut row);
            (row["ispublic"], row["isfeatured"]) = (false.into(), false.into());
        }
        if self.full() {
            row["status"] = "Download Complete".into();
        }
        row
    }

    fn os_type(&self, id: &str) -> Option<&str> {
        self.world.os_types.iter().find(|(known, _)| known == id).map(|(_, name)| name.as_str())
    }

    pub fn user(&self, account: &Account) -> Value {
        let (number, role) = match account.kind {
            Kind::User => (0, "User"),
            Kind::Project => (5, "User"),
            Kind::RootAdmin => (1, "Admin"),
            Kind::DomainAdmin => (2, "DomainAdmin"),
        };
        let mut row = json!({
            "id": account.user_id, "username": account.name, "firstname": account.name, "lastname": "Sim",
            "email": format!("{}@example.org", account.name), "created": "2026-11-22T21:01:11+0000",
            "state": if account.failed_logins >= MAX_FAILED { "disabled" } else { "enabled" }, "accounttype": number,
            "usersource": "native", "roletype": role, "rolename": account.role, "accountid": account.id,
            "roleid": role_id(&account.role), "is2faenabled": account.second_factor,
        });
        if !account.api_key.is_empty() {
            row["apikey"] = account.api_key.clone().into();
        }
        self.owner(&account.name, &mut row);
        row.as_object_mut().and_then(|row| row.remove("domainpath"));
        row
    }

    pub fn account(&self, account: &Account) -> Value {
        let user = self.user(account);
        json!({
            "id": account.id, "name": account.name, "accounttype": user["accounttype"], "roletype": user["roletype"],
            "rolename": account.role, "domainid": user["domainid"], "domain": user["domain"],
            "domainpath": self.world.domain(&account.domain).map(|domain| domain.path.clone()),
            "state": "enabled", "user": [user],
        })
    }

    pub fn nic(&self, nic: &Nic) -> Value {
        let network = self.world.networks.iter().find(|network| network.id == nic.network);
        json!({
            "id": nic.id, "networkid": nic.network, "networkname": network.map(|network| network.name.clone()),
            "netmask": "255.255.0.0", "gateway": "10.99.0.1", "ipaddress": nic.ip, "isolationuri": "vlan://untagged",
            "broadcasturi": "vlan://untagged", "traffictype": "Guest", "type": "Shared", "isdefault": nic.default,
            "macaddress": nic.mac, "secondaryip": [], "extradhcpoption": [], "deviceid": nic.device.to_string(),
        })
    }

    /// An affinity group, or registered user data without what it says.
    pub fn registered(&self, row: &super::world::Registered) -> Value {
        let mut value = json!({"id": row.id, "name": row.name});
        self.owner(&row.account, &mut value);
        value
    }

    fn groups(&self, vm: &Vm) -> Vec<Value> {
        let groups = self.world.affinity_groups.iter().filter(|row| vm.affinity_groups.contains(&row.id));
        groups.map(|row| self.registered(row)).collect()
    }

    pub fn vm(&self, vm: &Vm) -> Value {
        let template = self.world.templates.iter().find(|template| template.id == vm.template);
        let offering = self.world.offerings.iter().find(|offering| offering.id == vm.offering);
        let owner = self.world.account(&vm.account);
        let boot = vm.boot.clone().unwrap_or(("Bios".into(), "legacy".into()));
        let mut row = json!({
            "id": vm.id, "name": vm.name, "displayname": vm.display_name,
            "userid": owner.map(|owner| owner.user_id.clone()), "username": vm.account, "created": vm.created,
            "state": vm.state, "haenable": false, "zoneid": self.world.ids.zone, "zonename": ZONE,
            "templateid": vm.template, "templatename": template.map(|template| template.name.clone()),
            "templateformat": "QCOW2", "passwordenabled": false, "serviceofferingid": vm.offering,
            "serviceofferingname": offering.map(|offering| offering.name.clone()), "cpunumber": vm.cpus,
            "cpuspeed": vm.mhz, "memory": vm.memory, "guestosid": vm.os_type, "ostypeid": vm.os_type,
            "osdisplayname": self.os_type(&vm.os_type), "rootdeviceid": 0, "rootdevicetype": "ROOT",
            "securitygroup": [], "nic": vm.nics.iter().map(|nic| self.nic(nic)).collect::<Vec<_>>(),
            "hypervisor": "KVM", "details": vm.details,
            "affinitygroup": self.groups(vm), "isdynamicallyscalable": false, "deleteprotection": false, "bootmode": boot.1,
            "boottype": boot.0, "receivedbytes": 0, "sentbytes": 0, "tags": self.tags("UserVm", &vm.id),
            "hasannotations": false,
        });
        self.owner(&vm.account, &mut row);
        if let Some(id) = &vm.user_data {
            row["userdataid"] = id.clone().into();
        }
        if self.full() {
            row["instancename"] = self.world.instance_name(vm).into();
            row["displayvm"] = true.into();
            row["arch"] = "x86_64".into();
            if let Some(host) = vm.host.as_deref().and_then(|id| self.world.host(id)) {
                (row["hostid"], row["hostname"]) = (host.id.clone().into(), host.name.clone().into());
            }
        } else {
            row["readonlydetails"] = "dataDiskController, rootDiskController".into();
        }
        self.surround_vm(vm, &mut row);
        row
    }

    pub fn volume(&self, volume: &Volume) -> Value {
        let vm = volume.vm.as_ref().and_then(|id| self.world.vms.get(id));
        let mut row = json!({
            "id": volume.id, "name": volume.name, "zoneid": self.world.ids.zone, "zonename": ZONE,
            "type": if volume.root { "ROOT" } else { "DATADISK" }, "provisioningtype": "thin", "size": volume.size,
            "created": volume.created, "state": volume.state, "destroyed": volume.state == "Destroy",
            "isextractable": true, "quiescevm": false, "supportsstoragesnapshot": false, "deleteprotection": false,
            "tags": self.tags("Volume", &volume.id), "hasannotations": false,
        });
        self.owner(&volume.account, &mut row);
        if let Some(vm) = vm {
            (row["virtualmachineid"], row["vmname"]) = (vm.id.clone().into(), vm.name.clone().into());
            (row["vmdisplayname"], row["vmstate"]) =
                (vm.display_name.clone().into(), vm.state.clone().into());
            row["deviceid"] = volume.device.into();
        }
        self.surround_volume(volume, &mut row);
        row
    }

    pub fn project(&self, project: &Project) -> Value {
        let domain = self.world.domain(&project.domain);
        json!({
            "id": project.id, "name": project.name, "displaytext": project.name,
            "projectaccountname": project.account, "domainid": project.domain,
            "domain": domain.map(|domain| domain.name.clone()), "state": "Active", "tags": [],
        })
    }
}

/// Roles have no rows of their own here.
fn role_id(name: &str) -> String {
    uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
}

/// After so many wrong passwords a user is disabled.
pub const MAX_FAILED: u32 = 5;
pub(super) const ZONE: &str = "sim1";
pub(super) const POD: &str = "pod-sim1";
