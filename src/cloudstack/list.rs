//! Whole lists: CloudStack gives 500 rows at most and says nothing when there are more.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing::warn;

use super::{Client, Error, Params, commands, envelope};

impl Client {
    /// All rows of a list: `key` is the array's name. The first page tells the count, the others
    /// come at once, as many as the credential's limit lets through.
    pub async fn list<T: DeserializeOwned>(
        &self,
        command: &str,
        key: &str,
        params: Params,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Rows::default();
        // One look at accounts, one at projects, where the first leaves out the other.
        for params in commands::looks(command, params, self.administers_domain()) {
            self.walk(command, key, &params, &mut rows).await?;
        }
        Ok(rows.kept.into_iter().filter_map(|row| read(command, row)).collect())
    }

    /// All pages into `rows`, again where something moved between two of them.
    async fn walk(&self, command: &str, key: &str, params: &Params, all: &mut Rows) -> Result<(), Error> {
        let mut rows = Rows::default();
        let mut pass = match self.pages(command, key, params, &mut rows).await {
            Err(Error::Invalid { text }) if self.learns_page_size(&text) => {
                self.pages(command, key, params, &mut rows).await?
            }
            first => first?,
        };
        // Something was added or removed between two pages and shifted the rest: all passes together
        // hold what one may have missed.
        for _ in 0..MORE_PASSES {
            if rows.kept.len() >= pass.count {
                break;
            }
            let again = self.pages(command, key, params, &mut rows).await?;
            let unmoved = (again.received, again.count) == (pass.received, pass.count);
            pass = again;
            // Rows that come twice in every walk are CloudStack's own: templates, one per zone.
            if unmoved {
                break;
            }
        }
        if pass.received < pass.count {
            let Pass { received, count } = pass;
            if received == 0 {
                let text = format!("a count of {count} and no rows");
                return Err(Error::Unreadable { command: command.into(), text });
            }
            warn!(command, count, received, "a list is shorter than its count");
        }
        all.add(Page { count: pass.count, rows: rows.kept });
        Ok(())
    }

    /// The first rows of a list that CloudStack gives newest first: one page, `limit` at most.
    pub async fn newest<T: DeserializeOwned>(
        &self,
        command: &str,
        key: &str,
        limit: u32,
        params: Params,
    ) -> Result<Vec<T>, Error> {
        let params = commands::looks(command, params, self.administers_domain()).remove(0);
        let size = limit.clamp(1, self.0.endpoint.page_size.load(Ordering::Relaxed).max(1));
        let page = self.page(command, key, &params, size, 1).await?;
        Ok(page.rows.into_iter().filter_map(|row| read(command, row)).collect())
    }

    /// At most one row, by id: nothing, another tenant's and an unknown id are all `None`.
    pub(super) async fn one<T: DeserializeOwned>(
        &self,
        command: &str,
        key: &str,
        id: &str,
    ) -> Result<Option<T>, Error> {
        match self.query(command, commands::widened(command, Params::new().set("id", id))).await {
            Ok(mut reply) => match reply[key].as_array_mut() {
                Some(rows) => {
                    Ok(rows.drain(..).find(|row| row["id"] == id).and_then(|row| read(command, row)))
                }
                None => Ok(None),
            },
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes over the server's largest page, if it is smaller than ours.
    fn learns_page_size(&self, text: &str) -> bool {
        let largest = largest_page(text);
        if let Some(largest) = largest {
            self.0.endpoint.page_size.fetch_min(largest, Ordering::Relaxed);
        }
        largest.is_some()
    }

    async fn pages(&self, command: &str, key: &str, params: &Params, rows: &mut Rows) -> Result<Pass, Error> {
        let size = self.0.endpoint.page_size.load(Ordering::Relaxed).max(1);
        let first = self.page(command, key, params, size, 1).await?;
        let (count, mut received) = (first.count, first.rows.len());
        rows.add(first);
        if count > MOST_ROWS {
            return Err(Error::TooMany { command: command.into(), limit: MOST_ROWS });
        }
        let rest = futures_util::stream::iter(2..=count.div_ceil(usize::try_from(size).unwrap_or(1)))
            .map(|page| self.page(command, key, params, size, page))
            .buffered(PAGES_AHEAD);
        let mut rest = std::pin::pin!(rest);
        while let Some(page) = rest.try_next().await? {
            received += page.rows.len();
            rows.add(page);
        }
        Ok(Pass { count, received })
    }

    async fn page(
        &self,
        command: &str,
        key: &str,
        params: &Params,
        size: u32,
        page: usize,
    ) -> Result<Page, Error> {
        let params = params.clone().set("page", page.to_string()).set("pagesize", size.to_string());
        let mut reply = self.query(command, params).await?;
        let rows = match reply[key].take() {
            Value::Array(rows) => rows,
            _ => Vec::new(),
        };
        let count = envelope::number(&reply["count"]).and_then(|count| usize::try_from(count).ok());
        Ok(Page { count: count.unwrap_or(rows.len()), rows })
    }
}

/// The server's own maximum, if that is what a refusal is about.
fn largest_page(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once(PAGE_SIZE_REFUSED)?;
    rest.trim().trim_end_matches('.').parse().ok().filter(|size| *size > 0)
}

/// One walk over all pages: what was promised and what came, duplicates included.
#[derive(Clone, Copy)]
struct Pass {
    count: usize,
    received: usize,
}

struct Page {
    count: usize,
    rows: Vec<Value>,
}

/// Rows in the order they came, each once.
#[derive(Default)]
struct Rows {
    kept: Vec<Value>,
    seen: HashSet<String>,
}

impl Rows {
    fn add(&mut self, page: Page) {
        for row in page.rows {
            let key = match row["id"].as_str() {
                Some(id) => id.to_owned(),
                None => row.to_string(),
            };
            if self.seen.insert(key) {
                self.kept.push(row);
            }
        }
    }
}

/// A row that cannot be read is left out and named in the log: one odd object must not hide all.
fn read<T: DeserializeOwned>(command: &str, row: Value) -> Option<T> {
    let id = row["id"].as_str().unwrap_or_default().to_owned();
    serde_json::from_value(row)
        .map_err(|error| warn!(command, id, kind = ?error.classify(), "a row of CloudStack's answer is unreadable"))
        .ok()
}

/// How CloudStack says that `default.page.size` is smaller than what was asked for.
const PAGE_SIZE_REFUSED: &str = "max allowed page size value:";

/// Rows of one list: what a gateway holds in memory for it.
const MOST_ROWS: usize = 200_000;

/// Walks after one that came out short.
const MORE_PASSES: usize = 3;

/// Pages under way at once; the credential's own limit is usually lower.
const PAGES_AHEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_largest_page_out_of_a_refusal() {
        assert_eq!(largest_page("Page size can't exceed max allowed page size value: 50"), Some(50));
        assert_eq!(largest_page("Page size can't exceed max allowed page size value: 0"), None);
        assert_eq!(largest_page("something else: 50"), None);
    }
}
