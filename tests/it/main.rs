mod auth;
mod cloudstack;
mod golden;
