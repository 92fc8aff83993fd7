//! Reading texts that change now and then.

use std::{collections::HashMap, sync::Arc};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::{
    object::Document,
    parse::{Found, Gathering, Parsed, Source, find},
};

/// Reads as [`parse()`](super::parse()) does, and remembers what was found: of many files, only those that have changed since
/// the last time are parsed. What is remembered is that of the last texts alone.
#[derive(Debug, Default)]
pub struct Reader {
    /// By name and text. Two texts of one file with the same 128 bits would be taken for one.
    known: HashMap<u128, Arc<Vec<Found>>>,
    last: Vec<(Arc<str>, Arc<Vec<Found>>)>,
}

impl Reader {
    /// Reads these texts.
    pub fn read(&mut self, sources: &[Source]) -> Parsed {
        let mut known = HashMap::with_capacity(sources.len());
        self.last.clear();
        for source in sources {
            let key = xxh3_128_with_seed(source.text.as_bytes(), xxh3_64(source.name.as_bytes()));
            let found = self.known.get(&key).cloned().unwrap_or_else(|| Arc::new(find(source)));
            self.last.push((source.name.as_str().into(), found.clone()));
            known.insert(key, found);
        }
        self.known = known;
        let mut gathering = Gathering::default();
        for (name, found) in &self.last {
            if !gathering.add(name, found) {
                break;
            }
        }
        gathering.parsed
    }

    /// Every valid document of the last texts with its file, in their order. An object that stands in several files comes
    /// several times.
    pub fn documents(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Document>)> {
        let all = self.last.iter().flat_map(|(file, found)| found.iter().map(move |one| (file, one)));
        all.filter_map(|(file, one)| match one {
            Found::Document { document, .. } => Some((file, document)),
            Found::Problem(_) => None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::resources::parse;

    fn service(name: &str, port: u32) -> String {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{ports: [{{port: {port}}}]}}\n"
        )
    }

    fn source(name: &str, text: impl Into<String>) -> Source {
        Source { name: name.into(), text: text.into() }
    }

    /// The same outcome as without a memory.
    fn check(reader: &mut Reader, sources: &[Source]) -> Parsed {
        let (read, fresh) = (reader.read(sources), parse(sources));
        assert_eq!(read.problems, fresh.problems);
        let texts = |parsed: &Parsed| {
            let all = parsed.resources.documents();
            all.map(|(key, document)| (key.clone(), document.json().to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(texts(&read), texts(&fresh));
        read
    }

    #[test]
    fn what_is_remembered_is_what_would_be_read() {
        let mut reader = Reader::default();
        let a = source("a.yaml", service("a", 80) + &service("b", 99_999));
        let first = check(&mut reader, &[a.clone(), source("b.yaml", service("c", 80))]);
        assert_eq!((first.resources.len(), first.problems.len()), (2, 1));
        let second = check(&mut reader, &[a.clone(), source("b.yaml", service("a", 81))]);
        assert_eq!((second.resources.len(), second.problems.len()), (1, 2), "the same object twice");
        // Moved to another place and another file, the problems name where it stands now.
        let third = check(&mut reader, &[source("b.yaml", service("a", 81)), source("c.yaml", &*a.text)]);
        assert_eq!(third.problems.len(), 2);
        let fourth = check(&mut reader, &[]);
        assert!(
            fourth.resources.is_empty() && reader.known.is_empty(),
            "nothing is remembered of what is gone"
        );
    }

    #[test]
    fn only_what_has_changed_is_parsed() {
        let mut reader = Reader::default();
        let sources = [source("a.yaml", service("a", 80)), source("b.yaml", service("b", 80))];
        let document = |parsed: &Parsed, key: &str| parsed.resources.get(key).unwrap().clone();
        let (a, b) = ("/Service/shop/a", "/Service/shop/b");
        let before = reader.read(&sources);
        let after = reader.read(&[sources[0].clone(), source("b.yaml", service("b", 81))]);
        assert!(Arc::ptr_eq(&document(&before, a), &document(&after, a)));
        assert!(!Arc::ptr_eq(&document(&before, b), &document(&after, b)));
        let found: Vec<_> = reader.documents().map(|(file, document)| (&**file, &**document.key())).collect();
        assert_eq!(found, [("a.yaml", a), ("b.yaml", b)]);
    }
}
