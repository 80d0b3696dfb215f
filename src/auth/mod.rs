//! (being built)

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    pub client: crate::cloudstack::Client,
    pub user: User,
}

#[derive(Debug, Clone)]
pub struct User {
    pub id: String,
    pub account: String,
    pub domain_id: String,
}
