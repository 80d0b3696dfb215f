//! What the client does, while something may die at any moment.
//!
//! A flow ends well, or is told that it failed: both are fine. Wrong data is not, nor is something
//! that never settles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::client::{Client, PATIENCE};
use crate::facts::{Content, Facts, pattern};
use crate::points::Flow;
use crate::site::{Component, Site};

/// What a flow came to, in a few words; `Err` is what must never be.
pub type Outcome = Result<String, String>;

pub struct Stage {
    pub site: Arc<Mutex<Site>>,
    pub client: Client,
    pub facts: Arc<Facts>,
    /// The point that waits, until it is armed.
    pub armed: Option<Armed>,
}

#[derive(Clone, Copy)]
pub struct Armed {
    pub point: &'static str,
    pub action: &'static str,
}

impl Stage {
    /// Plays a flow to its end.
    pub async fn play(&mut self, flow: Flow) -> Outcome {
        if !matches!(flow, Flow::GatewayStarts | Flow::HostStarts | Flow::Unmade) {
            self.arm().await;
        }
        let facts = self.facts.clone();
        match flow {
            Flow::Running => self.backup(&facts.running.id, &facts.running.disks, Ending::Finalize).await,
            Flow::Stopped => self.backup(&facts.stopped.id, &facts.stopped.disks, Ending::Finalize).await,
            Flow::Cancel => self.backup(&facts.stopped.id, &facts.stopped.disks, Ending::Cancel).await,
            Flow::Failing => self.backup(&facts.stopped.id, &facts.stopped.disks, Ending::Fail).await,
            Flow::Chain => {
                let stopped = self.chain(&facts.stopped).await?;
                if !matches!(stopped.as_str(), "succeeded") {
                    return Ok(stopped);
                }
                self.chain(&facts.running).await
            }
            Flow::Plain => {
                let (disk, content) = &facts.stopped.disks[1];
                self.download(disk, None, content).await.map(|()| "read".to_owned())
            }
            Flow::Import => self.restore("nfs1").await,
            Flow::Point => self.restore("smp1").await,
            Flow::File => self.file("nfs1").await,
            Flow::Undo => self.undo().await,
            Flow::Unmade => self.unmade().await,
            Flow::GatewayStarts => self.restart(Component::Gateway).await,
            Flow::HostStarts => self.restart(Component::Imageio).await,
        }
    }

    async fn arm(&mut self) {
        if let Some(armed) = self.armed.take() {
            self.site.lock().await.arm(armed.point, 1, armed.action);
        }
    }

    async fn backup(&self, vm: &str, disks: &[(String, Content)], ending: Ending) -> Outcome {
        let id = uuid::Uuid::new_v4().to_string();
        let path = format!("vms/{vm}/backups/{id}");
        match self.client.post(&format!("vms/{vm}/backups"), &json!({"id": id})).await {
            Some((200, _)) | None => {}
            Some((status, fault)) => return Ok(format!("refused: {status} {}", fault["detail"])),
        }
        match self.client.settled(&path, "phase", &["initializing", "starting"]).await.as_deref() {
            None => return Ok("not begun".into()),
            Some("failed") => return Ok("failed".into()),
            Some("ready") => {}
            other => return Err(format!("the backup is {other:?}")),
        }
        match ending {
            Ending::Finalize => {
                for (disk, content) in disks {
                    if let Err(error) = self.download(disk, Some((&id, &path)), content).await {
                        return match error.starts_with("failed") {
                            true => Ok(error),
                            false => Err(error),
                        };
                    }
                }
            }
            Ending::Cancel => {
                let body = json!({"disk": {"id": disks[1].0}, "backup": {"id": id}, "direction": "download"});
                if let Ok((transfer, _)) = self.client.transfer(body).await {
                    self.client.give_up(&transfer).await;
                }
            }
            Ending::Fail => {
                self.site.lock().await.kill(Component::QemuNbd);
                return match self.client.settled(&path, "phase", &["ready"]).await.as_deref() {
                    Some("failed") => Ok("failed, as it must".into()),
                    other => Err(format!("an export is dead, and the backup is {other:?}")),
                };
            }
        }
        self.finish(&path).await
    }

