//! Why a list of the simulator is not the recorded one: the tables of the comparison.

/// Why some fields of a list are different; `*` at the start of a field is any start.
pub struct Reason {
    pub command: &'static str,
    pub what: &'static str,
    /// Separated by blanks.
    pub fields: &'static str,
    pub why: &'static str,
}

/// What remains different, and why.
pub const REASONS: &[Reason] = &[
    Reason {
        command: "listAccounts",
        what: "always recorded, given sometimes",
        fields: "user[].account",
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listAccounts",
        what: "given, never recorded",
        fields: "user[].project user[].projectid",
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listAccounts",
        what: "recorded, not given",
        fields: "*available *limit *total apikeyaccess created groups isdefault receivedbytes roleid \
            sentbytes user[].is2famandated user[].iscallerchilddomain user[].isdefault \
            vmrunning vmstopped",
        why: "limits and counters, which only CloudStack's own pages show",
    },
    Reason {
        command: "listDomains",
        what: "recorded, not given",
        fields: "*available *limit *total created hasannotations haschild level parentdomainid \
            parentdomainname",
        why: "limits and counters, which only CloudStack's own pages show",
    },
    Reason {
        command: "listEvents",
        what: "recorded, not given",
        fields: "domain domainid domainpath parentid resourcename",
        why: "events are kept as they are told; the product reads none of these",
    },
    Reason {
        command: "listHosts",
        what: "recorded, not given",
        fields: "cpuallocatedpercentage cpuallocatedvalue cpuallocatedwithoverprovisioning cpuloadaverage \
            cpuwithoverprovisioning events hostha instanceconversionsupported lastpinged \
            managementserverid managementservername memoryallocatedbytes memoryallocatedpercentage \
            memorywithoverprovisioning networkkbsread networkkbswrite outofbandmanagement",
        why: "load and management of a host, which the simulator does not have",
    },
    Reason {
        command: "listNetworks",
        what: "recorded, not given",
        fields: "account broadcasturi details displaynetwork dns1 networkofferingavailability \
            networkofferingconservemode networkofferingdisplaytext networkofferingid \
            networkofferingname physicalnetworkid privatemtu publicmtu receivedbytes redundantrouter \
            restartrequired sentbytes specifyipranges specifyvlan strechedl2subnet \
            supportsvmautoscaling vlan",
        why: "the network's offering and router settings: the simulator has neither",
    },
    Reason {
        command: "listOsTypes",
        what: "recorded, not given",
        fields: "fordisplay isuserdefined oscategoryid oscategoryname",
        why: "there are no categories of guest systems",
    },
    Reason {
        command: "listServiceOfferings",
        what: "recorded, not given",
        fields: "diskofferingdisplaytext diskofferingid diskofferingname dynamicscalingenabled gpudisplay \
            networkrate rootdisksize",
        why: "the disk half of an offering, which the simulator does not have",
    },
    Reason {
        command: "listStoragePools",
        what: "always recorded, given sometimes",
        fields: "clusterid clustername podid podname",
        why: "the simulator also has a zone-wide pool, the recorded cloud had none",
    },
    Reason {
        command: "listStoragePools",
        what: "recorded, not given",
        fields: "capacitybytes istagarule storagecapabilities",
        why: "settings of pools that nothing reads",
    },
    Reason {
        command: "listTemplates",
        what: "recorded, not given",
        fields: "bits checksum deployasis directdownload downloaddetails forcks isdynamicallyscalable \
            requireshvm sshkeyenabled url",
        why: "how a template was fetched: the simulator's is just there",
    },
    Reason {
        command: "listUsers",
        what: "always recorded, given sometimes",
        fields: "account",
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listUsers",
        what: "given, never recorded",
        fields: "project projectid",
        why: "a project's account has a user here; no project was recorded",
    },
    Reason {
        command: "listUsers",
        what: "recorded, not given",
        fields: "apikeyaccess is2famandated iscallerchilddomain isdefault",
        why: "settings of users that nothing reads",
    },
    Reason {
        command: "listVirtualMachines",
        what: "always recorded, given sometimes",
        fields: "pooltype",
        why: "one instance here was never started and has no pool; none such was recorded in this list",
    },
    Reason {
        command: "listVirtualMachines",
        what: "given, never recorded",
        fields: "nic[].ipaddress",
        why: "the simulator's network gives addresses, the recorded one did not",
    },
    Reason {
        command: "listVirtualMachines",
        what: "recorded, not given",
        fields: "diskofferingid diskofferingname",
        why: "no instance here was restored onto a disk offering's volume",
    },
    Reason {
        command: "listZones",
        what: "recorded, not given",
        fields: "allowuserspecifyvrmtu asnrange dns1 gputotal gpuused guestcidraddress internaldns1 \
            ismultiarch isnsxenabled routedmodeenabled routerprivateinterfacemaxmtu \
            routerpublicinterfacemaxmtu zonetoken",
        why: "settings of the zone's network that nothing reads",
    },
];

/// Refusals that are not the recorded ones, in the order of the table above, and why.
pub const REFUSED_OTHERWISE: &[(&str, &str)] = &[];

/// Fields around jobs, and of logins, that are different, and why.
pub const AROUND_JOBS: &[(&str, &str, &str)] = &[];
