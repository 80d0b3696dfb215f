//! What no command of CloudStack can bring about: `POST /simulator/*`.
//!
//! | path | body | what |
//! |---|---|---|
//! | `faults` | lines of `KIND[=VALUE][:COMMAND[:TIMES]]` | misbehaves from now on, see [`super::fault`] |
//! | `clock` | seconds | its clock is ahead by so many |
//! | `restart` | | the management server was restarted: sessions and running jobs are gone |
//! | `host` | `NAME STATE` | CloudStack calls the host `Up`, `Down`, `Alert` or `Disconnected` |
//! | `host` | `NAME crash [STATE]` | the qemu of every instance on it dies, and the host is `Down`, or that |
//! | `kill` | an instance's id | its qemu dies by SIGKILL; CloudStack notices later |
//! | `write` | [`Write`] | writes to a disk below the guest, or into the image of a stopped instance |
//! | `look` | | notices at once what it would notice later, without the lag |

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::cloud::Cloud;
use super::domain::target;
use super::images;
use super::layers;
use crate::host::Command;

/// Bytes for a disk: all the same, or a pattern that follows from a seed and is alike nowhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    instance: String,
    /// A device number.
    disk: u32,
    offset: u64,
    length: u64,
    byte: Option<u8>,
    seed: Option<u64>,
}

pub async fn tell(State(cloud): State<Arc<Cloud>>, Path(what): Path<String>, body: String) -> Response {
    let done = match what.as_str() {
        "faults" => {
            let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
            cloud.faults.set(lines).map_err(|unknown| unknown.to_string())
        }
        "clock" => match body.trim().parse() {
            Ok(ahead) => {
                cloud.clock.store(ahead, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err("seconds".to_owned()),
        },
        "host" => host(&cloud, body.trim()),
        "restart" => {
            cloud.restart();
            Ok(())
        }
        "kill" => match cloud.kill(body.trim()) {
            true => Ok(()),
            false => Err("no qemu runs for that instance".to_owned()),
        },
        "write" => match serde_json::from_str(&body) {
            Ok(order) => write(&cloud, order).await,
            Err(error) => Err(error.to_string()),
        },
        "look" => {
            cloud.look(std::time::Duration::ZERO).await;
            Ok(())
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match done {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(text) => (StatusCode::BAD_REQUEST, text).into_response(),
    }
}

fn host(cloud: &Cloud, order: &str) -> Result<(), String> {
    let mut words = order.split_whitespace();
    let (Some(name), Some(state)) = (words.next(), words.next()) else {
        return Err("NAME STATE, or NAME crash [STATE]".to_owned());
    };
    let found = match state {
        "crash" => cloud.crash(name, words.next().unwrap_or("Down")),
        state => cloud.change(|world| {
            let host = world.hosts.iter_mut().find(|host| host.name == name);
            host.map(|host| host.state = state.to_owned()).is_some()
        }),
    };
    found.then_some(()).ok_or_else(|| format!("no host {name}"))
}

async fn write(cloud: &Cloud, order: Write) -> Result<(), String> {
    let (file, running) = {
        let world = cloud.world();
        let volumes = world.volumes_of(&order.instance);
        let volume = volumes.into_iter().find(|volume| volume.device == Some(order.disk));
        let file = volume.and_then(|volume| world.file(volume)).ok_or("no such disk, or no file")?;
        (file, world.vms.get(&order.instance).is_some_and(|vm| vm.state == "Running"))
    };
    let (offset, length) = (order.offset, order.length);
    let (source, kept) = match (order.byte, order.seed) {
        (Some(byte), None) => (format!("-P {byte}"), None),
        (None, Some(seed)) if length <= MOST => {
            let path = cloud.dir.join(format!("pattern-{}", uuid::Uuid::new_v4()));
            let pattern = images::pattern(seed, usize::try_from(length).unwrap_or(0));
            std::fs::write(&path, pattern).map_err(|error| error.to_string())?;
            (format!("-s {}", path.display()), Some(Source(path)))
        }
        _ => return Err("one of byte and seed, and not more than 256 MiB of a seed".to_owned()),
    };
    let io = format!("write {source} {offset} {length}");
    let done = match cloud.libvirt.as_ref().filter(|_| running) {
        Some(libvirt) => libvirt.disk_io(&order.instance, &target(order.disk), &io).await,
        None => layers::run(Command::new("qemu-io").args(["-f", "qcow2", "-c", &io]).arg(file)).await,
    };
    drop(kept);
    done
}

/// A file for one order.
struct Source(PathBuf);

impl Drop for Source {
    fn drop(&mut self) {
        layers::discard(&self.0);
    }
}

const MOST: u64 = 256 << 20;
