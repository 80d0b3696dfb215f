//! The cards of a restored instance: in which networks, with which addresses. Pure.

use std::collections::HashSet;

use crate::cloudstack::Params;
use crate::cloudstack::types::{Network, VirtualMachine};

use super::Card;

/// A card in a network that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) network: String,
    /// For what is told of it.
    pub(super) name: String,
    pub(super) mac: Option<String>,
    pub(super) ip: Option<String>,
    pub(super) ip6: Option<String>,
    pub(super) default: bool,
}

/// The cards whose networks are there, by id or by name; CloudStack allows one card in each.
pub(super) fn place(networks: &[Network], wanted: &[Card], lost: &mut Vec<String>) -> Vec<Placed> {
    let mut taken = HashSet::new();
    let mut placed = Vec::new();
    for (number, card) in wanted.iter().enumerate() {
        let is = |field: &str, wanted: &Option<String>| wanted.as_deref() == Some(field);
        let by_id = networks.iter().find(|network| is(&network.id, &card.network.id));
        let by_name = || networks.iter().find(|network| is(&network.name, &card.network.name));
        let what = format!(
            "NIC {}{}",
            number + 1,
            card.mac.as_deref().map(|mac| format!(" ({mac})")).unwrap_or_default()
        );
        let Some(network) = by_id.or_else(by_name) else {
            let name =
                card.network.name.as_deref().or(card.network.id.as_deref()).unwrap_or("without a name");
            lost.push(format!("{what} was left out: its network {name} is not there"));
            continue;
        };
        if !taken.insert(network.id.clone()) {
            lost.push(format!(
                "{what} was left out: the instance has one in the network {} already",
                network.name
            ));
            continue;
        }
        placed.push(Placed {
            network: network.id.clone(),
            name: network.name.clone(),
            mac: card.mac.clone(),
            ip: card.ip.clone(),
            ip6: card.ip6.clone(),
            default: card.default,
        });
    }
    placed
}

/// Takes away the addresses that another instance in the same network has.
pub(super) fn make_unique(cards: &mut [Placed], others: &[VirtualMachine], lost: &mut Vec<String>) {
    for card in cards {
        let there = others.iter().flat_map(|vm| vm.nic.iter().map(move |nic| (vm, nic)));
        for (vm, nic) in there.filter(|(_, nic)| nic.networkid.as_ref() == Some(&card.network)) {
            // one that waits to be expunged never runs again by itself
            let gone = matches!(vm.state.as_str(), "Destroyed" | "Expunging" | "Error");
            let same = |ours: &Option<String>, theirs: &Option<String>| {
                ours.is_some() && ours == &theirs.as_deref().map(str::to_ascii_lowercase)
            };
            if !gone && same(&card.mac, &nic.macaddress) {
                lost.push(told("MAC address", card.mac.take(), card, &format!("{} has it", vm.name)));
            }
            if same(&card.ip, &nic.ipaddress) {
                lost.push(told("address", card.ip.take(), card, &format!("{} has it", vm.name)));
            }
            if same(&card.ip6, &nic.ip6address) {
                lost.push(told("address", card.ip6.take(), card, &format!("{} has it", vm.name)));
            }
        }
    }
}

/// Gives up the addresses that a refusal is about: those it names, else all of the kind it speaks of,
/// IP addresses before MAC addresses. Whether there was anything to give up.
pub(super) fn give_way(
    cards: &mut [Placed],
    refusal: &str,
    why: &str,
    vague: bool,
    lost: &mut Vec<String>,
) -> bool {
    let text = refusal.to_ascii_lowercase();
    let before = lost.len();
    for card in &mut *cards {
        let named =
            |field: &Option<String>| field.as_deref().is_some_and(|value| contains_word(&text, value));
        if named(&card.mac) {
            lost.push(told("MAC address", card.mac.take(), card, why));
        }
        if named(&card.ip) {
            lost.push(told("address", card.ip.take(), card, why));
        }
        if named(&card.ip6) {
            lost.push(told("address", card.ip6.take(), card, why));
        }
    }
    let of_mac = contains_word(&text, "mac");
    if lost.len() == before && !of_mac && (vague || contains_word(&text, "ip") || text.contains("address")) {
        for card in &mut *cards {
            for address in [card.ip.take(), card.ip6.take()].into_iter().flatten() {
                lost.push(told("address", Some(address), card, why));
            }
        }
    }
    if lost.len() == before && (vague || of_mac || text.contains("address")) {
        for card in cards {
            if let Some(mac) = card.mac.take() {
                lost.push(told("MAC address", Some(mac), card, why));
            }
        }
    }
    lost.len() > before
}

/// The parameters that say which networks, with the addresses if there are any.
pub(super) fn apply(cards: &[Placed], mut params: Params) -> Params {
    if cards.iter().all(|card| card.mac.is_none() && card.ip.is_none() && card.ip6.is_none()) {
        let ids: Vec<_> = cards.iter().map(|card| card.network.as_str()).collect();
        return params.set("networkids", ids.join(","));
    }
    for (index, card) in cards.iter().enumerate() {
        let fields = [
            ("networkid", Some(&card.network)),
            ("ip", card.ip.as_ref()),
            ("ipv6", card.ip6.as_ref()),
            ("mac", card.mac.as_ref()),
        ];
        for (field, value) in fields {
            if let Some(value) = value {
                params.insert(format!("iptonetworklist[{index}].{field}"), value);
            }
        }
    }
    params
}

