//! Incremental backups on real libvirt and real images: whatever happens in between, no changed block is
//! missed, and what cannot be vouched for is full.

use axum::http::StatusCode;
use serde_json::json;

use crate::support::bench::{BIT, Bench, SIZE};

/// A prepared bench, or the end of the test where there is no libvirt.
macro_rules! bench {
    ($test:literal) => {
        bench!($test, &["qcow2"])
    };
    ($test:literal, $formats:expr) => {
        match Bench::with($test, $formats).await {
            Some(bench) => bench,
            None => return,
        }
    };
}

#[tokio::test]
async fn running_chains_are_exact_and_independent() {
    let mut bench = bench!("running_chains_are_exact_and_independent");
    bench.start();
    let drive = bench.disks[0].clone();
    let first = bench.backup(&[0], None).await;
    assert_eq!(first.disk(&drive)["checkpoint"], true);
    assert!(first.disk(&drive)["why_full"].is_null());
    bench.write(0, BIT, BIT);
    // of another product, which does not know of the first
    let other = bench.backup(&[0], None).await;
    bench.write(0, 5 * BIT, 100);
    let second = bench.backup(&[0], Some(&first)).await;
    second.assert_exact(&drive, &first, &[(BIT, BIT), (5 * BIT, BIT)]);
    bench.write(0, 9 * BIT - 1, 2);
    let third = bench.backup(&[0], Some(&other)).await;
    third.assert_exact(&drive, &other, &[(5 * BIT, BIT), (8 * BIT, 2 * BIT)]);
    bench.backup(&[0], Some(&second)).await.assert_exact(&drive, &second, &[(8 * BIT, 2 * BIT)]);
    let none = bench.backup(&[0], Some(&third)).await;
    none.assert_exact(&drive, &third, &[]);
    assert_eq!(bench.left(), 0);
    assert_eq!(bench.sound(0).await.len(), 6);
}

#[tokio::test]
async fn stopped_chains_are_exact_and_independent() {
    let mut bench = bench!("stopped_chains_are_exact_and_independent");
    let drive = bench.disks[0].clone();
    let first = bench.backup(&[0], None).await;
    bench.write(0, BIT, BIT);
    let other = bench.backup(&[0], None).await;
    bench.write(0, 5 * BIT, 100);
    let second = bench.backup(&[0], Some(&first)).await;
    second.assert_exact(&drive, &first, &[(BIT, BIT), (5 * BIT, BIT)]);
    let third = bench.backup(&[0], Some(&other)).await;
    third.assert_exact(&drive, &other, &[(5 * BIT, BIT)]);
    bench.backup(&[0], Some(&third)).await.assert_exact(&drive, &third, &[]);
    assert_eq!(bench.left(), 0);
    assert_eq!(bench.sound(0).await.len(), 5);
}

#[tokio::test]
async fn deleting_any_checkpoint_leaves_the_others_exact() {
    let mut bench = bench!("deleting_any_checkpoint_leaves_the_others_exact");
    let drive = bench.disks[0].clone();
    for running in [true, false] {
        if running {
            bench.start();
        }
        let oldest = bench.backup(&[0], None).await;
        bench.write(0, BIT, BIT);
        let middle = bench.backup(&[0], Some(&oldest)).await;
        bench.write(0, 3 * BIT, BIT);
        let newest = bench.backup(&[0], Some(&middle)).await;
        bench.write(0, 5 * BIT, BIT);
        let gone = bench.forget(&middle.name, &[0]).await;
        assert_eq!(gone, json!([{"disk": drive.id, "checkpoint": middle.name, "outcome": "gone"}]));
        // again, as after a lost answer
        bench.known.push(json!({"name": middle.name, "created": 1, "disks": [drive.id]}));
        assert_eq!(bench.forget(&middle.name, &[0]).await, gone);
        assert!(!bench.sound(0).await.contains(&middle.name));
        let all = [(BIT, BIT), (3 * BIT, BIT), (5 * BIT, BIT)];
        bench.backup(&[0], Some(&oldest)).await.assert_exact(&drive, &oldest, &all);
        bench.forget(&oldest.name, &[0]).await;
        let last = bench.backup(&[0], Some(&newest)).await;
        last.assert_exact(&drive, &newest, &[(5 * BIT, BIT)]);
        assert!(!bench.in_file(&drive.file).contains(&oldest.name));
        if running {
            bench.stop();
        }
    }
}

#[tokio::test]
async fn a_chain_goes_on_over_stops_and_starts() {
    let mut bench = bench!("a_chain_goes_on_over_stops_and_starts");
    let drive = bench.disks[0].clone();
    let mut base = bench.backup(&[0], None).await;
    let first = base.disks[&drive.id].clone();
    for n in 0..5 {
        match n % 2 {
            0 => bench.start(),
            _ => bench.stop(),
        }
        bench.write(0, (2 * n + 1) * BIT, BIT);
        let next = bench.backup(&[0], Some(&base)).await;
        next.assert_exact(&drive, &base, &[((2 * n + 1) * BIT, BIT)]);
        base = next;
    }
    // libvirt has forgotten all of them by now, the images have not
    bench.stop();
    bench.start();
    assert_eq!(bench.virsh("checkpoint-list", &["--name"]).trim(), "");
    bench.write(0, SIZE - 1, 1);
    let last = bench.backup(&[0], Some(&base)).await;
    last.assert_exact(&drive, &base, &[(SIZE - BIT, BIT)]);
    assert_ne!(first.content, last.disks[&drive.id].content);
    assert_eq!(bench.sound(0).await.len(), 7);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused() {
    let mut bench = bench!("a_name_that_is_not_ours_is_refused");
    bench.known.push(json!({"name": "--object", "created": 1, "disks": []}));
    let (status, refusal) = bench.begin(&[0], None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refusal}");
}
