//! Names that are unique, as oVirt's are and CloudStack's need not be.

use std::collections::HashMap;

/// The name of each id. Every holder of a name that several have gets `-` and the first eight digits
/// of its id, so that a name does not depend on the order of the list.
pub fn unique_names<'a>(items: impl IntoIterator<Item = (&'a str, &'a str)>) -> HashMap<String, String> {
    let items: Vec<_> = items.into_iter().collect();
    let mut holders: HashMap<String, usize> = HashMap::new();
    for (_, name) in &items {
        *holders.entry(name.to_lowercase()).or_default() += 1;
    }
    items
        .into_iter()
        .map(|(id, name)| {
            let shared = holders.get(&name.to_lowercase()).is_some_and(|count| *count > 1);
            (id.to_owned(), if shared { distinct(name, id) } else { name.to_owned() })
        })
        .collect()
}

fn distinct(name: &str, id: &str) -> String {
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(DIGITS).collect();
    format!("{name}-{digits}")
}

/// Hexadecimal digits of an id that tell two objects of one name apart.
const DIGITS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_shared_names_change_and_letter_case_does_not_tell_apart() {
        let names = unique_names([("aaaaaaaa-1", "web"), ("bbbbbbbb-2", "Web"), ("cccccccc-3", "db")]);
        assert_eq!(names["aaaaaaaa-1"], "web-aaaaaaaa");
        assert_eq!(names["bbbbbbbb-2"], "Web-bbbbbbbb");
        assert_eq!(names["cccccccc-3"], "db");
    }
}
