//! The parameters of one call, sorted as the signature wants them.

use std::collections::BTreeMap;

/// Names go out as they are set: write them in lower case, with only map sub-keys in mixed case
/// (`details[0].cpuNumber`), so that sorting their bytes is what CloudStack sorts.
#[derive(Clone, Default)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a parameter, replacing an earlier value.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.insert(name, value);
        self
    }

    /// Sets a parameter if there is a value for it.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.set(name, value),
            None => self,
        }
    }

    /// Sets a parameter unless it is set already.
    #[must_use]
    pub fn default_to(self, name: &str, value: &str) -> Self {
        match self.contains(name) {
            true => self,
            false => self.set(name, value),
        }
    }

    /// Drops a parameter.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// In the order of their names' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Names only: values may be passwords or keys.
impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_do_not_replace_and_values_are_not_printed() {
        let params = Params::new()
            .set("id", "hidden-value")
            .default_to("id", "other")
            .default_to("listall", "true")
            .maybe("name", None::<&str>);
        assert_eq!(params.iter().collect::<Vec<_>>(), [("id", "hidden-value"), ("listall", "true")]);
        assert!(!format!("{params:?}").contains("hidden-value"));
    }
}
