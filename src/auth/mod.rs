//! Who is calling: names, logins, tokens and the sessions behind them.
//!
//! CloudStack decides who somebody is; this module asks it once per session and remembers the
//! answer, never the password. It knows nothing of HTTP or of oVirt's resources.

mod config;
mod lockout;
mod name;
mod oauth;
mod secret;
mod session;

use std::time::Duration;

pub use config::{Config, Domains};
pub use oauth::Grant;
pub use secret::HmacSecret;
pub use session::Sessions;

use crate::cloudstack;

/// Somebody with a proven identity, and the means to act as him.
#[derive(Debug)]
pub struct Caller {
    pub client: cloudstack::Client,
    pub user: User,
}

/// A CloudStack user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub username: String,
    /// The name as it was given, `user@domain`.
    pub principal: String,
    pub account: String,
    pub domain_id: String,
    /// The domain's name as CloudStack shows it.
    pub domain: String,
    pub role: Role,
}

/// The type of the user's role; what a custom role really may is in `Client::apis`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    User,
    /// Type Admin: sees hosts, pools and every tenant.
    RootAdmin,
    DomainAdmin,
    ResourceAdmin,
    ReadOnlyAdmin,
}

impl Role {
    pub fn is_root_admin(self) -> bool {
        self == Self::RootAdmin
    }

    /// By the number of the account's type, else by the role type's name.
    fn of(user: &cloudstack::types::User) -> Self {
        match (user.accounttype, user.roletype.as_deref()) {
            (Some(1), _) | (None, Some("Admin")) => Self::RootAdmin,
            (Some(2), _) | (None, Some("DomainAdmin")) => Self::DomainAdmin,
            (Some(3), _) | (None, Some("ResourceAdmin")) => Self::ResourceAdmin,
            (Some(4), _) => Self::ReadOnlyAdmin,
            _ => Self::User,
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the user name or password is wrong")]
    BadCredentials,
    /// CloudStack wants a code that oVirt's protocol has no place for.
    #[error(
        "two-factor authentication is on for this user: log in as API-KEY@apikey with the secret key as password"
    )]
    SecondFactor,
    /// Too many wrong passwords: more would make CloudStack disable the user.
    #[error("too many wrong passwords for this user")]
    LockedOut { retry_after: Duration },
    /// A token that never was, or that was revoked, or whose time is over.
    #[error("the token is not valid")]
    UnknownToken,
    /// The CloudStack session behind the token is over; a new grant starts another.
    #[error("the session has ended")]
    Expired,
    /// CloudStack could not say.
    #[error("the login could not be checked: {0}")]
    Unreachable(#[source] cloudstack::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_from_the_account_type_first() {
        let of = |accounttype, roletype: Option<&str>| {
            Role::of(&cloudstack::types::User {
                accounttype,
                roletype: roletype.map(str::to_owned),
                ..Default::default()
            })
        };
        assert_eq!(of(Some(1), Some("User")), Role::RootAdmin);
        assert_eq!(of(None, Some("DomainAdmin")), Role::DomainAdmin);
        assert_eq!(of(Some(0), Some("Admin")), Role::User);
        assert_eq!(of(Some(5), None), Role::User);
        assert_eq!(of(None, None), Role::User);
    }
}
