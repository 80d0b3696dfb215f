//! Pure translation from CloudStack's objects to oVirt's. Every word of one becomes a word of the
//! other here. No I/O, no state, no request: what cannot be known from the arguments is left out.

mod api;
mod disk;
mod event;
mod host;
pub mod href;
pub mod ids;
mod job;
mod names;
mod network;
pub mod ovf;
mod placement;
mod snapshot;
pub mod status;
mod storage;
mod tag;
mod template;
mod time;
mod vm;

pub use api::{Count, Summary, api};
pub use disk::{disk, disk_attachment};
pub use event::{event, event_id, event_time, is_told};
pub use host::{cluster, data_center, host};
pub use job::job;
pub use names::unique_names;
pub use network::{network, nic, reported_device, vnic_profile};
pub use placement::{Inventory, Placement, placement};
pub use snapshot::{active_snapshot, snapshot};
pub use storage::storage_domain;
pub use tag::{root_tag, tag, tag_name, tag_of_vm, tag_pair};
pub use template::{blank_template, template};
pub use time::timestamp;
pub use vm::{VmContext, vm};
