//! Two backups, the second incremental from the first; then their checkpoints are deleted.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::client::PATIENCE;
use crate::facts::Machine;
use crate::flows::{Outcome, Stage};

impl Stage {
    pub async fn chain(&self, machine: &Machine) -> Outcome {
        let mut images = Vec::new();
        let mut checkpoints: Vec<String> = Vec::new();
        let mut ended = "succeeded".to_owned();
        for _ in 0..2 {
            let base = checkpoints.last().cloned();
            let (word, checkpoint) = self.link(machine, base.as_deref(), &mut images).await?;
            checkpoints.extend(checkpoint);
            if word != "succeeded" {
                ended = word;
                break;
            }
        }
        for checkpoint in &checkpoints {
            self.drop_checkpoint(&machine.id, checkpoint).await?;
        }
        match checkpoints.len() {
            2 => Ok(ended),
            made => Ok(format!("{ended}, {made} checkpoints")),
        }
    }

    /// One backup of a chain; `images` are brought to its moment. The word it ended with, and the
    /// checkpoint that it leaves.
    async fn link(
        &self,
        machine: &Machine,
        base: Option<&str>,
        images: &mut Vec<Vec<u8>>,
    ) -> Result<(String, Option<String>), String> {
        let id = uuid::Uuid::new_v4().to_string();
        let path = format!("vms/{}/backups/{id}", machine.id);
        let mut body = json!({"id": id});
        if let Some(base) = base {
            body["from_checkpoint_id"] = base.into();
        }
        match self.client.post(&format!("vms/{}/backups", machine.id), &body).await {
            Some((200, _)) | None => {}
            Some((status, fault)) => return Ok((format!("refused: {status} {}", fault["detail"]), None)),
        }
        match self.client.settled(&path, "phase", &["initializing", "starting"]).await.as_deref() {
            None => return Ok(("not begun".into(), None)),
            Some("failed") => return Ok(("failed".into(), None)),
            Some("ready") => {}
            other => return Err(format!("the backup is {other:?}")),
        }
        let modes = self.client.get(&format!("{path}/disks")).await.ok_or("no disks")?.1;
        for (number, (disk, content)) in machine.disks.iter().enumerate() {
            let mode = modes["disk"].as_array().into_iter().flatten().find(|row| row["id"] == **disk);
            let incremental = mode.is_some_and(|mode| mode["backup_mode"] == "incremental");
            let until = Instant::now() + PATIENCE;
            loop {
                match self.client.settled(&path, "phase", &[]).await.as_deref() {
                    Some("ready") => {}
                    other => return Ok((format!("failed while it was read ({other:?})"), None)),
                }
                let old = incremental.then(|| images.get(number).cloned()).flatten();
                match self.bring_up(disk, &id, old).await {
                    Ok(image) => {
                        content.check(&image).map_err(|error| format!("WRONG: disk {number}: {error}"))?;
                        match images.get_mut(number) {
                            Some(old) => *old = image,
                            None => images.push(image),
                        }
                        break;
                    }
                    Err(error) if Instant::now() > until => return Err(format!("never readable: {error}")),
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                }
            }
        }
        let word = self.finish(&path).await?;
        let row = self.client.get(&path).await.ok_or("no backup")?.1;
        let checkpoint = row["to_checkpoint_id"].as_str().filter(|_| word == "succeeded");
        Ok((word, checkpoint.map(str::to_owned)))
    }

    /// A disk as the backup has it: read whole, or the changes put over what there was before.
    async fn bring_up(&self, disk: &str, backup: &str, old: Option<Vec<u8>>) -> Result<Vec<u8>, String> {
        let body = json!({"disk": {"id": disk}, "backup": {"id": backup}, "direction": "download",
            "format": "raw"});
        let Some(mut image) = old else { return self.read(&body).await };
        let (path, url) = self.client.transfer(body).await?;
        let put = async {
            let text = self.client.read(&format!("{url}/extents?context=dirty")).await?;
            let extents: Vec<Value> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            for extent in extents.iter().filter(|extent| extent["dirty"] == true) {
                let number = |name: &str| {
                    extent[name].as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
                };
                let (start, length) = (number("start"), number("length"));
                let piece = image.get_mut(start..start + length).ok_or("an extent beyond the end")?;
                match extent["zero"] == true {
                    true => piece.fill(0),
                    false => piece.copy_from_slice(&self.client.range(&url, start, length).await?),
                }
            }
            Ok::<_, String>(())
        };
        match put.await {
            Ok(()) => self.client.finalize_transfer(&path).await?,
            Err(error) => {
                self.client.give_up(&path).await;
                return Err(error);
            }
        }
        Ok(image)
    }

    async fn drop_checkpoint(&self, vm: &str, id: &str) -> Result<(), String> {
        let path = format!("vms/{vm}/checkpoints/{id}");
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match self.client.persist(Method::DELETE, &path, &Value::Null).await {
                Some((200..300 | 404, _)) => return Ok(()),
                other => last = other,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("the checkpoint is never deleted: {last:?}"))
    }
}
