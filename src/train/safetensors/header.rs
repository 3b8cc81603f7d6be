//! The header: JSON that says of each tensor what it is and where.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::checksum;
use super::mismatch::shown;
use crate::Result;

/// The most tensors, and the most metadata. Each takes many times the memory of its text, if that is short.
const MOST_ENTRIES: usize = 100_000;
/// The most dimensions, for the same reason.
const MOST_DIMENSIONS: usize = 64;

/// A header, read as it comes: a map of any JSON would keep only the last of two names that are alike. As entries and
/// dimensions are counted, it takes at most five times the memory of its text (measured), and 50 MB.
pub(super) struct Header(pub Metadata);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut names, mut metadata, mut tensors) = (HashSet::new(), None, Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    may_follow(names.len(), &name, names.insert(name.clone()))?;
                    if name == "__metadata__" {
                        metadata = map.next_value::<Option<Texts>>()?.map(|Texts(metadata)| metadata);
                        continue;
                    }
                    let info: TensorInfo = map.next_value()?;
                    if info.shape.len() > MOST_DIMENSIONS {
                        let problem = format!("{} has more than {MOST_DIMENSIONS} dimensions", shown(&name));
                        return Err(A::Error::custom(problem));
                    }
                    tensors.push((name, info));
                }
                tensors.sort_by_key(|(_, info)| info.data_offsets);
                Metadata::new(metadata, tensors).map(Header).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Texts by key.
struct Texts(HashMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = HashMap::new();
                while let Some((key, text)) = map.next_entry::<String, String>()? {
                    may_follow(texts.len(), &key, !texts.contains_key(&key))?;
                    texts.insert(key, text);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Whether an entry of this name may follow `before` others.
fn may_follow<E: serde::de::Error>(before: usize, name: &str, is_new: bool) -> Result<(), E> {
    if !is_new {
        return Err(E::custom(format!("{} stands there twice", shown(name))));
    }
    if before >= MOST_ENTRIES { Err(E::custom(format!("more than {MOST_ENTRIES} entries"))) } else { Ok(()) }
}

/// The checksums of tensors in a file's metadata; `None` in a file without.
pub(super) fn checksums(metadata: &HashMap<String, String>) -> Result<Option<HashMap<String, String>>, String> {
    let (expected, sums) = match (metadata.get("checksum"), metadata.get("crc32")) {
        (None, None) => return Ok(None),
        (Some(expected), Some(sums)) => (expected, sums),
        // One wrong bit in a key must not mean that nothing is looked at.
        (Some(_), None) => return Err("its metadata are damaged: 'checksum' is there without 'crc32'".into()),
        (None, Some(_)) => return Err("its metadata are damaged: 'crc32' is there without 'checksum'".into()),
    };
    let rest: BTreeMap<_, _> = metadata.iter().filter(|(key, _)| *key != "checksum").collect();
    if checksum(rest.into_iter()) != *expected {
        return Err("its metadata are damaged: they do not have their checksum".into());
    }
    let sums = serde_json::from_str(sums).map(|Texts(sums)| Some(sums));
    sums.map_err(|e| format!("its checksums cannot be read ({})", shown(&e.to_string())))
}
