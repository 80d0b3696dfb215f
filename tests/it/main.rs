mod auth;
mod cloudstack;
mod codec;
mod fake_cloudstack;
mod golden;
mod mapped;
