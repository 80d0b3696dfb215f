//! What a backup costs a guest that writes: the latency of its writes, by qemu's own count.
//!
//! fio in a Linux guest writes 4 KiB at random places of a full disk of 512 MiB, one after the other, while there
//! is no backup, one that nobody reads, and one that is read as fast as it goes. `cargo bench --bench latency`;
//! needs libvirt and a guest with fio:
//! `. scripts/common.sh; . scripts/guest.sh; linux_guest target/guest-fio /usr/bin/fio`.

#![allow(dead_code, clippy::panic)]

#[path = "../tests/it/support/mod.rs"]
mod support;

use std::time::Duration;

use support::chain;
use support::flow;
use support::life::{ALICE, Life};
use support::linux::{self, Linux};

const SECONDS: u64 = 15;

#[tokio::main]
async fn main() {
    if std::env::var_os("OVIRT_GATEWAY_GUEST").is_none() {
        println!("OVIRT_GATEWAY_GUEST=target/guest-fio says where the guest is; see the head of this bench");
        return;
    }
    if !linux::there("the bench of write latency") {
        return;
    }
    let life = Life::on(1, &["--lag", "3600"], &[]).await;
    let disk = flow::new_disk(&life.cloud, ALICE, "zone1", 512 << 20).await.expect("a disk");
    assert_eq!(flow::attach(&life.cloud, ALICE, &life.vm, &disk, false).await.0, 201);
    life.power("stop", "down").await;
    let image = life.cloud.dir.path().join("ext4.img");
    let made =
        std::process::Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&image).arg("16M").status();
    assert!(made.expect("mke2fs").success());
    flow::upload(&life.cloud, ALICE, &life.data, 0, &std::fs::read(&image).expect("an image")).await;
    life.power("start", "up").await;
    let guest = Linux::boot_with(&life, "fio=/dev/vdc").await;
    tokio::time::sleep(Duration::from_secs(5)).await;

    let base = measure(&guest, "no backup", None).await;
    let (backup, path) = chain::begin(&life.cloud, ALICE, &life.vm, None).await;
    measure(&guest, "a backup that begins", Some(base)).await;
    let reading = async {
        loop {
            chain::pieces(&life.cloud, ALICE, &backup, &disk, "zero").await;
        }
    };
    tokio::select! {
        () = async { measure(&guest, "a backup that is read", Some(base)).await; } => {}
        () = reading => {}
    }
    measure(&guest, "a backup that nobody reads", Some(base)).await;
    flow::finalize(&life.cloud, ALICE, &path).await;
    measure(&guest, "after its end, with its bitmap", Some(base)).await;
}

/// Microseconds for a write, on average; prints a line.
async fn measure(guest: &Linux, what: &str, base: Option<f64>) -> f64 {
    let before = guest.writes("vdc");
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let after = guest.writes("vdc");
    let (writes, nanoseconds) = (after.0 - before.0, after.1 - before.1);
    #[allow(clippy::cast_precision_loss)]
    let each = nanoseconds as f64 / 1000.0 / writes.max(1) as f64;
    let ratio = base.map_or(String::new(), |base| format!(", {:.2} ×", each / base));
    println!("{what:32} {:6} writes/s, {each:6.0} µs each{ratio}", writes / SECONDS);
    each
}
