//! Whether a bitmap may be believed: the decision alone. Who looks is `live` and `stopped`.
//!
//! A changed block that is missed is worse than a whole disk read once more: whatever is doubtful is full.

use std::collections::HashMap;

use super::api::{BackupDisk, Checkpoint};
use super::refuse::Error;

/// The bitmaps of known checkpoints on one disk, by name, and what is wrong with them. A name that is not
/// here was not looked for: its checkpoint does not have the disk.
pub(super) type Bitmaps = HashMap<String, Result<(), String>>;

/// One disk as it was found.
pub(super) struct Sight {
    pub size: u64,
    /// Why it can carry no bitmap at all.
    pub bare: Option<&'static str>,
    pub bitmaps: Bitmaps,
}

/// What becomes of one disk.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub base: Option<String>,
    pub why_full: Option<String>,
    pub lost: Vec<String>,
}

pub(super) fn judge(wanted: &BackupDisk, sight: &Sight, known: &[Checkpoint]) -> Verdict {
    let of_disk: Vec<_> = known.iter().filter(|checkpoint| checkpoint.disks.contains(&wanted.id)).collect();
    let unsound = |name: &str| match sight.bitmaps.get(name) {
        Some(Ok(())) => None,
        Some(Err(why)) => Some(why.clone()),
        None => Some("its bitmap was not found".to_owned()),
    };
    let lost = || {
        let names = of_disk.iter().map(|checkpoint| &checkpoint.name);
        names.filter(|name| unsound(name).is_some()).cloned().collect::<Vec<_>>()
    };
    let full = |why: String, lost: Vec<String>| Verdict { base: None, why_full: Some(why), lost };
    let Some(base) = &wanted.base else { return Verdict { lost: lost(), ..Verdict::default() } };
    if let Some(why) = sight.bare {
        return full(why.to_owned(), lost());
    }
    let Some(began) = of_disk.iter().find(|checkpoint| checkpoint.name == base.checkpoint) else {
        return full("the disk was not part of the earlier backup".into(), lost());
    };
    if sight.size != base.size {
        return full(format!("its size was {} and is {} bytes", base.size, sight.size), lost());
    }
    if let Some(why) = unsound(&base.checkpoint) {
        return full(why, lost());
    }
    // two of the same second are taken for later ones: the clock does not tell
    let later = |checkpoint: &&&Checkpoint| {
        checkpoint.created >= began.created && unsound(&checkpoint.name).is_some()
    };
    if of_disk.iter().any(|checkpoint| later(&checkpoint)) {
        let all = of_disk.iter().map(|checkpoint| checkpoint.name.clone()).collect();
        return full("the image is not the one it was: a later checkpoint is not in it".into(), all);
    }
    Verdict { base: Some(base.checkpoint.clone()), why_full: None, lost: lost() }
}

/// What all checkpoints of this gateway's installation begin with, if this name is one of them.
pub(super) fn prefix(name: &str) -> Option<&str> {
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (installation, id) = name.strip_prefix(OURS)?.split_once('-')?;
    (hex(installation, 8) && hex(id, 32)).then(|| &name[..OURS.len() + 9])
}

/// Names become arguments of programs and bitmaps of images: only ours do.
pub(super) fn checked<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), Error> {
    match names.into_iter().all(|name| prefix(name).is_some()) {
        true => Ok(()),
        false => Err(Error::BadRequest("a checkpoint's name is ovgw-INSTALLATION-ID")),
    }
}

/// Those of the names that are of the same installation as `new` and not known: leftovers.
pub(super) fn leftovers<'a>(
    names: impl IntoIterator<Item = &'a str>,
    new: &str,
    known: &[Checkpoint],
) -> Vec<String> {
    let ours = prefix(new);
    let left = |name: &&str| {
        ours.is_some()
            && prefix(name) == ours
            && (*name == new || !known.iter().any(|checkpoint| checkpoint.name == *name))
    };
    let mut left: Vec<String> = names.into_iter().filter(left).map(str::to_owned).collect();
    left.sort();
    left.dedup();
    left
}

const OURS: &str = "ovgw-";

#[cfg(test)]
mod tests {
    use super::super::api::{Base, Pool, VolumeRef};
    use super::*;

    fn name(n: u8) -> String {
        format!("ovgw-0123abcd-{:032x}", n)
    }

    fn disk(base: u8) -> BackupDisk {
        let pool = Pool { id: "p".into(), kind: "Filesystem".into(), path: "/p".into() };
        BackupDisk {
            id: "d".into(),
            volume: VolumeRef { pool, path: "v".into() },
            base: Some(Base { checkpoint: name(base), size: 100 }),
        }
    }

    fn known(numbers: &[u8]) -> Vec<Checkpoint> {
        let one = |n: &u8| Checkpoint { name: name(*n), created: i64::from(*n), disks: vec!["d".into()] };
        numbers.iter().map(one).collect()
    }

    fn sight(sound: &[u8], unsound: &[u8]) -> Sight {
        let sound = sound.iter().map(|n| (name(*n), Ok(())));
        let unsound = unsound.iter().map(|n| (name(*n), Err("gone".to_owned())));
        Sight { size: 100, bare: None, bitmaps: sound.chain(unsound).collect() }
    }

    #[test]
    fn only_a_base_without_any_doubt_is_used() {
        let of = |verdict: Verdict| (verdict.base.is_some(), verdict.lost.len());
        let three = known(&[1, 2, 3]);
        assert_eq!(of(judge(&disk(2), &sight(&[1, 2, 3], &[]), &three)), (true, 0));
        // an older one that is gone is no sign of anything
        assert_eq!(of(judge(&disk(2), &sight(&[2, 3], &[1]), &three)), (true, 1));
        assert_eq!(of(judge(&disk(2), &sight(&[1, 3], &[2]), &three)), (false, 1));
        // an image of an earlier time
        assert_eq!(of(judge(&disk(2), &sight(&[1, 2], &[3]), &three)), (false, 3));
        assert_eq!(of(judge(&disk(2), &sight(&[], &[]), &three)), (false, 3));
        assert_eq!(of(judge(&disk(4), &sight(&[1, 2, 3], &[]), &three)), (false, 0));
        let grown = Sight { size: 200, ..sight(&[1, 2, 3], &[]) };
        assert_eq!(of(judge(&disk(2), &grown, &three)), (false, 0));
        let raw = Sight { bare: Some("it is raw"), ..sight(&[1, 2, 3], &[]) };
        assert_eq!(judge(&disk(2), &raw, &three).why_full.as_deref(), Some("it is raw"));
    }

    #[test]
    fn leftovers_are_of_the_same_installation_only() {
        let (one, two, new) = (name(1), name(2), name(9));
        let foreign = name(3).replace("0123abcd", "ffffffff");
        let names = [one.as_str(), &two, &new, &foreign, "backup-1", "ovgw-x", &two];
        assert_eq!(leftovers(names, &new, &known(&[1])), [two.clone(), new.clone()]);
        assert!(checked([one.as_str()]).is_ok() && checked(["ovgw-0123abcd-x"]).is_err());
        assert_eq!(prefix("ovgw-0123ABCD-00000000000000000000000000000000"), None);
    }
}
