//! The service account, and the proof it asks for: it tells what only administrators may see, of
//! objects that a caller was shown by CloudStack itself, and of nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use super::types::{Cluster, Host, StoragePool, VirtualMachine, Volume};
use super::{Apis, Client, Error, Params};

/// An object that CloudStack has shown to a caller, read with his own credential. Nothing but these
/// reads makes one.
#[derive(Debug, Clone)]
pub struct Owned<T>(T);

impl<T> Owned<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Client {
    /// Read live; `None` if there is no such instance for this credential.
    pub async fn own_instance(&self, id: &str) -> Result<Option<Owned<VirtualMachine>>, Error> {
        Ok(self.virtual_machine(id).await?.map(Owned))
    }

    pub async fn own_instances(&self, params: Params) -> Result<Vec<Owned<VirtualMachine>>, Error> {
        Ok(self.virtual_machines(params).await?.into_iter().map(Owned).collect())
    }

    /// Read live; `None` if there is no such volume for this credential.
    pub async fn own_volume(&self, id: &str) -> Result<Option<Owned<Volume>>, Error> {
        Ok(self.volume(id).await?.map(Owned))
    }

    pub async fn own_volumes(&self, params: Params) -> Result<Vec<Owned<Volume>>, Error> {
        Ok(self.volumes(params).await?.into_iter().map(Owned).collect())
    }
}

/// `[cloudstack] api_key`: an account of type Admin.
#[derive(Debug, Clone)]
pub struct Service(Client);

impl Service {
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// For what the gateway itself began, on ids that it recorded while the caller was present.
    pub fn own_work(&self) -> &Client {
        &self.0
    }

    pub async fn apis(&self) -> Result<Arc<Apis>, Error> {
        self.0.apis().await
    }

    pub async fn clusters(&self, params: Params) -> Result<Vec<Cluster>, Error> {
        self.0.clusters(params).await
    }

    pub async fn cluster(&self, id: &str) -> Result<Option<Cluster>, Error> {
        self.0.cluster(id).await
    }

    pub async fn hosts(&self, params: Params) -> Result<Vec<Host>, Error> {
        self.0.hosts(params).await
    }

    pub async fn host(&self, id: &str) -> Result<Option<Host>, Error> {
        self.0.host(id).await
    }

    pub async fn storage_pools(&self, params: Params) -> Result<Vec<StoragePool>, Error> {
        self.0.storage_pools(params).await
    }

    pub async fn storage_pool(&self, id: &str) -> Result<Option<StoragePool>, Error> {
        self.0.storage_pool(id).await
    }

    /// With its host.
    pub async fn instance(&self, of: &Owned<VirtualMachine>) -> Result<Option<VirtualMachine>, Error> {
        self.0.virtual_machine(&of.id).await
    }

    /// With its pool and path.
    pub async fn volume(&self, of: &Owned<Volume>) -> Result<Option<Volume>, Error> {
        self.0.volume(&of.id).await
    }

    /// The same instances with their hosts, by id. `within`, a domain's id, may narrow the list.
    pub async fn instances(
        &self,
        of: &[Owned<VirtualMachine>],
        within: Option<&str>,
    ) -> Result<HashMap<String, VirtualMachine>, Error> {
        let Some(params) = about(of, "id", |vm| &vm.id, within) else { return Ok(HashMap::new()) };
        let rows = self.0.virtual_machines(params.set("details", "min")).await?;
        let rows = rows.into_iter().map(|row| (row.id.clone(), row));
        Ok(shown(of, |vm| &vm.id, rows.collect()))
    }

    /// The boot volumes of these instances with their pools, by instance.
    pub async fn roots(
        &self,
        of: &[Owned<VirtualMachine>],
        within: Option<&str>,
    ) -> Result<HashMap<String, Volume>, Error> {
        let params = about(of, "virtualmachineid", |vm| &vm.id, within);
        let Some(params) = params else { return Ok(HashMap::new()) };
        let rows = self.0.volumes(params.set("type", "ROOT")).await?;
        let rows = rows.into_iter().filter_map(|row| Some((row.virtualmachineid.clone()?, row)));
        Ok(shown(of, |vm| &vm.id, rows.collect()))
    }

    /// The same volumes with their pools, by id.
    pub async fn volumes(
        &self,
        of: &[Owned<Volume>],
        within: Option<&str>,
    ) -> Result<HashMap<String, Volume>, Error> {
        let Some(params) = about(of, "id", |volume| &volume.id, within) else { return Ok(HashMap::new()) };
        let rows = self.0.volumes(params).await?.into_iter().map(|row| (row.id.clone(), row));
        Ok(shown(of, |volume| &volume.id, rows.collect()))
    }
}

/// What to ask: nothing about none, one by its id, many by one list.
fn about<T>(of: &[Owned<T>], name: &str, id: impl Fn(&T) -> &String, within: Option<&str>) -> Option<Params> {
    match (of, within) {
        ([], _) => None,
        ([only], _) => Some(Params::new().set(name, id(only))),
        (_, None) => Some(Params::new()),
        (_, Some(domain)) => Some(Params::new().set("domainid", domain).set("isrecursive", "true")),
    }
}

/// Only what the caller was shown leaves this module, whatever the list held besides.
fn shown<T, R>(
    of: &[Owned<T>],
    id: impl Fn(&T) -> &String,
    mut rows: HashMap<String, R>,
) -> HashMap<String, R> {
    of.iter().filter_map(|own| rows.remove_entry(id(own))).collect()
}
