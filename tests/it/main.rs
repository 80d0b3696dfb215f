mod auth;
mod cloudstack;
mod codec;
mod fake_cloudstack;
mod golden;
mod host;
mod mapped;
