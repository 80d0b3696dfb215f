//! The parameters of a request: query first, then matrix (see `normalize`), then headers.
//!
//! `ovirt-api.md` 1.1, 1.2, 1.8. Booleans are read as the engine reads them; what cannot be read is
//! ignored, as there. A search that is not understood is an error: never an unfiltered list.

use axum::http::HeaderMap;

use super::fault::Fault;

/// Parameters by name; the first value of a name counts.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    all_content: bool,
}

impl Query {
    pub fn new(query: Option<&str>, headers: &HeaderMap) -> Self {
        let pairs: Vec<(String, String)> =
            query.unwrap_or_default().split('&').take(MAX_PARAMETERS).map(pair).collect();
        let header = headers.get("all-content").and_then(|value| value.to_str().ok());
        let mut this = Self { pairs, all_content: false };
        this.all_content = this.flag("all_content").or_else(|| header.and_then(boolean)).unwrap_or(false);
        this
    }

    /// A parameter that was given, even if empty.
    pub fn raw(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that was given and is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.trim().is_empty())
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        boolean(self.raw(name)?)
    }

    pub fn all_content(&self) -> bool {
        self.all_content
    }

    /// At most so many rows; a value that is no number is no limit.
    pub fn max(&self) -> Option<usize> {
        self.text("max")?.trim().parse().ok()
    }

    /// Whether `follow` names this path, or something below it: `disk_attachments.disk`.
    pub fn follows(&self, path: &str) -> bool {
        let wanted = plain(path);
        self.follow().any(|given| {
            given == wanted || given.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Refuses a `follow` that this resource does not know. The engine answers 500; we say which.
    pub fn only_follows(&self, known: &[&str]) -> Result<(), Fault> {
        let known: Vec<String> = known.iter().map(|path| plain(path)).collect();
        let stranger = self.follow().find(|given| {
            !known.iter().any(|path| {
                path == given || path.strip_prefix(given.as_str()).is_some_and(|r| r.starts_with('.'))
            })
        });
        match stranger {
            Some(path) => {
                Err(Fault::bad_request(format!("follow={path}: there is no such link to follow here")))
            }
            None => Ok(()),
        }
    }

    fn follow(&self) -> impl Iterator<Item = String> {
        self.text("follow").unwrap_or_default().split(',').map(plain).filter(|path| !path.is_empty())
    }

    /// The search of this request.
    pub fn search(&self) -> Result<Search, Fault> {
        match self.text("search") {
            None => Ok(Search::default()),
            Some(text) => Search::parse(text).ok_or_else(|| {
                Fault::bad_request(format!("search={text}: this gateway does not know this expression yet"))
            }),
        }
    }
}

/// The part of oVirt's search grammar that is understood so far: `name=x and id=y page N`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// (field, value): field in lower case; `*` in a value stands for any text.
    pub conditions: Vec<(String, String)>,
    pub page: Option<usize>,
}

impl Search {
    fn parse(text: &str) -> Option<Self> {
        let mut this = Self::default();
        let mut words = words(text)?.into_iter().peekable();
        while let Some(word) = words.next() {
            if word.eq_ignore_ascii_case("page") {
                this.page = Some(words.next()?.parse().ok().filter(|page| *page > 0)?);
                continue;
            }
            if words.next().as_deref() != Some("=") {
                return None;
            }
            this.conditions.push((word.to_ascii_lowercase(), words.next()?));
            match words.peek() {
                Some(next) if next.eq_ignore_ascii_case("and") => {
                    words.next();
                    words.peek()?; // nothing after the `and`
                }
                Some(next) if !next.eq_ignore_ascii_case("page") => return None,
                _ => {}
            }
        }
        Some(this)
    }

    /// Keeps the rows that match. `fields` answers a row's value for a field; an unknown field is an error.
    pub fn filter<T>(
        &self,
        rows: Vec<T>,
        max: Option<usize>,
        known: &[&str],
        field: impl Fn(&T, &str) -> Vec<String>,
    ) -> Result<Vec<T>, Fault> {
        if let Some((name, _)) = self.conditions.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(Fault::bad_request(format!("search: this gateway cannot search by {name} here yet")));
        }
        let matches = |row: &T| {
            self.conditions.iter().all(|(name, wanted)| field(row, name).iter().any(|v| like(wanted, v)))
        };
        let rows = rows.into_iter().filter(matches);
        let limit = max.unwrap_or(usize::MAX);
        let skip = self.page.map_or(0, |page| (page - 1).saturating_mul(max.unwrap_or(PAGE)));
        let limit = if self.page.is_some() { max.unwrap_or(PAGE) } else { limit };
        Ok(rows.skip(skip).take(limit).collect())
    }
}

