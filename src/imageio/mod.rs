//! The data plane on a KVM host: tickets, images, and the exports behind them.

pub mod api;
