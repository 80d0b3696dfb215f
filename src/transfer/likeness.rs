//! What a restored instance has in common with the one it was, besides its size: owner, networks and
//! addresses, groups, user data, tags, details. What cannot be kept is given up and told, not refused.

use std::collections::BTreeMap;

use crate::auth::Role;
use crate::cloudstack::types::{Network, VirtualMachine};
use crate::cloudstack::{self, Client, Params, Submitted};
use crate::map::ovf::KEPT_DETAILS;

use super::cards::{self, Placed};
use super::core::{Core, Who};
use super::notes::Severity;
use super::owner::{self, Belongs};
use super::undo::Work;
use super::{CreateInstance, Error, Named, Owner};

#[derive(Debug, Default)]
pub(super) struct Likeness {
    owner: Belongs,
    /// Who had it, for what is told.
    former: Owner,
    cards: Vec<Placed>,
    groups: Vec<String>,
    user_data: Option<String>,
    details: BTreeMap<String, String>,
    tags: Vec<(String, String)>,
    os_type: Named,
    lost: Vec<String>,
    refusals: usize,
}

impl Core {
    /// Finds out what of it is there for this caller.
    pub(super) async fn likeness(
        &self,
        who: &Who,
        zone: &str,
        request: &CreateInstance,
    ) -> Result<Likeness, Error> {
        let mut lost = Vec::new();
        let owner = match owner::resolve(who, &request.owner).await? {
            Some(owner) => owner,
            None => {
                lost.push(GONE.to_owned());
                Belongs::Caller
            }
        };
        let mut networks = who.client.networks(Params::new().set("zoneid", zone)).await?;
        networks.retain(|network| network.issystem != Some(true) && network.canusefordeploy != Some(false));
        networks.retain(|network| is_open_to(network, &owner, who));
        networks.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        let mut cards = cards::place(&networks, &request.cards, &mut lost);
        if cards.is_empty() {
            cards.push(self.placeholder(&networks)?);
        }
        let networks = cards.iter().filter(|card| has_address(card)).map(|card| card.network.clone());
        for network in networks.collect::<Vec<_>>() {
            let others = neighbours(&who.client, &network).await?;
            cards::make_unique(&mut cards, &others, &mut lost);
        }
        Ok(Likeness {
            groups: groups(who, &owner, &request.affinity_groups, &mut lost).await?,
            user_data: user_data(who, &owner, request.user_data.as_deref(), &mut lost).await?,
            details: details(request),
            tags: request.tags.clone(),
            os_type: request.os_type.clone(),
            former: request.owner.clone(),
            owner,
            cards,
            lost,
            refusals: 0,
        })
    }

    /// Never none: CloudStack would make a network.
    fn placeholder(&self, networks: &[Network]) -> Result<Placed, Error> {
        let found = match self.parts.restore.network.as_deref() {
            Some(text) => networks.iter().find(|network| network.id == text || network.name == text),
            None => networks.first(),
        };
        let network = found.ok_or_else(|| {
            Error::conflict("there is no network for the instance: make one, or set [restore] network")
        })?;
        Ok(Placed { network: network.id.clone(), name: network.name.clone(), ..Placed::default() })
    }
}

impl Likeness {
    /// Deploys; what CloudStack refuses of the old instance's own is given up, one refusal after another.
    pub(super) async fn deploy(
        &mut self,
        core: &Core,
        client: &Client,
        work: &mut Work,
        params: &Params,
    ) -> Result<Submitted, Error> {
        loop {
            match work.submit(core, client, "deployVirtualMachine", self.apply(params.clone())).await {
                Err(Error::CloudStack(error)) if self.give_way(&error) => {}
                Err(Error::CloudStack(error)) if self.is_about_owner(&error) => {
                    return Err(owner::refused(&self.former));
                }
                // what the request names, not what it is sent to
                Err(Error::CloudStack(cloudstack::Error::NotFound { text })) => {
                    return Err(Error::invalid(text));
                }
                outcome => return outcome,
            }
        }
    }

    fn apply(&self, params: Params) -> Params {
        let mut params = cards::apply(&self.cards, self.owner.apply(params));
        for (key, value) in &self.details {
            params.insert(format!("details[0].{key}"), value);
        }
        let groups = Some(self.groups.join(",")).filter(|ids| !ids.is_empty());
        params.maybe("affinitygroupids", groups).maybe("userdataid", self.user_data.clone())
    }

