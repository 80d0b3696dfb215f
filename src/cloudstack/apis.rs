//! What the credential may call: `listApis`, which CloudStack filters by role.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::{Client, Error, Params};

/// The commands of one credential with their parameters.
#[derive(Debug, Default)]
pub struct Apis(HashMap<String, HashSet<String>>);

impl Apis {
    /// Whether the command exists and the role may call it.
    pub fn allows(&self, command: &str) -> bool {
        self.0.contains_key(command)
    }

    /// Whether the command has the parameter: unknown ones are ignored by CloudStack, not refused.
    pub fn takes(&self, command: &str, param: &str) -> bool {
        self.0.get(command).is_some_and(|params| params.contains(&param.to_lowercase()))
    }

    /// The parameter of a command whose name has a word in it: for those whose exact name is not known.
    pub fn param_with(&self, command: &str, word: &str) -> Option<&str> {
        self.0.get(command)?.iter().find(|param| param.contains(word)).map(String::as_str)
    }

    fn read(mut reply: Value) -> Self {
        let rows: Vec<Row> = Vec::deserialize(reply["api"].take()).unwrap_or_default();
        let params = |row: Row| row.params.into_iter().map(|param| param.name.to_lowercase()).collect();
        Self(rows.into_iter().map(|row| (row.name.clone(), params(row))).collect())
    }
}

impl Client {
    /// `listApis`, read again when it is older than a quarter of an hour: roles change.
    pub async fn apis(&self) -> Result<Arc<Apis>, Error> {
        let mut cached = self.0.apis.lock().await;
        if let Some((read, apis)) = cached.as_ref()
            && read.elapsed() < FRESH
        {
            return Ok(apis.clone());
        }
        let apis = Arc::new(Apis::read(self.query("listApis", Params::new()).await?));
        *cached = Some((Instant::now(), apis.clone()));
        Ok(apis)
    }
}

/// Held while it is read, so that many who ask at once cost one call.
pub(super) type Cached = tokio::sync::Mutex<Option<(Instant, Arc<Apis>)>>;

#[derive(Deserialize)]
struct Row {
    name: String,
    #[serde(default)]
    params: Vec<Param>,
}

#[derive(Deserialize)]
struct Param {
    name: String,
}

const FRESH: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_commands_and_parameters() {
        let apis = Apis::read(serde_json::json!({"count": 1, "api": [
            {"name": "createVolume", "params": [{"name": "customId"}, {"name": "name"}]}, {"name": "listZones"}]}));
        assert!(apis.allows("listZones") && !apis.allows("listzones"));
        assert!(apis.takes("createVolume", "customid") && !apis.takes("createVolume", "storageid"));
        assert!(!apis.takes("listZones", "id") && !Apis::read(Value::Null).allows("listZones"));
    }
}