    pub async fn finish(&self, path: &str) -> Outcome {
        let asked = self.client.persist(Method::POST, &format!("{path}/finalize"), &json!({})).await;
        if !matches!(asked, Some((200, _))) {
            return Err(format!("finalize: {asked:?}"));
        }
        match self.client.settled(path, "phase", &["ready", "finalizing"]).await.as_deref() {
            Some(word @ ("succeeded" | "failed")) => Ok(word.to_owned()),
            other => Err(format!("the finalized backup is {other:?}")),
        }
    }

    /// Reads a disk and compares it; tries again as long as its backup is said to be ready.
    async fn download(
        &self,
        disk: &str,
        backup: Option<(&str, &str)>,
        content: &Content,
    ) -> Result<(), String> {
        let mut body = json!({"disk": {"id": disk}, "direction": "download", "format": "raw"});
        if let Some((id, _)) = backup {
            body["backup"] = json!({"id": id});
        }
        let until = Instant::now() + PATIENCE;
        let mut last = String::new();
        while Instant::now() < until {
            if let Some((_, path)) = backup {
                match self.client.settled(path, "phase", &[]).await.as_deref() {
                    Some("ready") => {}
                    other => return Err(format!("failed while it was read ({})", other.unwrap_or("gone"))),
                }
            }
            match self.read(&body).await {
                Ok(bytes) => return content.check(&bytes).map_err(|error| format!("WRONG: {error}")),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Err(format!("never readable: {last}"))
    }

    pub async fn read(&self, body: &Value) -> Result<Vec<u8>, String> {
        let (path, url) = self.client.transfer(body.clone()).await?;
        let read = self.client.read(&url).await;
        match &read {
            Ok(_) => self.client.finalize_transfer(&path).await?,
            Err(_) => self.client.give_up(&path).await,
        }
        read
    }

    /// A disk of a size that is no whole MiB; `None` if it was not to be.
    async fn disk(&self, pool: &str, size: u64) -> Result<Option<String>, String> {
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({"id": id, "name": "restored", "format": "cow", "sparse": true,
            "provisioned_size": size.to_string(), "storage_domains": {"storage_domain": [{"name": pool}]}});
        match self.client.post("disks", &body).await {
            Some((200..300, disk)) => return Ok(disk["id"].as_str().map(str::to_owned)),
            Some((400..500, fault)) => return Err(format!("refused: {}", fault["detail"])),
            _ => {}
        }
        // made for nobody: it goes, or it is whole
        match self.client.get(&format!("disks/{id}")).await {
            Some((200, _)) => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let still = self.client.get(&format!("disks/{id}")).await;
                Ok(matches!(still, Some((200, _))).then_some(id))
            }
            Some((404, _)) => Ok(None),
            other => Err(format!("the disk is {other:?}")),
        }
    }

    async fn restore(&self, pool: &str) -> Outcome {
        let bytes = pattern(self.facts.running.disks.len() as u64 + 5, SIZE as usize);
        let Some(disk) = self.disk(pool, SIZE).await? else { return Ok("the disk was undone".into()) };
        let word = self.upload(&disk, "raw", &bytes).await?;
        let name = format!("restored-{}", &disk[..8]);
        let body = json!({"name": name, "cluster": {"name": "cluster-sim1"}, "template": {"name": "Blank"}});
        let vm = match self.client.post("vms", &body).await {
            Some((201, vm)) => vm["id"].as_str().map(str::to_owned),
            Some((400..500, fault)) => return Err(format!("refused: {}", fault["detail"])),
            _ => {
                tokio::time::sleep(Duration::from_secs(2)).await;
                self.find(&name).await?
            }
        };
        let Some(vm) = vm else {
            self.download(&disk, None, &Content::Bytes(bytes)).await?;
            self.delete(&format!("disks/{disk}")).await?;
            return Ok("the instance was undone".into());
        };
        self.attach(&vm, &disk).await?;
        self.download(&disk, None, &Content::Bytes(bytes)).await?;
        self.delete(&format!("vms/{vm}/diskattachments/{disk}")).await?;
        self.delete(&format!("disks/{disk}")).await?;
        self.delete(&format!("vms/{vm}")).await?;
        Ok(word)
    }

    async fn find(&self, name: &str) -> Result<Option<String>, String> {
        let Some((200, vms)) = self.client.get("vms").await else {
            return Err("no list of instances".into());
        };
        let vms = vms["vm"].as_array().cloned().unwrap_or_default();
        let found = vms.iter().find(|vm| vm["name"] == name);
        Ok(found.and_then(|vm| vm["id"].as_str()).map(str::to_owned))
    }

    async fn attach(&self, vm: &str, disk: &str) -> Result<(), String> {
        let body = json!({"disk": {"id": disk}, "interface": "virtio", "bootable": "true", "active": "true"});
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match self.client.post(&format!("vms/{vm}/diskattachments"), &body).await {
                Some((200..300, _)) => return Ok(()),
                other => last = other,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("never attached: {last:?}"))
    }

    /// Deletes until it is gone: a job that died in between leaves it for the next try.
    async fn delete(&self, path: &str) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let mut last = None;
        while Instant::now() < until {
            match self.client.persist(Method::DELETE, path, &Value::Null).await {
                Some((200 | 404, _)) => return Ok(()),
                other => last = other,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("{path} is never deleted: {last:?}"))
    }

    /// Writes a disk whole; from the start again if the transfer broke off.
    async fn upload(&self, disk: &str, format: &str, bytes: &[u8]) -> Result<String, String> {
        let body = json!({"disk": {"id": disk}, "direction": "upload", "format": format});
        let until = Instant::now() + PATIENCE;
        let (mut last, mut times) = (String::new(), 0);
        while Instant::now() < until {
            times += 1;
            let done = async {
                let (path, url) = self.client.transfer(body.clone()).await?;
                if let Err(error) = self.client.write(&url, bytes.to_vec()).await {
                    self.client.give_up(&path).await;
                    return Err(error);
                }
                self.client.finalize_transfer(&path).await
            };
            match done.await {
                Ok(()) if times == 1 => return Ok("restored".into()),
                Ok(()) => return Ok(format!("restored, written {times} times")),
                Err(error) => last = error,
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(format!("never written: {last}"))
    }

    async fn file(&self, pool: &str) -> Outcome {
        let bytes = pattern(77, SIZE as usize);
        let file = self.facts.as_qcow2(&bytes)?;
        let Some(disk) = self.disk(pool, SIZE).await? else { return Ok("the disk was undone".into()) };
        let word = self.upload(&disk, "cow", &file).await?;
        self.download(&disk, None, &Content::Bytes(bytes)).await?;
        self.delete(&format!("disks/{disk}")).await?;
        Ok(word)
    }

    /// A disk that CloudStack refuses when its image is there: all of it goes again.
    async fn undo(&self) -> Outcome {
        let port = self.site.lock().await.ports.simulator;
        let tell = |faults: &'static str| async move {
            let url = format!("http://127.0.0.1:{port}/simulator/faults");
            reqwest::Client::new().post(url).body(faults).send().await.is_ok()
        };
        tell("refuse=530:updateVolume:1").await;
        let id = uuid::Uuid::new_v4().to_string();
        let body = json!({"id": id, "name": "refused", "format": "cow", "sparse": true,
            "provisioned_size": SIZE.to_string(), "storage_domains": {"storage_domain": [{"name": "smp1"}]}});
        let answer = self.client.post("disks", &body).await;
        tell("").await;
        match answer {
            Some((status, _)) if status >= 400 => Ok("refused, and undone".into()),
            None => Ok("undone".into()),
            other => Err(format!("it was made: {other:?}")),
        }
    }

    /// The host's daemon dies while a backup begins, and starts again.
    async fn unmade(&mut self) -> Outcome {
        const FIRST: &str = "host.backup.served";
        self.site.lock().await.arm(FIRST, 1, "kill");
        let (vm, id) = (self.facts.stopped.id.clone(), uuid::Uuid::new_v4().to_string());
        self.client.post(&format!("vms/{vm}/backups"), &json!({"id": id})).await;
        let until = Instant::now() + PATIENCE;
        while !self.site.lock().await.reached(FIRST) {
            if Instant::now() > until {
                return Err(format!("{FIRST} was not reached"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.site.lock().await.kill(Component::Imageio);
        self.arm().await;
        self.site.lock().await.revive(Component::Imageio)?;
        let path = format!("vms/{vm}/backups/{id}");
        match self.client.settled(&path, "phase", &["initializing", "starting"]).await.as_deref() {
            Some("ready") => self.finish(&path).await,
            Some("failed") => Ok("failed".into()),
            other => Err(format!("the backup is {other:?}")),
        }
    }

    /// Two backups are ready and one is being read, when a process is killed and starts again.
    async fn restart(&mut self, who: Component) -> Outcome {
        let facts = self.facts.clone();
        let mut open = Vec::new();
        for machine in [&facts.running, &facts.stopped] {
            let id = uuid::Uuid::new_v4().to_string();
            let path = format!("vms/{}/backups/{id}", machine.id);
            self.client.post(&format!("vms/{}/backups", machine.id), &json!({"id": id})).await;
            match self.client.settled(&path, "phase", &["initializing", "starting"]).await.as_deref() {
                Some("ready") => open.push((machine, id, path)),
                other => return Err(format!("nothing has died yet, and the backup is {other:?}")),
            }
        }
        let (machine, id, _) = &open[1];
        let body = json!({"disk": {"id": machine.disks[1].0}, "backup": {"id": id}, "direction": "download"});
        let (transfer, url) = self.client.transfer(body).await?;
        {
            let mut site = self.site.lock().await;
            site.kill(who);
        }
        self.arm().await;
        self.site.lock().await.revive(who)?;
        let mut words = Vec::new();
        // the transfer that was open goes on under the same address, or is said to have ended
        match self.client.settled(&transfer, "phase", &[]).await.as_deref() {
            Some("transferring") => {
                let until = Instant::now() + PATIENCE;
                let read = loop {
                    match self.client.read(&url).await {
                        Ok(bytes) => break Ok(bytes),
                        Err(error) if Instant::now() > until => break Err(error),
                        Err(_) => {}
                    }
                    if self.client.settled(&transfer, "phase", &[]).await.as_deref() != Some("transferring") {
                        break Err("ended".to_owned());
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                };
                match read {
                    Ok(bytes) => {
                        machine.disks[1].1.check(&bytes).map_err(|error| format!("WRONG: {error}"))?;
                        self.client.finalize_transfer(&transfer).await.ok();
                    }
                    Err(error) if error == "ended" => {}
                    Err(error) => return Err(format!("transferring, and not readable: {error}")),
                }
            }
            _ => self.client.give_up(&transfer).await,
        }
        for (machine, id, path) in &open {
            let (disk, content) = &machine.disks[1];
            let word = match self.download(disk, Some((id, path)), content).await {
                Ok(()) => self.finish(path).await?,
                Err(error) if error.starts_with("failed") => "failed".to_owned(),
                Err(error) => return Err(error),
            };
            words.push(word);
        }
        Ok(words.join(", "))
    }
}

#[derive(Clone, Copy)]
enum Ending {
    Finalize,
    Cancel,
    Fail,
}

/// Bytes of a restored disk: some MiB, and one sector, so that rounding shows.
const SIZE: u64 = (6 << 20) + 512;
