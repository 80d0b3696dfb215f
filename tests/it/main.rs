mod auth;
mod cloudstack;
mod codec;
mod golden;
mod mapped;
