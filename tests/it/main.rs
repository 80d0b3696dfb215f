//! One binary for all integration tests: real peers, real sockets, bytes and states compared.

// a test that fails panics: that is what it is for
#![allow(clippy::panic)]

mod auth;
mod bitmaps;
mod checkpoints;
mod client;
mod cloudstack;
mod codec;
mod consistency;
mod costs;
mod crash_points;
mod curl;
mod doctor;
mod doctor_endpoint;
mod engine;
mod enrol;
mod example;
mod failures;
mod fake_cloudstack;
mod faults;
mod firmware;
mod golden;
mod history;
mod host;
mod imageio;
mod layers;
mod life;
mod likeness;
mod logins;
mod lost;
mod manners;
mod mapped;
mod meanwhile;
mod migrations;
mod nbd;
mod nbd_servers;
mod ovf;
mod peers;
mod places;
mod protocol;
mod proxy;
mod queue;
mod recordings;
mod records;
mod restores;
mod sdk;
mod simulated;
mod simulator;
mod soak;
mod state;
mod storm;
mod support;
mod surface;
mod tenants;
mod world;