    /// Whether another attempt is worth it, with less.
    fn give_way(&mut self, error: &cloudstack::Error) -> bool {
        use cloudstack::Error as E;
        let (text, vague) = match error {
            E::Invalid { text } => (text, false),
            E::Unavailable { text } | E::Internal { text } => (text, true),
            _ => return false,
        };
        let why = told(error);
        self.refusals += 1;
        let says = |word: &str| text.to_ascii_lowercase().contains(word);
        if says("affinity") && !self.groups.is_empty() {
            self.groups.clear();
            self.lost.push(format!("the affinity groups were not kept: {why}"));
            return true;
        }
        if (says("userdata") || says("user data")) && self.user_data.take().is_some() {
            self.lost.push(format!("the user data was not kept: {why}"));
            return true;
        }
        if (says("detail") || says("setting")) && !self.details.is_empty() {
            self.details.clear();
            self.lost.push(format!("the instance's settings were not kept: {why}"));
            return true;
        }
        // what is refused again and again is refused for reasons that cannot be read
        cards::give_way(&mut self.cards, text, &why, vague || self.refusals > PATIENCE, &mut self.lost)
    }

    /// Another tenant's account is never told apart from none.
    fn is_about_owner(&self, error: &cloudstack::Error) -> bool {
        use cloudstack::Error as E;
        self.owner != Belongs::Caller
            && match error {
                E::Forbidden { .. } | E::NotFound { .. } => true,
                E::Invalid { text } => text.contains("Unable to find account"),
                _ => false,
            }
    }

    /// What can be given to an instance only when it is there. Nothing of it is worth failing for.
    pub(super) async fn finish(mut self, core: &Core, who: &Who, vm: &str) {
        let client = &who.client;
        self.give_os_type(client, vm).await;
        self.choose_default(client, vm).await;
        if !self.tags.is_empty() {
            let mut params = Params::new().set("resourcetype", "UserVm").set("resourceids", vm);
            for (index, (key, value)) in self.tags.iter().enumerate() {
                params.insert(format!("tags[{index}].key"), key);
                params.insert(format!("tags[{index}].value"), value);
            }
            if let Err(error) = client.run("createTags", params).await {
                self.lost.push(format!("the tags could not be given: {}", told(&error)));
            }
        }
        for text in self.lost {
            core.notes.add(&who.user, vm, Severity::Warning, text);
        }
    }

    /// CloudStack's default is the first card.
    async fn choose_default(&mut self, client: &Client, vm: &str) {
        let Some(card) = self.cards.iter().skip(1).find(|card| card.default) else { return };
        let outcome = async {
            let row = client.virtual_machine(vm).await?;
            let nics = row.map(|row| row.nic).unwrap_or_default();
            let Some(nic) = nics.into_iter().find(|nic| nic.networkid.as_ref() == Some(&card.network)) else {
                return Ok(());
            };
            let params = Params::new().set("virtualmachineid", vm).set("nicid", nic.id);
            client.run("updateDefaultNicForVirtualMachine", params).await.map(|_| ())
        };
        if let Err(error) = outcome.await {
            let text = format!("the NIC in {} is not the default one any more: {}", card.name, told(&error));
            self.lost.push(text);
        }
    }

    /// By id, else by the name that a system has in every CloudStack.
    async fn give_os_type(&mut self, client: &Client, vm: &str) {
        let Named { id, name } = std::mem::take(&mut self.os_type);
        if id.is_none() && name.is_none() {
            return;
        }
        let set = |id: String| {
            client.query("updateVirtualMachine", Params::new().set("id", vm).set("ostypeid", id))
        };
        if let Some(id) = id
            && set(id).await.is_ok()
        {
            return;
        }
        let Some(name) = name else {
            self.lost.push("the guest system was not kept: this cloud does not know its type".to_owned());
            return;
        };
        let plain = |text: &str| text.to_lowercase().replace("microsoft ", "");
        let known = client.os_types(Params::new()).await.unwrap_or_default();
        let found = known.into_iter().find(|row| plain(&row.description) == plain(&name));
        let given = match found {
            Some(found) => set(found.id).await.is_ok(),
            None => false,
        };
        if !given {
            self.lost.push(format!("the guest system {name} was not kept: this cloud does not know it"));
        }
    }
}

