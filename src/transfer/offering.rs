//! Which service offering an instance gets. Pure.

use crate::cloudstack::types::ServiceOffering;

use super::Named;

/// What is asked for. Memory is in MiB, speed in MHz.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// What the instance had.
    pub(super) named: &'a Named,
    /// `[restore] offering`.
    pub(super) configured: Option<&'a str>,
    pub(super) cpus: Option<u32>,
    pub(super) memory: Option<u64>,
    pub(super) speed: Option<u32>,
}

/// An offering, with the details that it leaves open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sized {
    pub(super) offering: String,
    pub(super) details: Vec<(&'static str, String)>,
    /// What its user should know: it is not of the size that was asked for.
    pub(super) note: Option<String>,
}

/// The offering that the instance had, if it is there and has the size; else the configured one; else
/// one of exactly that size; else a custom one that allows it; else the smallest that is not less.
pub(super) fn choose(offerings: &[ServiceOffering], wanted: Wanted<'_>) -> Option<Sized> {
    let fixed = |o: &&ServiceOffering| !o.iscustomized && o.cpunumber.is_some() && o.memory.is_some();
    let by_id = offerings.iter().find(|offering| wanted.named.id.as_ref() == Some(&offering.id));
    let by_name = offerings.iter().find(|offering| wanted.named.name.as_ref() == Some(&offering.name));
    let same = [by_id, by_name].into_iter().flatten();
    if let Some(sized) = same.filter(|offering| wanted.is_met_by(offering)).find_map(|o| wanted.sized(o)) {
        return Some(sized);
    }
    if let Some(text) = wanted.configured {
        let found = offerings.iter().find(|offering| offering.id == text || offering.name == text);
        return found.and_then(|offering| wanted.sized(offering));
    }
    let reaches = |o: &&ServiceOffering| o.cpunumber >= wanted.cpus && o.memory >= wanted.memory;
    let smallest = |o: &&ServiceOffering| (o.memory, o.cpunumber, o.cpuspeed, o.id.clone());
    let exact = offerings.iter().filter(fixed).filter(|o| wanted.is_met_by(o)).min_by_key(smallest);
    if let Some(sized) = exact.and_then(|offering| wanted.sized(offering)) {
        return Some(sized);
    }
    let custom = offerings.iter().filter(|offering| offering.iscustomized);
    if let Some(sized) = custom.filter_map(|offering| wanted.sized(offering)).next() {
        return Some(sized);
    }
    let larger = offerings.iter().filter(fixed).filter(reaches).min_by_key(smallest)?;
    wanted.sized(larger)
}

