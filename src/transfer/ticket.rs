//! Tickets: their ids, which are made anew whenever they are needed, and what they allow.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use crate::auth::HmacSecret;
use crate::imageio::api::Ticket;
use crate::state::{Direction, Dirty, Transfer};

/// The secret name of a transfer's ticket: the same after a restart, and nowhere in the database.
pub(super) fn id(secret: &HmacSecret, transfer: &Transfer) -> String {
    let data = [transfer.id.as_bytes(), &[0], transfer.nonce.as_bytes()].concat();
    URL_SAFE_NO_PAD.encode(secret.mac(KIND, &data))
}

pub(super) fn url(secret: &HmacSecret, transfer: &Transfer, port: u16) -> String {
    let host = match transfer.host_address.contains(':') {
        true => format!("[{}]", transfer.host_address),
        false => transfer.host_address.clone(),
    };
    format!("https://{host}:{port}/images/{}", id(secret, transfer))
}

/// `None` before the host has exported the image.
pub(super) fn ticket(secret: &HmacSecret, transfer: &Transfer) -> Option<Ticket> {
    let op = match transfer.direction {
        Direction::Download => "read",
        Direction::Upload => "write",
    };
    let idle = match transfer.inactivity_timeout {
        0 => LONGEST,
        seconds => seconds.min(LONGEST),
    };
    Some(Ticket {
        uuid: id(secret, transfer),
        size: transfer.size,
        ops: vec![op.to_owned()],
        timeout: (idle + SLACK).max(SHORTEST),
        url: transfer.export_url.clone()?,
        inactivity_timeout: Some(idle.max(SHORTEST_SOCKET)),
        transfer_id: Some(transfer.id.clone()),
        filename: None,
        sparse: transfer.direction == Direction::Upload,
        dirty: transfer.dirty.is_some(),
        all_dirty: transfer.dirty == Some(Dirty::All),
    })
}

/// What a client of old shows to the image proxy: which ticket it may use, and until when.
pub(super) fn signed(secret: &HmacSecret, ticket: &str, until: u64) -> String {
    let claims = format!("{{\"ticket\":\"{ticket}\",\"exp\":{until}}}");
    let claims = URL_SAFE_NO_PAD.encode(claims);
    let mac = secret.mac(SIGNED, claims.as_bytes());
    format!("{claims}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// Ticket and end of a signed one of ours, whether that has come or not.
pub(super) fn unsigned(secret: &HmacSecret, signed: &str) -> Option<(String, u64)> {
    let (claims, mac) = signed.split_once('.')?;
    let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
    if !bool::from(secret.mac(SIGNED, claims.as_bytes()).ct_eq(mac.as_slice())) {
        return None;
    }
    let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some((claims["ticket"].as_str()?.to_owned(), claims["exp"].as_u64()?))
}

/// 256 random bits for a new row.
pub(super) fn nonce() -> String {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes).expect("the kernel's random source works");
    URL_SAFE_NO_PAD.encode(bytes)
}

const KIND: &str = "ticket";
const SIGNED: &str = "signed-ticket";
/// Seconds beyond the inactivity timeout: whether a transfer is idle is decided here, not by expiry.
const SLACK: u64 = 60;
const SHORTEST: u64 = 300;
const LONGEST: u64 = 24 * 3600;
/// Seconds an idle connection stays open, as ovirt-imageio has it.
const SHORTEST_SOCKET: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_ticket_is_ours_as_it_is_or_not_at_all() {
        let secret = HmacSecret::new("one".into());
        let text = signed(&secret, "ticket", 1234);
        assert_eq!(unsigned(&secret, &text), Some(("ticket".to_owned(), 1234)));
        assert_eq!(unsigned(&HmacSecret::new("other".into()), &text), None);
        let (claims, mac) = text.split_once('.').expect("two parts");
        let forged = URL_SAFE_NO_PAD.encode("{\"ticket\":\"x\",\"exp\":9999999999}");
        for bad in [
            String::new(),
            claims.to_owned(),
            format!("{forged}.{mac}"),
            format!("{claims}."),
            format!("{claims}.{forged}"),
        ] {
            assert_eq!(unsigned(&secret, &bad), None, "{bad}");
        }
    }
}