/// Words, `=` signs and quoted values.
fn words(text: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' => rest[1..].split_once('"')?,
            '=' => rest.split_at(1),
            '(' | ')' | '<' | '>' | '!' => return None,
            _ => rest.split_at(
                rest.find(|c: char| c.is_whitespace() || "=\"()<>!".contains(c)).unwrap_or(rest.len()),
            ),
        };
        out.push(word.to_owned());
        rest = after.trim_start();
    }
    Some(out)
}

/// Case-insensitive comparison where `*` stands for any text.
fn like(pattern: &str, value: &str) -> bool {
    let (pattern, value) = (pattern.to_lowercase(), value.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| value.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    match last {
        None => rest.is_empty(),
        Some(part) => value.ends_with(part),
    }
}

/// Lower case without underscores: how the engine compares the names in `follow`.
fn plain(path: &str) -> String {
    path.trim().to_ascii_lowercase().replace('_', "")
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (decode(name), decode(value))
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// As the engine's ParametersHelper: an empty value is true.
fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "f" | "false" | "n" | "no" | "0" => Some(false),
        "t" | "true" | "y" | "yes" | "1" | "" => Some(true),
        _ => None,
    }
}

/// More parameters than any client sends.
const MAX_PARAMETERS: usize = 100;
/// Rows of a page when `max` is not given with `page N`: the engine's default.
const PAGE: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_sdk_sends() {
        let query =
            Query::new(Some("all_content=true&follow=&search=name%3D%22my+vm%22&max=x"), &HeaderMap::new());
        assert!(query.all_content());
        assert_eq!(query.max(), None);
        assert!(!query.follows("tags"));
        let search = query.search().expect("understood");
        assert_eq!(search.conditions, vec![("name".to_owned(), "my vm".to_owned())]);
    }

    #[test]
    fn follow_knows_paths_and_refuses_strangers() {
        let query = Query::new(Some("follow=tags,diskAttachments.disk"), &HeaderMap::new());
        assert!(
            query.follows("disk_attachments")
                && query.follows("disk_attachments.disk")
                && query.follows("tags")
        );
        assert!(!query.follows("nics"));
        assert!(query.only_follows(&["tags", "disk_attachments.disk"]).is_ok());
        assert!(query.only_follows(&["tags"]).is_err());
    }

    #[test]
    fn an_expression_that_is_not_understood_is_never_everything() {
        for text in ["name", "name!=x", "a=b or c=d", "name=x and", "(name=x)", "page x", "\"open"] {
            assert_eq!(Search::parse(text), None, "{text}");
        }
        let search = Search::parse("name = w* page 2").expect("understood");
        assert_eq!((search.conditions.len(), search.page), (1, Some(2)));
        let rows = vec!["web1", "db", "web2", "web3"];
        let found = search.filter(rows, Some(1), &["name"], |row, _| vec![(*row).to_owned()]).expect("known");
        assert_eq!(found, ["web2"]);
        assert!(like("a*b", "axxb") && like("*", "") && !like("a*b", "axbx") && like("A", "a"));
    }
}
