//! Zones, clusters, hosts, pools and templates: data centers, clusters, hosts, storage domains, templates.

use axum::extract::Path;
use axum::response::Response;

use super::ask::Ask;
use super::fault::Fault;
use crate::cloudstack::Params;
use crate::map::{self, ids};
use crate::model;

pub async fn data_centers(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let zones = ask.caller.client.zones(Params::new()).await?;
    let rows: Vec<model::DataCenter> = zones.iter().map(map::data_center).collect();
    let rows = ask.searched(rows, named)?;
    ask.ok(&rows.into_iter().collect::<model::DataCenters>())
}

pub async fn data_center(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let zone = ask.caller.client.zone(&checked(&id)?).await?.ok_or_else(Fault::not_found)?;
    ask.ok(&map::data_center(&zone))
}

pub async fn clusters(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = ask.gateway.clusters(&ask.caller).await?;
    let rows = ask.searched(found.rows.iter().map(map::cluster).collect(), named)?;
    ask.ok(&rows.into_iter().collect::<model::Clusters>())
}

pub async fn clusters_of(ask: Ask, Path(zone): Path<String>) -> Result<Response, Fault> {
    ask.caller.client.zone(&checked(&zone)?).await?.ok_or_else(Fault::not_found)?;
    let found = ask.gateway.clusters(&ask.caller).await?;
    ask.ok(&found.rows.iter().filter(|row| row.zoneid == zone).map(map::cluster).collect::<model::Clusters>())
}

pub async fn cluster(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let found = ask.gateway.clusters(&ask.caller).await?;
    let row = found.rows.iter().find(|row| row.id == id).ok_or_else(Fault::not_found)?;
    ask.ok(&map::cluster(row))
}

pub async fn hosts(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = ask.gateway.hosts(&ask.caller).await?;
    let rows = found.rows.iter().map(|row| map::host(row, found.full)).collect();
    ask.ok(&ask.searched(rows, named)?.into_iter().collect::<model::Hosts>())
}

pub async fn host(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let found = ask.gateway.hosts(&ask.caller).await?;
    let row = found.rows.iter().find(|row| row.id == id).ok_or_else(Fault::not_found)?;
    ask.ok(&map::host(row, found.full))
}

pub async fn storage_domains(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = ask.gateway.pools(&ask.caller).await?;
    let rows = found.rows.iter().map(|row| map::storage_domain(row, found.full)).collect();
    ask.ok(&ask.searched(rows, named)?.into_iter().collect::<model::StorageDomains>())
}

pub async fn storage_domains_of(ask: Ask, Path(zone): Path<String>) -> Result<Response, Fault> {
    ask.caller.client.zone(&checked(&zone)?).await?.ok_or_else(Fault::not_found)?;
    let found = ask.gateway.pools(&ask.caller).await?;
    let rows = found.rows.iter().filter(|row| row.zoneid.as_deref() == Some(&zone));
    ask.ok(&rows.map(|row| map::storage_domain(row, found.full)).collect::<model::StorageDomains>())
}

pub async fn storage_domain(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    let found = ask.gateway.pools(&ask.caller).await?;
    let row = found.rows.iter().find(|row| row.id == id).ok_or_else(Fault::not_found)?;
    ask.ok(&map::storage_domain(row, found.full))
}

/// Blank first, as the engine has it.
pub async fn templates(ask: Ask) -> Result<Response, Fault> {
    ask.query.only_follows(&[])?;
    let found = ask.caller.client.templates(Params::new()).await?;
    let names = map::unique_names(found.iter().map(|row| (row.id.as_str(), row.name.as_str())));
    let rows = found.iter().map(|row| map::template(row, names.get(&row.id).map(String::as_str)));
    let rows = std::iter::once(map::blank_template()).chain(rows).collect();
    ask.ok(&ask.searched(rows, named)?.into_iter().collect::<model::Templates>())
}

pub async fn template(ask: Ask, Path(id): Path<String>) -> Result<Response, Fault> {
    if id == ids::ZERO {
        return ask.ok(&map::blank_template());
    }
    let found = ask.caller.client.template(&checked(&id)?).await?.ok_or_else(Fault::not_found)?;
    ask.ok(&map::template(&found, None))
}

/// CloudStack answers an id that is no uuid with an error of its own; here it is simply unknown.
pub(super) fn checked(id: &str) -> Result<String, Fault> {
    uuid::Uuid::try_parse(id).map(|_| id.to_ascii_lowercase()).map_err(|_| Fault::not_found())
}

/// Resources that can be searched by name and id.
pub(super) trait Named {
    fn name(&self) -> Option<&str>;
    fn id(&self) -> Option<&str>;
}

macro_rules! named {
    ($($type:ident),*) => {
        $(impl Named for model::$type {
            fn name(&self) -> Option<&str> {
                self.name.as_deref()
            }
            fn id(&self) -> Option<&str> {
                self.id.as_deref()
            }
        })*
    };
}

named!(Cluster, DataCenter, Disk, Host, Network, StorageDomain, Template, Vm, VnicProfile);

/// The value of a row's field, for a search.
pub(super) fn named<T: Named>(row: &T, field: &str) -> Vec<String> {
    let value = match field {
        "name" | "alias" => row.name(),
        "id" => row.id(),
        _ => None,
    };
    value.map(str::to_owned).into_iter().collect()
}

impl Ask {
    /// Keeps what the search of this request asks for, and no more rows than it wants.
    pub(super) fn searched<T>(
        &self,
        rows: Vec<T>,
        field: impl Fn(&T, &str) -> Vec<String>,
    ) -> Result<Vec<T>, Fault> {
        self.searched_by(rows, &["name", "id"], field)
    }

    pub(super) fn searched_by<T>(
        &self,
        rows: Vec<T>,
        known: &[&str],
        field: impl Fn(&T, &str) -> Vec<String>,
    ) -> Result<Vec<T>, Fault> {
        self.query.search()?.filter(rows, self.query.max(), known, field)
    }
}
