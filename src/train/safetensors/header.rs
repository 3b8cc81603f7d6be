//! The header: JSON that says of each tensor what it is and where.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::checksum;
use crate::Result;

/// A header, read as it comes, so that it takes little more memory than its text: a map of any JSON would take sixteen
/// times as much, and keep only the last of two names that are alike.
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
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format!("{name} stands there twice")));
                    }
                    match name.as_str() {
                        "__metadata__" => metadata = map.next_value()?,
                        _ => tensors.push((name, map.next_value::<TensorInfo>()?)),
                    }
                }
                tensors.sort_by_key(|(_, info)| info.data_offsets);
                Metadata::new(metadata, tensors).map(Header).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_map(Collect)
    }
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
    serde_json::from_str(sums).map(Some).map_err(|e| format!("its checksums cannot be read ({e})"))
}
