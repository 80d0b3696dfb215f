//! Jobs: taken, under way, done and failed.

use ovirt_gateway::cloudstack::types::AsyncJob;
use serde_json::Value;

use super::mapping::Findings;
use super::rows::{object, result};
use super::{Kind, Player, of};

#[tokio::test]
async fn what_was_taken_has_a_job_and_maybe_an_object() {
    let player = Player::start().await;
    for recording in of(Kind::Submitted) {
        let client = player.play(&recording);
        let taken = client.submit(recording.command(), recording.params()).await.expect(&recording.name);
        assert_eq!(Some(taken.job.as_str()), recording.inner()["jobid"].as_str(), "{}", recording.name);
        assert_eq!(taken.id.as_deref(), recording.inner()["id"].as_str(), "{}", recording.name);
        let creates = ["createVolume", "deployVirtualMachine", "createVMSnapshot", "createSnapshot"];
        assert_eq!(taken.id.is_some(), creates.contains(&recording.command()), "{}", recording.name);
    }
}

#[tokio::test]
async fn a_job_is_read_without_loss_at_any_time() {
    let player = Player::start().await;
    let mut found = Findings::default();
    for kind in [Kind::Pending, Kind::Done, Kind::Failed] {
        for recording in of(kind) {
            let id = recording.whole["params"]["jobid"].as_str().expect("an id");
            let job = player.play(&recording).job(id).await.expect(&recording.name);
            let mut recorded = recording.inner().clone();
            if recorded["jobid"].is_null() {
                // a job that is done does not say its own id
                recorded["jobid"] = Value::from(id);
            }
            super::lossless::lost(
                &serde_json::to_value(&job).expect("a value"),
                &recorded,
                &recording.name,
                &mut found.lines,
            );
            object::<AsyncJob>(&recording.name, &recorded, &mut found);
        }
    }
    found.finish();
}

#[tokio::test]
async fn what_jobs_made_is_read_without_loss_and_mapped() {
    let player = Player::start().await;
    let mut found = Findings::default();
    for recording in of(Kind::Done) {
        let id = recording.whole["params"]["jobid"].as_str().expect("an id");
        let made = player.play(&recording).finish(id).await.expect(&recording.name);
        assert_eq!(made, recording.inner()["jobresult"], "{}", recording.name);
        result(&recording.name, &made, &mut found);
    }
    found.finish();
}
