//! Networks and their profiles: a CloudStack network is both, under one id.

use std::collections::HashMap;

use axum::extract::Path;
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use super::infrastructure::{checked, named};
use crate::auth::Caller;
use crate::cloudstack::Params;
use crate::cloudstack::types::Network;
use crate::{map, model};

pub async fn networks(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = Listed::read(&ask.caller, Params::new()).await?;
    let rows = found.rows.iter().map(|row| map::network(row, found.name(row))).collect();
    ask.ok(&ask.searched(rows, named)?.into_iter().collect::<model::Networks>())
}

pub async fn network(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let found = one(&ask.caller, &id).await?;
    ask.ok(&map::network(&found, None))
}

pub async fn networks_of(ask: Ask, Path(zone): Path<String>) -> Result<Response, Fault> {
    let zone = checked(&zone)?;
    ask.caller.client.zone(&zone).await?.ok_or_else(Fault::not_found)?;
    let found = Listed::read(&ask.caller, Params::new().set("zoneid", &zone)).await?;
    ask.ok(&found.rows.iter().map(|row| map::network(row, found.name(row))).collect::<model::Networks>())
}

/// CloudStack's networks belong to zones; a cluster has those of its zone.
pub async fn networks_of_cluster(ask: Ask, Path(cluster): Path<String>) -> Result<Response, Fault> {
    let clusters = ask.gateway.clusters(&ask.caller).await?;
    let zone =
        clusters.rows.iter().find(|row| row.id == cluster).ok_or_else(Fault::not_found)?.zoneid.clone();
    networks_of(ask, Path(zone)).await
}

pub async fn profiles(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = Listed::read(&ask.caller, Params::new()).await?;
    let rows = found.rows.iter().map(|row| map::vnic_profile(row, found.name(row))).collect();
    ask.ok(&ask.searched(rows, named)?.into_iter().collect::<model::VnicProfiles>())
}

pub async fn profile(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let found = one(&ask.caller, &id).await?;
    ask.ok(&map::vnic_profile(&found, None))
}

pub async fn profiles_of(ask: Ask, Path(network): Path<String>) -> Result<Response, Fault> {
    let found = one(&ask.caller, &network).await?;
    ask.ok(&std::iter::once(map::vnic_profile(&found, None)).collect::<model::VnicProfiles>())
}

async fn one(caller: &Caller, id: &str) -> Result<Network, Fault> {
    caller.client.network(&checked(id)?).await?.ok_or_else(Fault::not_found)
}

/// Networks under names that are unique among them.
struct Listed {
    rows: Vec<Network>,
    names: HashMap<String, String>,
}

impl Listed {
    async fn read(caller: &Caller, params: Params) -> Result<Self, Fault> {
        let rows = caller.client.networks(params).await?;
        let names = map::unique_names(rows.iter().map(|row| (row.id.as_str(), row.name.as_str())));
        Ok(Self { rows, names })
    }

    fn name(&self, row: &Network) -> Option<&str> {
        self.names.get(&row.id).map(String::as_str)
    }
}
