//! The short form of the soak; the long one is `tests/soak`.

#[path = "../soak/cycle.rs"]
mod cycle;

use cycle::{Soak, Tally};

#[tokio::test(flavor = "multi_thread")]
async fn a_dozen_backups_of_an_instance_that_never_rests() {
    let mut soak = Soak::begin(20, Tally::default()).await;
    while soak.tally.cycles < 12 {
        soak.cycle().await;
    }
    println!("{:?}", soak.tally);
    assert!(soak.tally.incremental_disks > 0, "{:?}", soak.tally);
}
