//! The gateway's own certificate authority, and what it issues.
