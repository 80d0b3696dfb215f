//! What a real CloudStack does wrong now and then, on demand: `KIND[=VALUE][:COMMAND[:TIMES]]`.
//!
//! Given with `--fault` or, while it runs, as lines of a `POST /simulator/faults`, which replaces all.

use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::wire::Refusal;

/// One kind of misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused with this code, without being done.
    Refuse(u16),
    /// 429, with the milliseconds to wait.
    Throttle(u64),
    /// A proxy's page.
    Html,
    /// No answer at all.
    Silent,
    /// The connection ends in the middle of the body.
    Cut,
    /// The body comes byte by byte.
    Drip,
    /// Raw control characters and bad escapes inside strings.
    Control,
    /// A count, and no array.
    CountOnly,
    /// The pages after the first begin one row late.
    Shift,
    /// Each row twice.
    Duplicate,
    /// What is asked for by id is gone.
    Vanish,
    /// The job fails with this code.
    JobRefused(u16),
    /// The job succeeds with `success: false`.
    JobFalse,
    /// The job fails with a bare string.
    JobBare,
    /// Done, but nobody knows the job any more.
    JobExpired,
    /// Done, but the job never ends.
    JobHangs,
}

impl Kind {
    fn parse(word: &str, value: Option<&str>) -> Option<Self> {
        let number = |default| value.map_or(Some(default), |text| text.parse().ok());
        let code = |default| number(default).and_then(|code| u16::try_from(code).ok());
        Some(match word {
            "refuse" => Self::Refuse(code(530)?),
            "throttle" => Self::Throttle(number(1000)?),
            "html" => Self::Html,
            "silent" => Self::Silent,
            "cut" => Self::Cut,
            "drip" => Self::Drip,
            "control" => Self::Control,
            "count-only" => Self::CountOnly,
            "shift" => Self::Shift,
            "duplicate" => Self::Duplicate,
            "vanish" => Self::Vanish,
            "job-refused" => Self::JobRefused(code(530)?),
            "job-false" => Self::JobFalse,
            "job-bare" => Self::JobBare,
            "job-expired" => Self::JobExpired,
            "job-hangs" => Self::JobHangs,
            _ => return None,
        })
    }

    /// The answer in place of the real one; the command is not carried out.
    pub fn instead(self) -> Option<Refusal> {
        match self {
            Self::Refuse(401) => Some(Refusal::unverified()),
            Self::Refuse(code) => Some(Refusal::new(code, "refused, as told")),
            Self::Throttle(wait) => Some(Refusal::new(
                429,
                format!(
                    "The given user has reached his/her account api limit, please retry after {wait} ms."
                ),
            )),
            _ => None,
        }
    }

    /// Changes a list's answer.
    pub fn twist(self, answer: &mut Value, page: usize, by_id: bool) {
        let Some(fields) = answer.as_object_mut() else { return };
        let Some(key) = fields.iter().find(|(_, value)| value.is_array()).map(|(key, _)| key.clone()) else {
            return;
        };
        let Some(Value::Array(rows)) = fields.get_mut(&key) else { return };
        match self {
            Self::CountOnly => drop(fields.remove(&key)),
            Self::Shift if page > 1 && !rows.is_empty() => drop(rows.remove(0)),
            Self::Duplicate => rows.append(&mut rows.clone()),
            Self::Vanish if by_id => *answer = json!({}),
            _ => {}
        }
    }

    /// Raw control characters, and an escape that JSON does not know, in every name.
    pub fn spoil(self, body: String) -> String {
        match self {
            Self::Control => body.replace("\"name\":\"", "\"name\":\"\u{1}\u{7}\\u003c\\x "),
            _ => body,
        }
    }

    /// What becomes of a job instead of what it did.
    pub fn outcome(self, real: Result<Value, Refusal>) -> Result<Value, Refusal> {
        match self {
            Self::JobRefused(code) => Err(Refusal::new(code, "the job was refused, as told")),
            Self::JobFalse => Ok(json!({"success": false, "displaytext": "not done, as told"})),
            Self::JobBare => Err(Refusal::new(530, "the job was lost, as told")),
            _ => real,
        }
    }

    /// Whether the command itself is left undone.
    pub fn prevents(self) -> bool {
        matches!(self, Self::JobRefused(_) | Self::JobFalse | Self::JobBare)
    }
}

#[derive(Debug, Clone)]
struct Fault {
    kind: Kind,
    /// Of this command only.
    command: Option<String>,
    /// So often; `None` is always.
    left: Option<u32>,
}

/// The faults that are switched on.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Takes the place of all that were there.
    pub fn set<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<(), Unknown> {
        let faults = texts.map(parse).collect::<Result<Vec<_>, _>>()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        Ok(())
    }

    /// The fault of this call, if there is one; a counted one is used up by it.
    pub fn of(&self, command: &str) -> Option<Kind> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let concerns = |fault: &Fault| match &fault.command {
            Some(name) => name == command,
            None => !matches!(command, "login" | "listApis"),
        };
        let fault = faults.iter_mut().find(|fault| fault.left != Some(0) && concerns(fault))?;
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        Some(fault.kind)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown fault {0:?}: KIND[=VALUE][:COMMAND[:TIMES]]")]
pub struct Unknown(String);

fn parse(text: &str) -> Result<Fault, Unknown> {
    let unknown = || Unknown(text.to_owned());
    let mut parts = text.splitn(3, ':');
    let what = parts.next().unwrap_or_default();
    let (word, value) = what.split_once('=').map_or((what, None), |(word, value)| (word, Some(value)));
    let command = parts.next().filter(|name| !name.is_empty()).map(str::to_owned);
    let left = match parts.next() {
        Some(times) => Some(times.parse().map_err(|_| unknown())?),
        None => None,
    };
    Ok(Fault { kind: Kind::parse(word, value).ok_or_else(unknown)?, command, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_of_a_command_and_used_up() {
        let faults = Faults::default();
        faults.set(["throttle=5:listZones:2", "job-false"].into_iter()).expect("known");
        assert_eq!(faults.of("listZones"), Some(Kind::Throttle(5)));
        assert_eq!(faults.of("listVolumes"), Some(Kind::JobFalse));
        assert_eq!(faults.of("listZones"), Some(Kind::Throttle(5)));
        assert_eq!(faults.of("listZones"), Some(Kind::JobFalse));
        assert!(
            faults.set(["nothing"].into_iter()).is_err() && faults.set(["html:x:many"].into_iter()).is_err()
        );
    }

    #[test]
    fn lists_are_twisted() {
        let list = json!({"count": 2, "zone": [{"id": "a"}, {"id": "b"}]});
        let twisted = |kind: Kind, page| {
            let mut list = list.clone();
            kind.twist(&mut list, page, true);
            list
        };
        assert_eq!(twisted(Kind::CountOnly, 1), json!({"count": 2}));
        assert_eq!(twisted(Kind::Shift, 1), list);
        assert_eq!(twisted(Kind::Shift, 2)["zone"], json!([{"id": "b"}]));
        assert_eq!(twisted(Kind::Duplicate, 1)["zone"].as_array().map(Vec::len), Some(4));
        assert_eq!(twisted(Kind::Vanish, 1), json!({}));
    }
}
