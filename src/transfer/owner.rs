//! Whose a restored instance becomes: his who had it, if the caller may make it for him.
//!
//! All of it is asked with the caller's own credential. That there is no such owner and that the
//! caller may not see him is the same answer.

use crate::auth::Role;
use crate::cloudstack::Params;
use crate::cloudstack::types::{Account, Domain};

use super::core::Who;
use super::{Error, Owner};

/// The owner as `deployVirtualMachine` takes him.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Belongs {
    #[default]
    Caller,
    Account {
        account: String,
        domain_id: String,
    },
    Project(String),
}

impl Belongs {
    pub(super) fn apply(&self, params: Params) -> Params {
        match self {
            Self::Caller => params,
            Self::Account { account, domain_id } => params.set("account", account).set("domainid", domain_id),
            Self::Project(id) => params.set("projectid", id),
        }
    }
}

/// `None` where whoever sees everything sees no such owner.
pub(super) async fn resolve(who: &Who, owner: &Owner) -> Result<Option<Belongs>, Error> {
    let found = match owner {
        Owner { project_id: None, project: None, account: None, .. } => return Ok(Some(Belongs::Caller)),
        Owner { project_id: None, project: None, .. } => account(who, owner).await?,
        _ => project(who, owner).await?,
    };
    match (found, who.user.role) {
        (None, Role::RootAdmin) => Ok(None),
        (None, _) => Err(refused(owner)),
        (found, _) => Ok(found),
    }
}

/// What the caller is told, whatever the reason.
pub(super) fn refused(owner: &Owner) -> Error {
    let name = owner.project.as_deref().or(owner.account.as_deref()).unwrap_or("another owner");
    Error::Forbidden { text: format!("this account cannot make instances for {name}, who had this one") }
}

async fn account(who: &Who, owner: &Owner) -> Result<Option<Belongs>, Error> {
    let Some(account) = owner.account.clone() else { return Ok(None) };
    let user = &who.user;
    let own = |domain: &str| account == user.account && domain == user.domain_id;
    if owner.domain_id.as_deref().is_some_and(own) {
        return Ok(Some(Belongs::Caller));
    }
    let domains = domains(who).await?;
    let by_id = domains.iter().find(|domain| Some(&domain.id) == owner.domain_id.as_ref());
    let path = owner.domain.as_deref().map(|path| path.trim_matches('/'));
    let by_path = || domains.iter().find(|domain| path.is_some() && domain.path.as_deref() == path);
    let Some(domain) = by_id.or_else(by_path) else { return Ok(None) };
    if own(&domain.id) {
        return Ok(Some(Belongs::Caller));
    }
    // others learn from CloudStack's refusal only that they may not
    if user.role == Role::RootAdmin {
        let params = Params::new().set("name", &account).set("domainid", &domain.id);
        let accounts = who.client.accounts(params).await?;
        let is = |row: &Account| row.name == account && row.domainid.as_ref() == Some(&domain.id);
        if !accounts.iter().any(is) {
            return Ok(None);
        }
    }
    Ok(Some(Belongs::Account { account, domain_id: domain.id.clone() }))
}

/// Those that the caller may list; a plain user's role has no such command, but his account tells the
/// path of his own one.
async fn domains(who: &Who) -> Result<Vec<Domain>, Error> {
    if who.client.apis().await?.allows("listDomains") {
        return Ok(who.client.domains(Params::new()).await?);
    }
    let user = &who.user;
    let params = Params::new().set("name", &user.account).set("domainid", &user.domain_id);
    let accounts = who.client.accounts(params).await?;
    let own = accounts.into_iter().filter(|row| row.name == user.account);
    Ok(own
        .map(|row| Domain { id: user.domain_id.clone(), path: row.domainpath, ..Domain::default() })
        .collect())
}

async fn project(who: &Who, owner: &Owner) -> Result<Option<Belongs>, Error> {
    let projects = who.client.projects(Params::new()).await?;
    let by_id = projects.iter().find(|project| Some(&project.id) == owner.project_id.as_ref());
    let named = projects.iter().filter(|project| Some(&project.name) == owner.project.as_ref());
    // names are unique within a domain only
    let by_name = named.clone().find(|project| project.domainid == owner.domain_id);
    let only = || match named.clone().count() {
        1 => named.clone().next(),
        _ => None,
    };
    let found = by_id.or(by_name).or_else(only);
    Ok(found.map(|project| Belongs::Project(project.id.clone())))
}