/// The instances in a network that the caller sees; where they are too many, CloudStack alone tells what
/// is in use.
async fn neighbours(client: &Client, network: &str) -> Result<Vec<VirtualMachine>, Error> {
    let params = Params::new().set("networkid", network).set("details", "nics");
    match client.virtual_machines(params).await {
        Err(cloudstack::Error::TooMany { .. }) => Ok(Vec::new()),
        others => Ok(others?),
    }
}

/// Those that are there for the owner; an instance joins a group later only while it is stopped.
async fn groups(
    who: &Who,
    owner: &Belongs,
    wanted: &[Named],
    lost: &mut Vec<String>,
) -> Result<Vec<String>, Error> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = match who.client.apis().await?.allows("listAffinityGroups") {
        true => who.client.affinity_groups(Params::new().set("listall", "true")).await?,
        false => Vec::new(),
    };
    known.retain(|row| is_of((&row.account, &row.domainid, &row.projectid), owner, who));
    let mut found: Vec<String> = Vec::new();
    for group in wanted {
        let by_id = known.iter().find(|row| Some(&row.id) == group.id.as_ref());
        let by_name = || known.iter().find(|row| Some(&row.name) == group.name.as_ref());
        match by_id.or_else(by_name) {
            Some(row) if found.contains(&row.id) => {}
            Some(row) => found.push(row.id.clone()),
            None => {
                let name = group.name.as_deref().or(group.id.as_deref()).unwrap_or_default();
                lost.push(format!("the affinity group {name} is not there"));
            }
        }
    }
    Ok(found)
}

async fn user_data(
    who: &Who,
    owner: &Belongs,
    id: Option<&str>,
    lost: &mut Vec<String>,
) -> Result<Option<String>, Error> {
    let Some(id) = id else { return Ok(None) };
    let found = match who.client.apis().await?.allows("listUserData") {
        true => who.client.user_data(id).await?,
        false => None,
    };
    let found = found.filter(|row| is_of((&row.account, &row.domainid, &row.projectid), owner, who));
    if found.is_none() {
        lost.push("the user data is not there".to_owned());
    }
    Ok(found.map(|row| row.id))
}

/// The details that the guest sees; a number of cores that does not divide the processors stays out.
fn details(request: &CreateInstance) -> BTreeMap<String, String> {
    let fits = |key: &str, value: &str| {
        KEPT_DETAILS.contains(&key)
            && (key != "cpu.corespersocket"
                || value.parse().is_ok_and(|cores: u32| {
                    cores > 0 && request.cpus.is_some_and(|cpus| cpus.is_multiple_of(cores))
                }))
    };
    let kept = request.details.iter().filter(|(key, value)| fits(key, value));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Whether a network is everybody's, or the coming owner's.
fn is_open_to(network: &Network, owner: &Belongs, who: &Who) -> bool {
    let nobodys = network.account.is_none() && network.projectid.is_none();
    nobodys
        || network.acltype.as_deref() == Some("Domain")
        || is_of((&network.account, &network.domainid, &network.projectid), owner, who)
}

/// Whether something is the coming owner's, by its account, domain and project: not another tenant's
/// that an administrator sees too. What a user sees himself, he may use.
fn is_of(
    (account, domain, project): (&Option<String>, &Option<String>, &Option<String>),
    owner: &Belongs,
    who: &Who,
) -> bool {
    let user = &who.user;
    let his = |name: &str, id: &str| account.as_deref() == Some(name) && domain.as_deref() == Some(id);
    match owner {
        Belongs::Project(id) => project.as_ref() == Some(id),
        _ if project.is_some() => false,
        Belongs::Caller => user.role == Role::User || his(&user.account, &user.domain_id),
        Belongs::Account { account, domain_id } => his(account, domain_id),
    }
}

fn has_address(card: &Placed) -> bool {
    card.mac.is_some() || card.ip.is_some() || card.ip6.is_some()
}

fn told(error: &cloudstack::Error) -> String {
    error.told_to_caller().unwrap_or("CloudStack failed with it").to_owned()
}

/// Refusals that are taken at their word.
const PATIENCE: usize = 3;
const GONE: &str = "the owner is not there any more: the instance belongs to who restored it";
