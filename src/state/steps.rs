//! Steps of half-made disks and instances: what must be undone if the work does not get to its end.

use sqlx::Row;

use super::database::Within;
use super::store::word;
use super::{Error, Store, now_ms, words};

words! {
    /// What a step undoes.
    Kind {
        /// `subject`: the id of a CloudStack volume that we made.
        Volume = "volume",
        /// `subject`: the id of a CloudStack instance that we made.
        Instance = "instance",
        /// `subject`: the id of a CloudStack job that makes a volume or an instance.
        Job = "job",
        /// `subject`: JSON of the host's address, the pool and the file's name.
        File = "file",
        /// `subject`: JSON of an instance's id and the hosts with its firmware's files.
        Firmware = "firmware",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The work it belongs to; an id of our own.
    pub work: String,
    pub position: i64,
    pub kind: Kind,
    pub subject: String,
}

impl Store {
    /// Notes what to undo, before or as soon as it is known.
    pub async fn note_step(&self, work: &str, position: i64, kind: Kind, subject: &str) -> Result<(), Error> {
        self.query("INSERT INTO steps (work, position, kind, subject, created_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(work.to_owned())
            .bind(position)
            .bind(kind.as_str())
            .bind(subject.to_owned())
            .bind(now_ms())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    /// The work is complete: nothing is to be undone.
    pub async fn forget_steps(&self, work: &str) -> Result<(), Error> {
        self.query("DELETE FROM steps WHERE work = ?")
            .bind(work.to_owned())
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    pub async fn forget_step(&self, step: &Step) -> Result<(), Error> {
        self.query("DELETE FROM steps WHERE work = ? AND position = ?")
            .bind(step.work.clone())
            .bind(step.position)
            .execute(&self.pool)
            .within()
            .await?;
        Ok(())
    }

    /// All steps of a work, or of every work there is, the newest of each work first.
    pub async fn steps(&self, work: Option<&str>) -> Result<Vec<Step>, Error> {
        let rows = self
            .query("SELECT * FROM steps WHERE work = ? OR ? = 1 ORDER BY work, position DESC")
            .bind(work.unwrap_or_default().to_owned())
            .bind(i64::from(work.is_none()))
            .fetch_all(&self.pool)
            .within()
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Step {
                    work: row.try_get("work")?,
                    position: row.try_get("position")?,
                    kind: word(row, "kind", Kind::parse)?,
                    subject: row.try_get("subject")?,
                })
            })
            .collect()
    }
}