impl Wanted<'_> {
    /// Whether an offering is, or can be, of that size.
    fn is_met_by(&self, offering: &ServiceOffering) -> bool {
        let met = |fixed: bool, wanted: bool| offering.iscustomized && !fixed || wanted;
        let cpus = self.cpus.is_none_or(|cpus| offering.cpunumber == Some(cpus));
        let memory = self.memory.is_none_or(|memory| offering.memory == Some(memory));
        met(offering.cpunumber.is_some(), cpus) && met(offering.memory.is_some(), memory)
    }

    /// The details that a custom offering leaves open, within its bounds.
    fn sized(&self, offering: &ServiceOffering) -> Option<Sized> {
        let mut details = Vec::new();
        if offering.iscustomized {
            let (cpus, memory) = (u64::from(self.cpus.unwrap_or(CPUS)), self.memory.unwrap_or(MEMORY));
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
                details.push(("cpuSpeed", self.speed.unwrap_or(SPEED).to_string()));
            }
            if offering.memory.is_none() {
                within(memory, "minmemory", "maxmemory").then_some(())?;
                details.push(("memory", memory.to_string()));
            }
        }
        let note = (!self.is_met_by(offering)).then(|| self.note(offering));
        Some(Sized { offering: offering.id.clone(), details, note })
    }

    fn note(&self, offering: &ServiceOffering) -> String {
        let size = |cpus: Option<u32>, memory: Option<u64>| {
            let cpus = cpus.map(|cpus| format!("{cpus} CPUs"));
            let memory = memory.map(|memory| format!("{memory} MiB"));
            [cpus, memory].into_iter().flatten().collect::<Vec<_>>().join(" and ")
        };
        format!(
            "the instance has {} of the service offering {} instead of {}",
            size(offering.cpunumber.or(self.cpus), offering.memory.or(self.memory)),
            offering.name,
            size(self.cpus, self.memory),
        )
    }
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

    const NOTHING: Named = Named { id: None, name: None };

    fn wanted(cpus: u32, memory: u64) -> Wanted<'static> {
        Wanted { named: &NOTHING, configured: None, cpus: Some(cpus), memory: Some(memory), speed: None }
    }

    fn chosen(offerings: &[ServiceOffering], wanted: Wanted<'_>) -> Option<(String, bool)> {
        choose(offerings, wanted).map(|sized| (sized.offering, sized.note.is_some()))
    }

    #[test]
    fn exact_then_custom_then_larger_with_a_note() {
        let all = [fixed("s", 1, 512), fixed("m", 2, 2048), fixed("l", 4, 8192), custom("c", 4096)];
        assert_eq!(chosen(&all, wanted(2, 2048)), Some(("m".into(), false)));
        assert_eq!(chosen(&all, wanted(3, 3000)), Some(("c".into(), false)));
        assert_eq!(chosen(&all, wanted(3, 5000)), Some(("l".into(), true)));
        assert_eq!(chosen(&all, wanted(8, 8192)), None);
        assert_eq!(chosen(&all, wanted(u32::MAX, u64::MAX)), None);
        let anything = Wanted { cpus: None, memory: None, ..wanted(1, 1) };
        assert_eq!(chosen(&all, anything), Some(("s".into(), false)));
        let note = choose(&all, wanted(3, 5000)).and_then(|sized| sized.note);
        let text = "the instance has 4 CPUs and 8192 MiB of the service offering name-l instead of 3 CPUs and 5000 MiB";
        assert_eq!(note.as_deref(), Some(text));
    }

    #[test]
    fn a_custom_offering_gets_what_it_leaves_open() {
        let sized = choose(&[custom("c", 4096)], wanted(3, 3000)).expect("it fits");
        let details = [("cpuNumber", "3"), ("cpuSpeed", "1000"), ("memory", "3000")];
        assert_eq!(sized.details, details.map(|(key, value)| (key, value.to_owned())));
        let fast = Wanted { speed: Some(2400), ..wanted(3, 3000) };
        let sized = choose(&[custom("c", 4096)], fast).expect("it fits");
        assert_eq!(sized.details[1], ("cpuSpeed", "2400".to_owned()));
    }

    #[test]
    fn the_one_it_had_if_it_still_has_the_size() {
        let all = [fixed("m", 2, 2048), custom("c", 4096), fixed("n", 2, 2048)];
        let named = |id: &str, name: &str| Named { id: Some(id.into()), name: Some(name.into()) };
        let had = |named: &Named, cpus, memory| chosen(&all, Wanted { named, ..wanted(cpus, memory) });
        assert_eq!(had(&named("n", ""), 2, 2048), Some(("n".into(), false)));
        assert_eq!(had(&named("c", ""), 2, 2048), Some(("c".into(), false)), "custom then, custom now");
        assert_eq!(had(&named("another cloud's", "name-n"), 2, 2048), Some(("n".into(), false)));
        assert_eq!(had(&named("n", ""), 3, 3000), Some(("c".into(), false)), "another size was asked for");
    }

    #[test]
    fn a_named_offering_that_is_gone_is_no_obstacle_but_a_configured_one_is() {
        let all = [fixed("m", 2, 2048)];
        let gone = Named { id: Some("gone".into()), name: None };
        assert_eq!(chosen(&all, Wanted { named: &gone, ..wanted(2, 2048) }), Some(("m".into(), false)));
        assert_eq!(chosen(&all, Wanted { configured: Some("gone"), ..wanted(2, 2048) }), None);
        let configured = Wanted { configured: Some("name-m"), ..wanted(1, 512) };
        assert_eq!(chosen(&all, configured), Some(("m".into(), true)));
    }
}
