//! Which service offering an instance gets. Pure.

use crate::cloudstack::types::ServiceOffering;

/// An offering, with the details that it leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sized {
    pub(super) offering: String,
    pub(super) details: Vec<(&'static str, String)>,
}

/// The offering that is named, if it is there; else one of exactly that size; else a custom one that
/// allows it; else the smallest that is not less. Memory is in MiB.
pub(super) fn choose(
    offerings: Vec<ServiceOffering>,
    named: Option<&str>,
    configured: Option<&str>,
    cpus: Option<u32>,
    memory: Option<u64>,
) -> Option<Sized> {
    let is = |offering: &ServiceOffering, text: &str| offering.id == text || offering.name == text;
    for text in [named, configured].into_iter().flatten() {
        let found = offerings.iter().find(|offering| is(offering, text));
        if let Some(sized) = found.and_then(|offering| sized(offering, cpus, memory)) {
            return Some(sized);
        }
    }
    if configured.is_some() {
        return None;
    }
    let fixed = |o: &&ServiceOffering| !o.iscustomized && o.cpunumber.is_some() && o.memory.is_some();
    let matches = |o: &&ServiceOffering| {
        cpus.is_none_or(|cpus| o.cpunumber == Some(cpus))
            && memory.is_none_or(|memory| o.memory == Some(memory))
    };
    let reaches = |o: &&ServiceOffering| o.cpunumber >= cpus && o.memory >= memory;
    let smallest = |o: &&ServiceOffering| (o.memory, o.cpunumber, o.cpuspeed, o.id.clone());
    let exact = offerings.iter().filter(fixed).filter(matches).min_by_key(smallest);
    if let Some(sized) = exact.and_then(|offering| sized(offering, cpus, memory)) {
        return Some(sized);
    }
    let custom = offerings.iter().filter(|offering| offering.iscustomized);
    if let Some(sized) = custom.filter_map(|offering| sized(offering, cpus, memory)).next() {
        return Some(sized);
    }
    let larger = offerings.iter().filter(fixed).filter(reaches).min_by_key(smallest)?;
    sized(larger, cpus, memory)
}

/// The details that a custom offering leaves open, within its bounds.
fn sized(offering: &ServiceOffering, cpus: Option<u32>, memory: Option<u64>) -> Option<Sized> {
    let mut details = Vec::new();
    if offering.iscustomized {
        let (cpus, memory) = (u64::from(cpus.unwrap_or(CPUS)), memory.unwrap_or(MEMORY));
        let bound = |name: &str| {
            let value = offering.serviceofferingdetails.get(name)?;
            value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
        };
        let within = |value: u64, low: &str, high: &str| {
            bound(low).is_none_or(|low| value >= low) && bound(high).is_none_or(|high| value <= high)
        };
        if offering.cpunumber.is_none() {
            within(cpus, "mincpunumber", "maxcpunumber").then_some(())?;
            details.push(("cpuNumber", cpus.to_string()));
        }
        if offering.cpuspeed.is_none() {
            details.push(("cpuSpeed", SPEED.to_string()));
        }
        if offering.memory.is_none() {
            within(memory, "minmemory", "maxmemory").then_some(())?;
            details.push(("memory", memory.to_string()));
        }
    }
    Some(Sized { offering: offering.id.clone(), details })
}

/// What an instance gets whose description says nothing.
const CPUS: u32 = 1;
/// MiB.
const MEMORY: u64 = 1024;
/// MHz, which CloudStack uses for shares and capacity.
const SPEED: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    fn fixed(id: &str, cpus: u32, memory: u64) -> ServiceOffering {
        ServiceOffering {
            id: id.into(),
            name: format!("name-{id}"),
            cpunumber: Some(cpus),
            cpuspeed: Some(1000),
            memory: Some(memory),
            ..ServiceOffering::default()
        }
    }

    fn custom(id: &str, most: u64) -> ServiceOffering {
        let details = [("maxmemory".to_owned(), serde_json::json!(most.to_string()))];
        ServiceOffering {
            id: id.into(),
            iscustomized: true,
            serviceofferingdetails: details.into(),
            ..ServiceOffering::default()
        }
    }

    fn chosen(offerings: &[ServiceOffering], cpus: u32, memory: u64) -> Option<String> {
        choose(offerings.to_vec(), None, None, Some(cpus), Some(memory)).map(|sized| sized.offering)
    }

    #[test]
    fn exact_then_custom_then_larger() {
        let all = [fixed("s", 1, 512), fixed("m", 2, 2048), fixed("l", 4, 8192), custom("c", 4096)];
        assert_eq!(chosen(&all, 2, 2048).as_deref(), Some("m"));
        assert_eq!(chosen(&all, 3, 3000).as_deref(), Some("c"));
        assert_eq!(chosen(&all, 3, 5000).as_deref(), Some("l"));
        assert_eq!(chosen(&all, 8, 8192), None);
        assert_eq!(choose(all.to_vec(), None, None, None, None).map(|s| s.offering).as_deref(), Some("s"));
    }

    #[test]
    fn a_custom_offering_gets_what_it_leaves_open() {
        let sized = choose(vec![custom("c", 4096)], None, None, Some(3), Some(3000)).expect("it fits");
        let details = [("cpuNumber", "3"), ("cpuSpeed", "1000"), ("memory", "3000")];
        assert_eq!(sized.details, details.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn a_named_offering_that_is_gone_is_no_obstacle_but_a_configured_one_is() {
        let all = vec![fixed("m", 2, 2048)];
        let named = choose(all.clone(), Some("gone"), None, Some(2), Some(2048));
        assert_eq!(named.map(|sized| sized.offering).as_deref(), Some("m"));
        assert_eq!(choose(all.clone(), None, Some("gone"), Some(2), Some(2048)), None);
        let configured = choose(all, None, Some("name-m"), Some(1), Some(512));
        assert_eq!(configured.map(|sized| sized.offering).as_deref(), Some("m"));
    }
}
