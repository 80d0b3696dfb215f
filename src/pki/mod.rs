//! The gateway's own certificate authorities, what they issue, and to whom.
//!
//! Two authorities, because being let in and being trusted are different things: the *site* CA signs
//! what clients verify (the gateway's server certificate, the hosts' certificates) and is what
//! `pki-resource` hands out; the *control* CA signs the one client certificate that opens a host's
//! control listener, and nothing else. Nothing here speaks to anybody.

mod leaf;
mod office;
mod register;
mod request;
mod site;
mod token;

pub use leaf::Leaf;
pub use office::{Enrolled, Office};
pub use register::{Host, Register};
pub use request::{Request, Signed};
pub use site::{Error, Files, GATEWAY_URI, Site, write};
pub use token::Token;
