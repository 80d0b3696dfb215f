//! Incremental backups on real libvirt and real images: whatever happens in between, no changed block is
//! missed, and what cannot be vouched for is full.

use std::path::Path;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::bench::{BIT, Bench, SIZE, Taken, ok, run, text};

/// A prepared bench, or the end of the test where there is no libvirt.
macro_rules! bench {
    ($test:expr) => {
        bench!($test, &["qcow2"])
    };
    ($test:expr, $formats:expr) => {
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

#[tokio::test]
async fn a_crash_of_qemu_makes_the_next_backup_full() {
    let mut bench = bench!("a_crash_of_qemu_makes_the_next_backup_full");
    let drive = bench.disks[0].clone();
    let stored = bench.backup(&[0], None).await;
    bench.start();
    // this one's bitmap never reaches the file
    let unstored = bench.backup(&[0], Some(&stored)).await;
    bench.write(0, BIT, BIT);
    bench.kill();
    let after = bench.backup(&[0], Some(&stored)).await;
    after.assert_full(&drive, "spoilt by a crash");
    assert_eq!(after.disk(&drive)["lost"], json!([stored.name, unstored.name]));
    bench.write(0, 3 * BIT, BIT);
    bench.backup(&[0], Some(&after)).await.assert_exact(&drive, &after, &[(3 * BIT, BIT)]);
    bench.start();
    for lost in [&stored, &unstored] {
        let again = bench.backup(&[0], Some(lost)).await;
        again.assert_full(&drive, "not in the active layer, or was spoilt by a crash");
    }
    assert!(!bench.sound(0).await.contains(&stored.name));
    // a spoilt one can be deleted from a running domain too
    assert!(bench.in_file(&drive.file).contains(&stored.name));
    assert_eq!(bench.forget(&stored.name, &[0]).await[0]["outcome"], "gone");
    assert!(!bench.in_file(&drive.file).contains(&stored.name));
    bench.forget(&unstored.name, &[0]).await;
    bench.write(0, 5 * BIT, BIT);
    bench.backup(&[0], Some(&after)).await.assert_exact(&drive, &after, &[(3 * BIT, BIT), (5 * BIT, BIT)]);
}

#[tokio::test]
async fn a_spoilt_bitmap_is_deleted_from_a_stopped_image() {
    let mut bench = bench!("a_spoilt_bitmap_is_deleted_from_a_stopped_image");
    let drive = bench.disks[0].clone();
    let stored = bench.backup(&[0], None).await;
    bench.start();
    bench.kill();
    assert_eq!(bench.sound(0).await, Vec::<String>::new());
    assert_eq!(bench.forget(&stored.name, &[0]).await[0]["outcome"], "gone");
    assert_eq!(bench.in_file(&drive.file), Vec::<String>::new());
}

#[tokio::test]
async fn a_live_snapshot_keeps_the_chain_and_so_does_its_deletion() {
    let mut bench = bench!("a_live_snapshot_keeps_the_chain_and_so_does_its_deletion");
    bench.start();
    let before = bench.backup(&[0], None).await;
    bench.write(0, BIT, BIT);
    bench.snapshot(0);
    let drive = bench.disks[0].clone();
    bench.write(0, 3 * BIT, BIT);
    let across = bench.backup(&[0], Some(&before)).await;
    across.assert_exact(&drive, &before, &[(BIT, BIT), (3 * BIT, BIT)]);
    bench.write(0, 5 * BIT, BIT);
    // an export of a stopped image tells of one layer's bitmap only: never the half of it
    bench.stop();
    bench.backup(&[0], Some(&before)).await.assert_full(&drive, "two layers");
    bench.backup(&[0], Some(&across)).await.assert_exact(&drive, &across, &[(5 * BIT, BIT)]);
    bench.start();
    let all = [(BIT, BIT), (3 * BIT, BIT), (5 * BIT, BIT)];
    bench.backup(&[0], Some(&before)).await.assert_exact(&drive, &before, &all);
    bench.commit(0);
    bench.write(0, 7 * BIT, BIT);
    let after = bench.backup(&[0], Some(&across)).await;
    after.assert_exact(&drive, &across, &[(5 * BIT, BIT), (7 * BIT, BIT)]);
    bench.stop();
    bench.write(0, 9 * BIT, BIT);
    let all = [(BIT, BIT), (3 * BIT, BIT), (5 * BIT, BIT), (7 * BIT, BIT), (9 * BIT, BIT)];
    bench.backup(&[0], Some(&before)).await.assert_exact(&drive, &before, &all);
}

#[tokio::test]
async fn a_bitmap_behind_the_active_layer_is_no_base() {
    let mut bench = bench!("a_bitmap_behind_the_active_layer_is_no_base");
    let before = bench.backup(&[0], None).await;
    let other = bench.backup(&[0], None).await;
    let below = bench.disks[0].file.clone();
    bench.snapshot(0);
    let drive = bench.disks[0].clone();
    bench.write(0, BIT, BIT);
    bench.backup(&[0], Some(&before)).await.assert_full(&drive, "not in the active layer");
    bench.start();
    bench.write(0, 3 * BIT, BIT);
    let live = bench.backup(&[0], Some(&before)).await;
    live.assert_full(&drive, "not in the active layer");
    assert_eq!(live.disk(&drive)["lost"], json!([before.name, other.name]));
    // libvirt reaches that layer under a running domain, and we do when it is stopped
    assert!(bench.in_file(&below).contains(&before.name));
    assert_eq!(bench.forget(&before.name, &[0]).await[0]["outcome"], "gone");
    assert!(!bench.in_file(&below).contains(&before.name));
    bench.stop();
    assert_eq!(bench.forget(&other.name, &[0]).await[0]["outcome"], "gone");
    assert_eq!(bench.in_file(&below), Vec::<String>::new());
    bench.write(0, 5 * BIT, BIT);
    bench.backup(&[0], Some(&live)).await.assert_exact(&drive, &live, &[(5 * BIT, BIT)]);
}

#[tokio::test]
async fn raw_disks_and_disks_that_are_new_go_full_beside_others() {
    let test = "raw_disks_and_disks_that_are_new_go_full_beside_others";
    let mut bench = bench!(test, &["qcow2", "raw", "qcow2", "qcow2"]);
    bench.start();
    let drives = bench.disks.clone();
    let first = bench.backup(&[0, 1, 3], None).await;
    assert_eq!(first.disk(&drives[1])["checkpoint"], false);
    for n in 0..4 {
        bench.write(n, BIT * n as u64, BIT);
    }
    let second = bench.backup(&[0, 1, 2], Some(&first)).await;
    second.assert_exact(&drives[0], &first, &[(0, BIT)]);
    second.assert_full(&drives[1], "raw");
    second.assert_full(&drives[2], "not part of the earlier backup");
    // the one that was left out has a base still
    bench.write(3, 7 * BIT, BIT);
    let third = bench.backup(&[3], Some(&first)).await;
    third.assert_exact(&drives[3], &first, &[(3 * BIT, BIT), (7 * BIT, BIT)]);
    let fourth = bench.backup(&[2, 0], Some(&second)).await;
    fourth.assert_exact(&drives[0], &second, &[]);
    fourth.assert_exact(&drives[2], &second, &[]);
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn a_disk_that_grew_is_full_once() {
    let mut bench = bench!("a_disk_that_grew_is_full_once");
    let drive = bench.disks[0].clone();
    for running in [true, false] {
        if running {
            bench.start();
        }
        let before = bench.backup(&[0], None).await;
        let grown = before.disks[&drive.id].size + BIT;
        if running {
            bench.virsh("blockresize", &["vda", &format!("{grown}B")]);
        } else {
            ok("qemu-img", &["resize", "-q", "-f", "qcow2", &text(&drive.file), &grown.to_string()]);
        }
        let after = bench.backup(&[0], Some(&before)).await;
        after.assert_full(&drive, "its size was");
        assert_eq!(after.disks[&drive.id].size, grown);
        bench.write(0, grown - 1, 1);
        bench.backup(&[0], Some(&after)).await.assert_exact(&drive, &after, &[(grown - BIT, BIT)]);
        if running {
            bench.stop();
        }
    }
}

#[tokio::test]
async fn a_disk_attached_under_another_name_keeps_its_chain() {
    let test = "a_disk_attached_under_another_name_keeps_its_chain";
    let mut bench = bench!(test, &["qcow2", "qcow2", "qcow2"]);
    bench.start();
    let first = bench.backup(&[0, 1, 2], None).await;
    bench.write(1, BIT, BIT);
    bench.write(2, 2 * BIT, BIT);
    // the two change places
    for n in [1, 2] {
        bench.detach(&bench.disks[n]);
    }
    bench.write(1, 3 * BIT, BIT);
    (bench.disks[1].target, bench.disks[2].target) = ("vdc".into(), "vdb".into());
    for n in [1, 2] {
        bench.virsh_with("attach-device", &["--live"], &Bench::disk_xml(&bench.disks[n]));
    }
    bench.write(1, 5 * BIT, BIT);
    let second = bench.backup(&[0, 1, 2], Some(&first)).await;
    second.assert_exact(&bench.disks[0], &first, &[]);
    second.assert_exact(&bench.disks[1], &first, &[(BIT, BIT), (3 * BIT, BIT), (5 * BIT, BIT)]);
    second.assert_exact(&bench.disks[2], &first, &[(2 * BIT, BIT)]);
    // of a disk that is not attached its file is asked
    bench.detach(&bench.disks[2]);
    let gone = bench.forget(&first.name, &[0, 1, 2]).await;
    assert!(gone.as_array().expect("bitmaps").iter().all(|bitmap| bitmap["outcome"] == "gone"), "{gone}");
    for drive in &bench.disks {
        assert!(!bench.in_file(&drive.file).contains(&first.name), "{}", drive.target);
    }
}

#[tokio::test]
async fn an_image_that_went_back_in_time_is_full() {
    let mut bench = bench!("an_image_that_went_back_in_time_is_full");
    let drive = bench.disks[0].clone();
    let first = bench.backup(&[0], None).await;
    let copy = drive.file.with_extension("copy");
    std::fs::copy(&drive.file, &copy).expect("copy");
    bench.start();
    bench.write(0, BIT, BIT);
    let second = bench.backup(&[0], Some(&first)).await;
    bench.stop();
    std::fs::copy(&copy, &drive.file).expect("copy");
    let stopped = bench.backup(&[0], Some(&first)).await;
    stopped.assert_full(&drive, "not the one it was");
    assert_eq!(stopped.disk(&drive)["lost"], json!([first.name, second.name]));
    std::fs::copy(&copy, &drive.file).expect("copy");
    bench.start();
    bench.backup(&[0], Some(&first)).await.assert_full(&drive, "not the one it was");
    let newest = bench.backup(&[0], Some(&stopped)).await;
    newest.assert_full(&drive, "not in the active layer");
}

#[tokio::test]
async fn leftovers_of_our_installation_go_and_others_stay() {
    let mut bench = bench!("leftovers_of_our_installation_go_and_others_stay");
    let file = bench.disks[0].file.clone();
    let ours = "ovgw-0123abcd-ffffffffffffffffffffffffffffffff";
    let theirs = ["ovgw-ffffffff-ffffffffffffffffffffffffffffffff", "their-own"];
    let add = |name: &str| {
        ok("qemu-img", &["bitmap", "--add", "-f", "qcow2", &text(&file), name]);
    };
    theirs.iter().for_each(|name| add(name));
    for running in [false, true] {
        add(ours);
        if running {
            bench.start();
        }
        let taken = bench.backup(&[0], None).await;
        assert!(bench.sound(0).await.contains(&taken.name));
        let names = bench.in_file(&file);
        assert!(!names.iter().any(|name| name == ours), "{names:?}");
        assert!(theirs.iter().all(|name| names.iter().any(|found| found == name)), "{names:?}");
    }
    // one that is in qemu's memory only
    let forgotten = bench.known.pop().expect("a checkpoint");
    bench.backup(&[0], None).await;
    let sound = bench.sound(0).await;
    assert!(!sound.iter().any(|name| forgotten["name"] == name.as_str()), "{sound:?}");
}

#[tokio::test]
async fn a_start_during_a_stopped_export_fails_it_and_the_next_is_right() {
    let mut bench = bench!("a_start_during_a_stopped_export_fails_it_and_the_next_is_right");
    let drive = bench.disks[0].clone();
    let first = bench.backup(&[0], None).await;
    bench.write(0, BIT, BIT);
    let (status, answer) = bench.begin(&[0], Some(&first)).await;
    assert_eq!((status, &answer["disks"][0]["incremental"]), (StatusCode::OK, &json!(true)), "{answer}");
    bench.start();
    bench.write(0, 3 * BIT, BIT);
    assert_eq!(bench.failed().await, "the instance was started");
    assert!(!bench.end().await);
    let spoilt = bench.known.last().expect("it")["name"].as_str().expect("name").to_owned();
    assert_eq!(bench.forget(&spoilt, &[0]).await[0]["outcome"], "gone");
    let next = bench.backup(&[0], Some(&first)).await;
    next.assert_exact(&drive, &first, &[(BIT, BIT), (3 * BIT, BIT)]);
    // and one that starts between the look and the end, too short for the watch
    bench.stop();
    bench.begin(&[0], Some(&next)).await;
    bench.start();
    bench.stop();
    assert!(!bench.end().await, "an image that was open for writing is not clean");
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn a_guest_that_cannot_be_frozen_gets_no_backup_and_keeps_nothing() {
    let mut bench = bench!("a_guest_that_cannot_be_frozen_gets_no_backup_and_keeps_nothing");
    bench.start();
    let first = bench.backup(&[0], None).await;
    let mut order = bench.order(&[0], Some(&first));
    order["freeze"] = json!(true);
    let began = Instant::now();
    let (status, refusal) = bench.call("PUT", "/backups/f", order.clone()).await;
    assert_eq!((status, &refusal["cause"]), (StatusCode::CONFLICT, &json!("conflict")), "{refusal}");
    let text = refusal["message"].as_str().unwrap_or_default();
    assert!(text.contains("could not be frozen") && text.contains("agent is not configured"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!((bench.left(), bench.sound(0).await), (0, vec![first.name.clone()]));
    assert!(!bench.virsh("domjobinfo", &[]).contains("Unbounded"));
    // without that wish it goes on
    bench.write(0, BIT, BIT);
    let drive = bench.disks[0].clone();
    bench.backup(&[0], Some(&first)).await.assert_exact(&drive, &first, &[(BIT, BIT)]);
}

#[tokio::test]
async fn an_agent_that_does_not_answer_is_not_waited_for() {
    let mut bench = bench!("an_agent_that_does_not_answer_is_not_waited_for");
    // a channel that nobody in the guest listens on
    bench.channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>";
    bench.start();
    let mut order = bench.order(&[0], None);
    order["freeze"] = json!(true);
    let began = Instant::now();
    let (status, refusal) = bench.call("PUT", "/backups/f", order).await;
    assert_eq!(status, StatusCode::CONFLICT, "{refusal}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!((bench.left(), bench.sound(0).await.len()), (0, 0));
    assert!(!bench.virsh("domjobinfo", &[]).contains("Unbounded"));
}

/// As if the daemon had been killed after the job, the export and the bitmap were made and before it
/// could keep that.
fn unanswered(bench: &Bench) {
    let runs = std::fs::read_dir(bench.dir.path().join("run")).expect("run");
    let mut records = runs.map(|entry| entry.expect("entry").path());
    let record = records.find(|path| path.extension().is_some_and(|end| end == "json"));
    let record = record.expect("a record");
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&record).expect("record")).expect("JSON");
    kept["backup"]["answer"] = Value::Null;
    std::fs::write(&record, kept.to_string()).expect("record");
}

#[tokio::test]
async fn a_daemon_killed_while_a_backup_begins_leaves_nothing_of_it() {
    let mut bench = bench!("a_daemon_killed_while_a_backup_begins_leaves_nothing_of_it");
    let drive = bench.disks[0].clone();
    for running in [true, false] {
        if running {
            bench.start();
        }
        let first = bench.backup(&[0], None).await;
        bench.write(0, BIT, BIT);
        let before = bench.sound(0).await;
        let (status, answer) = bench.begin(&[0], Some(&first)).await;
        assert_eq!((status, &answer["disks"][0]["incremental"]), (StatusCode::OK, &json!(true)));
        assert_eq!(bench.sound(0).await.len(), before.len() + 1);
        unanswered(&bench);
        bench.restart().await;
        bench.known.pop();
        assert_eq!((bench.left(), bench.sound(0).await), (0, before));
        assert!(!running || !bench.virsh("domjobinfo", &[]).contains("Unbounded"));
        bench.backup(&[0], Some(&first)).await.assert_exact(&drive, &first, &[(BIT, BIT)]);
        if running {
            bench.stop();
        }
    }
}

#[tokio::test]
async fn what_is_read_is_not_written_and_not_changed_meanwhile() {
    let mut bench = bench!("what_is_read_is_not_written_and_not_changed_meanwhile");
    let drive = bench.disks[0].clone();
    let first = bench.backup(&[0], None).await;
    bench.begin(&[0], Some(&first)).await;
    let export = json!({"volume": bench.reference(0, None)["volume"], "mode": "write"});
    let (status, refusal) = bench.call("PUT", "/exports/e", export.clone()).await;
    assert_eq!(
        (status, &refusal["message"]),
        (StatusCode::CONFLICT, &json!("the volume is being backed up"))
    );
    // neither are its bitmaps
    let known = bench.known.clone();
    let later = bench.forget(&first.name, &[0]).await;
    assert_eq!(
        (&later[0]["outcome"], &later[0]["reason"]),
        (&json!("later"), &json!("a backup of the instance is open"))
    );
    bench.known = known;
    assert!(bench.end().await);
    let (status, answer) = bench.call("PUT", "/exports/e", export).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, refusal) = bench.begin(&[0], Some(&first)).await;
    assert_eq!((status, &refusal["message"]), (StatusCode::CONFLICT, &json!("a volume is being written to")));
    bench.call("DELETE", "/exports/e", json!({"commit": true})).await;
    bench.backup(&[0], Some(&first)).await.assert_exact(&drive, &first, &[]);
}

#[tokio::test]
async fn a_backup_is_looked_at_and_ended_by_a_stop_without_harm() {
    let mut bench = bench!("a_backup_is_looked_at_and_ended_by_a_stop_without_harm");
    let drive = bench.disks[0].clone();
    bench.start();
    let first = bench.backup(&[0], None).await;
    bench.write(0, BIT, BIT);
    bench.begin(&[0], Some(&first)).await;
    let began = Instant::now();
    assert_eq!(bench.sound(0).await.len(), 2);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    bench.write(0, 3 * BIT, BIT);
    bench.stop();
    assert_eq!(bench.failed().await, "the backup job of the domain is gone");
    assert!(!bench.end().await);
    // its checkpoint is as good as any: it is the gateway that forgets it
    let all = [(BIT, BIT), (3 * BIT, BIT)];
    bench.backup(&[0], Some(&first)).await.assert_exact(&drive, &first, &all);
    assert_eq!(bench.left(), 0);
}

#[tokio::test]
async fn a_guest_that_overwrites_too_much_loses_its_backup_and_nothing_else() {
    let mut bench = bench!("a_guest_that_overwrites_too_much_loses_its_backup_and_nothing_else");
    let drive = bench.disks[0].clone();
    bench.start();
    let first = bench.backup(&[0], None).await;
    bench.begin(&[0], Some(&first)).await;
    bench.write(0, 0, SIZE);
    let reason = bench.failed().await;
    assert!(reason.contains("max_scratch"), "{reason}");
    assert!(!bench.end().await && bench.runs());
    bench.backup(&[0], Some(&first)).await.assert_exact(&drive, &first, &[(0, SIZE)]);
}

#[tokio::test]
async fn a_memory_snapshot_is_reverted_only_without_bitmaps() {
    let mut bench = bench!("a_memory_snapshot_is_reverted_only_without_bitmaps");
    let drive = bench.disks[0].clone();
    for protected in [false, true] {
        bench.start();
        let first = bench.backup(&[0], None).await;
        bench.virsh("snapshot-create-as", &["with-memory"]);
        bench.write(0, BIT, BIT);
        let second = bench.backup(&[0], Some(&first)).await;
        if protected {
            for known in bench.known.clone() {
                bench.forget(known["name"].as_str().expect("name"), &[0]).await;
            }
            assert_eq!(bench.sound(0).await, Vec::<String>::new());
        }
        let uri = "qemu:///system";
        let revert = run("virsh", &["-q", "-c", uri, "snapshot-revert", &bench.id, "with-memory"]);
        assert_eq!(revert.status.success(), protected, "{}", String::from_utf8_lossy(&revert.stderr));
        assert_eq!(bench.runs(), protected, "the instance survives exactly when it carries no bitmap");
        if !protected {
            let said = String::from_utf8_lossy(&revert.stderr);
            assert!(said.contains("Device has active dirty bitmaps"), "{said}");
            bench.bury();
            ok("qemu-img", &["snapshot", "-d", "with-memory", &text(&drive.file)]);
            continue;
        }
        // what was changed since is gone, and nobody believes the old chain
        let after = bench.backup(&[0], Some(&second)).await;
        after.assert_full(&drive, "not part of the earlier backup");
        assert!(after.disks[&drive.id].content == first.disks[&drive.id].content);
    }
}

#[tokio::test]
async fn a_disk_that_somebody_writes_to_stops_the_whole_backup() {
    let test = "a_disk_that_somebody_writes_to_stops_the_whole_backup";
    let mut bench = bench!(test, &["qcow2", "qcow2"]);
    let first = bench.backup(&[0, 1], None).await;
    let (socket, pid) = (bench.dir.path().join("other.sock"), bench.dir.path().join("other.pid"));
    let image = text(&bench.disks[1].file);
    let (socket, file) = (text(&socket), text(&pid));
    ok("qemu-nbd", &["--fork", "--persistent", "-f", "qcow2", "-k", &socket, "--pid-file", &file, &image]);
    let (status, refusal) = bench.begin(&[0, 1], Some(&first)).await;
    let other = std::fs::read_to_string(&pid).expect("pid");
    ok("kill", &[other.trim()]);
    assert_eq!((status, &refusal["cause"]), (StatusCode::CONFLICT, &json!("conflict")), "{refusal}");
    assert_eq!((bench.left(), bench.sound(0).await), (0, vec![first.name.clone()]));
    while Path::new("/proc").join(other.trim()).exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let next = bench.backup(&[0, 1], Some(&first)).await;
    for drive in &bench.disks {
        next.assert_exact(drive, &first, &[]);
    }
}

/// Steps of a life in random order; every incremental backup is exact, and most are incremental.
#[tokio::test]
async fn a_random_life_never_misses_a_block() {
    let mut bench = bench!("a_random_life_never_misses_a_block", &["qcow2", "qcow2"]);
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let (steps, mut seed) = (number("BITMAPS_STEPS").unwrap_or(60), number("BITMAPS_SEED").unwrap_or(7));
    let mut below = move |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % limit
    };
    let mut bases: Vec<Taken> = Vec::new();
    let (mut incremental, mut full, mut said) = (0, 0, Vec::new());
    for step in 0..steps {
        for _ in 0..below(3) {
            let (disk, length) = (below(2) as usize, 1 + below(3 * BIT));
            bench.write(disk, below(SIZE - length), length);
        }
        let what = below(20);
        let (running, layered) = (bench.runs(), bench.disks[0].file.extension().is_some());
        match what {
            0..=2 if running => bench.stop(),
            3 if running => bench.kill(),
            0..=3 => bench.start(),
            4..=5 if layered => bench.commit(0),
            4..=5 => bench.snapshot(0),
            6..=7 if bases.len() > 1 => {
                let gone = bases.swap_remove(below(bases.len() as u64) as usize);
                let outcome = bench.forget(&gone.name, &[0, 1]).await;
                assert!(outcome.as_array().expect("bitmaps").iter().all(|one| one["outcome"] == "gone"));
            }
            _ => {
                let base = (!bases.is_empty()).then(|| below(bases.len() as u64) as usize);
                let base = base.and_then(|at| bases.get(at));
                let taken = bench.backup(&[0, 1], base).await;
                for (drive, base) in bench.disks.iter().filter_map(|drive| Some((drive, base?))) {
                    if taken.disk(drive)["incremental"] == true {
                        taken.assert_nothing_missed(drive, base);
                        incremental += 1;
                    } else {
                        full += 1;
                    }
                    // as the gateway does: what is lost is named no more
                    let lost = taken.disk(drive)["lost"].as_array().cloned().unwrap_or_default();
                    for known in bench.known.iter_mut().filter(|known| lost.contains(&known["name"])) {
                        known["disks"].as_array_mut().expect("disks").retain(|id| *id != drive.id.as_str());
                    }
                }
                bases.push(taken);
                if bases.len() > 4 {
                    let oldest = bases.remove(0);
                    bench.forget(&oldest.name, &[0, 1]).await;
                }
            }
        }
        said.push((step, what, running));
    }
    println!("{incremental} incremental, {full} full");
    assert!(incremental > full, "{incremental} incremental, {full} full: {said:?}");
}