fn told(what: &str, address: Option<String>, card: &Placed, why: &str) -> String {
    let address = address.unwrap_or_default();
    format!("the {what} {address} in the network {} was not kept: {why}", card.name)
}

/// Whether a word stands by itself: `10.0.0.1` does not in `10.0.0.12`.
fn contains_word(text: &str, word: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(word).any(|(at, found)| {
        let before = text[..at].chars().next_back();
        let after = text[at + found.len()..].chars().next();
        !before.is_some_and(inner) && !after.is_some_and(inner)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloudstack::types::Nic;
    use crate::transfer::Named;

    fn network(id: &str, name: &str) -> Network {
        Network { id: id.into(), name: name.into(), ..Network::default() }
    }

    fn card(id: &str, name: &str, mac: &str, ip: &str) -> Card {
        let filled = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Card {
            network: Named { id: filled(id), name: filled(name) },
            mac: filled(mac),
            ip: filled(ip),
            ..Card::default()
        }
    }

    fn placed() -> Vec<Placed> {
        let networks = [network("n1", "front"), network("n2", "back")];
        let wanted = [
            card("n1", "", "02:01:00:00:00:01", "10.0.0.1"),
            card("gone", "back", "02:01:00:00:00:02", "10.0.0.12"),
        ];
        let mut lost = Vec::new();
        let placed = place(&networks, &wanted, &mut lost);
        assert!(lost.is_empty(), "{lost:?}");
        placed
    }

    #[test]
    fn networks_by_id_then_by_name_and_one_card_in_each() {
        assert_eq!(placed().iter().map(|card| card.network.as_str()).collect::<Vec<_>>(), ["n1", "n2"]);
        let mut lost = Vec::new();
        let wanted =
            [card("n1", "", "", ""), card("", "front", "02:01:00:00:00:01", ""), card("x", "y", "", "")];
        assert_eq!(place(&[network("n1", "front")], &wanted, &mut lost).len(), 1);
        let told = [
            "NIC 2 (02:01:00:00:00:01) was left out: the instance has one in the network front already",
            "NIC 3 was left out: its network y is not there",
        ];
        assert_eq!(lost, told);
    }

    #[test]
    fn addresses_that_somebody_has_are_not_asked_for() {
        let other = |state: &str| VirtualMachine {
            name: "web".into(),
            state: state.into(),
            nic: vec![Nic {
                networkid: Some("n1".into()),
                macaddress: Some("02:01:00:00:00:01".into()),
                ipaddress: Some("10.0.0.1".into()),
                ..Nic::default()
            }],
            ..VirtualMachine::default()
        };
        let (mut cards, mut lost) = (placed(), Vec::new());
        make_unique(&mut cards, &[other("Stopped")], &mut lost);
        assert_eq!((lost.len(), &cards[0].mac, &cards[0].ip), (2, &None, &None));
        assert_eq!(
            lost[0],
            "the MAC address 02:01:00:00:00:01 in the network front was not kept: web has it"
        );
        assert!(cards[1].mac.is_some() && cards[1].ip.is_some());
        let (mut cards, mut lost) = (placed(), Vec::new());
        make_unique(&mut cards, &[other("Destroyed")], &mut lost);
        assert_eq!((lost.len(), cards[0].mac.is_some(), &cards[0].ip), (1, true, &None));
    }

    #[test]
    fn what_a_refusal_names_is_given_up_and_no_more() {
        let refused = |text: &str, vague: bool| {
            let (mut cards, mut lost) = (placed(), Vec::new());
            give_way(&mut cards, text, text, vague, &mut lost);
            let left = |card: &Placed| (card.mac.is_some(), card.ip.is_some());
            (left(&cards[0]), left(&cards[1]))
        };
        let all = ((true, true), (true, true));
        assert_eq!(refused("10.0.0.12 is in use", false), ((true, true), (true, false)));
        assert_eq!(refused("02:01:00:00:00:01 exists", false), ((false, true), (true, true)));
        assert_eq!(refused("Unable to acquire Guest IP address", false), ((true, false), (true, false)));
        assert_eq!(refused("A NIC with this MAC address exists", false), ((false, true), (false, true)));
        assert_eq!(refused("the name is taken", false), all);
        assert_eq!(refused("Internal error", true), ((true, false), (true, false)));
        let (mut cards, mut lost) = (placed(), Vec::new());
        let mut rounds = 0;
        while give_way(&mut cards, "Internal error", "it failed", true, &mut lost) {
            rounds += 1;
        }
        assert_eq!((rounds, lost.len()), (2, 4));
        let params = apply(&cards, Params::new());
        assert_eq!(params.value("networkids"), Some("n1,n2"));
    }

    #[test]
    fn addresses_go_with_their_networks() {
        let params = apply(&placed(), Params::new());
        assert_eq!(params.value("iptonetworklist[1].networkid"), Some("n2"));
        assert_eq!(params.value("iptonetworklist[1].mac"), Some("02:01:00:00:00:02"));
        assert_eq!(
            (params.value("iptonetworklist[0].ip"), params.value("networkids")),
            (Some("10.0.0.1"), None)
        );
    }
}
