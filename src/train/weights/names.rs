//! Under which names encoders are published: the official ones and those of the transformers library, each behind any
//! prefix.
//!
//! A prefix is whatever stands before the name of an encoder's parameter: `target_encoder.`, `module.`, `teacher.backbone.`,
//! `model._orig_mod.`, or nothing. Where several encoders lie in a file, the first in this order is the one meant:
//!
//! 1. `target_encoder`, the one that I-JEPA and StoP evaluate (appendix C.1)
//! 2. `teacher`, which DINO and iBOT evaluate; then `model_ema` or `ema`
//! 3. `encoder`, then `model`, then any other and none at all
//! 4. `student`

use std::collections::BTreeMap;

/// How the parameters of one encoder are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// `blocks.0.attn.qkv.weight`: the official code, timm, DINO, iBOT, and this crate.
    Official,
    /// `encoder.layer.0.attention.attention.query.weight`: IJepaModel, ViTModel and ViTMAE of the transformers library,
    /// where queries, keys and values have a matrix each.
    Transformers,
}

/// Where an encoder lies in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// What stands before its names: empty, or with a point at the end.
    pub prefix: String,
    pub layout: Layout,
}

/// The parameters outside of blocks, in either layout. A norm does not tell an encoder: it is everywhere.
const OUTSIDE: [(&str, &str); 3] = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
];
/// The layers of a block.
const INSIDE: [(&str, &str); 6] = [
    ("norm1", "layernorm_before"),
    ("attn.qkv", "attention.attention"),
    ("attn.proj", "attention.output.dense"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
];
/// What becomes of `attn.qkv`: its rows are those of these, one after the other.
const APART: [&str; 3] = ["query", "key", "value"];

/// What lies beside an encoder, or among its names, and changes nothing about its features: the first parts of names, of
/// which an underscore may go on.
const COMPANIONS: [&str; 12] = [
    "decoder",
    "predictor",
    "optimizer",
    "head",
    "heads",
    "fc_norm",
    "pooler",
    "classifier",
    "projector",
    "mask_token",
    "masked_embed",
    "embeddings.mask_token",
];
/// More encoders than these are not told apart in one file.
const MOST_SOURCES: usize = 32;

impl Source {
    /// The names in the file of the parameter that is officially called `name`, of the encoder or of MAE's decoder.
    pub fn names(&self, name: &str) -> Vec<String> {
        if self.layout == Layout::Official {
            return vec![format!("{}{name}", self.prefix)];
        }
        // The decoder lies beside the encoder there, which has a prefix of its own: `vit.`.
        let above = self.prefix.strip_suffix("vit.").unwrap_or(&self.prefix);
        let layer = |prefix: &str, blocks: &str, rest: &str| {
            let (block, rest) = rest.split_once('.').unwrap_or((rest, ""));
            let (layer, kind) = rest.rsplit_once('.').unwrap_or((rest, ""));
            let theirs = INSIDE.into_iter().find(|(ours, _)| *ours == layer).map_or(layer, |(_, theirs)| theirs);
            let apart: &[&str] = if layer == "attn.qkv" { &APART } else { &[""] };
            let part = |part: &&str| {
                let dot = if part.is_empty() { "" } else { "." };
                format!("{prefix}{blocks}.{block}.{theirs}{dot}{part}.{kind}")
            };
            apart.iter().map(part).collect()
        };
        if let Some(rest) = name.strip_prefix("blocks.") {
            return layer(&self.prefix, "encoder.layer", rest);
        }
        if let Some(rest) = name.strip_prefix("decoder_blocks.") {
            return layer(above, "decoder.decoder_layers", rest);
        }
        if name.starts_with("decoder_") || name == "mask_token" {
            return vec![format!("{above}decoder.{name}")];
        }
        let outside = OUTSIDE.into_iter().chain([("norm", "layernorm")]);
        let theirs = outside.into_iter().find_map(|(ours, theirs)| Some((theirs, name.strip_prefix(ours)?)));
        let (theirs, kind) = theirs.unwrap_or((name, ""));
        vec![format!("{}{theirs}{kind}", self.prefix)]
    }

    /// The names of a predictor that lies after this prefix.
    pub fn predictor(prefix: &str) -> Self {
        Source { prefix: prefix.to_owned(), layout: Layout::Official }
    }

    /// The prefix as it is shown: `teacher.backbone.*`.
    pub fn shown(&self) -> String {
        match self.prefix.is_empty() {
            true => "plain names".to_owned(),
            false => format!("{}*", super::shown(&self.prefix)),
        }
    }

    /// Where a tensor stands in the order that the head of this file gives.
    fn rank(&self) -> usize {
        const ORDER: [&str; 6] = ["target_encoder", "teacher", "model_ema", "ema", "encoder", "model"];
        let of = |part: &str| match part {
            "student" => ORDER.len() + 1,
            _ => ORDER.iter().position(|word| *word == part).unwrap_or(ORDER.len()),
        };
        let ranks = || self.prefix.split('.').map(of);
        if ranks().any(|rank| rank > ORDER.len()) { ORDER.len() + 1 } else { ranks().min().unwrap_or(ORDER.len()) }
    }
}

/// The encoders in a file with these names, the one that is meant first.
pub(super) fn sources(names: &[String]) -> Vec<Source> {
    // Whether anything outside of blocks was seen: other networks have blocks too.
    let mut found: BTreeMap<(&str, Layout), bool> = BTreeMap::new();
    for name in names {
        if let Some((prefix, layout, outside)) = part_of(name) {
            *found.entry((prefix, layout)).or_default() |= outside;
        }
    }
    let source =
        |((prefix, layout), outside): ((&str, Layout), bool)| (Source { prefix: prefix.to_owned(), layout }, outside);
    let mut found: Vec<(Source, bool)> = found.into_iter().map(source).collect();
    found.sort_by_key(|(source, outside)| (source.rank(), !outside, source.prefix.len()));
    found.into_iter().map(|(source, _)| source).take(MOST_SOURCES).collect()
}

/// If this is a parameter of an encoder: its prefix and layout, and whether it stands outside of blocks.
fn part_of(name: &str) -> Option<(&str, Layout, bool)> {
    let bare = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name);
    let at_a_point = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
    let ending = |ending: &str| bare.strip_suffix(ending).filter(at_a_point);
    let numbered = |inner: &str, blocks: &str| {
        let before = bare.strip_suffix(inner)?.strip_suffix('.')?;
        let before = before.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.')?;
        before.strip_suffix(blocks).filter(at_a_point)
    };
    let part = OUTSIDE.iter().find_map(|(official, theirs)| {
        // The transformers library's names first: none of the official ones ends as they do.
        let found = |(prefix, layout)| (prefix, layout, true);
        let theirs = ending(theirs).map(|prefix| (prefix, Layout::Transformers));
        theirs.or(ending(official).map(|prefix| (prefix, Layout::Official))).map(found)
    });
    let part = part.or_else(|| {
        INSIDE.iter().find_map(|(official, theirs)| {
            let found = |(prefix, layout)| (prefix, layout, false);
            let whole = numbered(official, "blocks").map(|prefix| (prefix, Layout::Official));
            let apart = |part: &&str| numbered(&format!("{theirs}.{part}"), "encoder.layer");
            let theirs = numbered(theirs, "encoder.layer").or_else(|| APART.iter().find_map(apart));
            whole.or(theirs.map(|prefix| (prefix, Layout::Transformers))).map(found)
        })
    });
    part.filter(|(prefix, ..)| !prefix.split('.').any(is_companion))
}

fn is_companion(part: &str) -> bool {
    companion_of(part).is_some()
}

fn companion_of(part: &str) -> Option<&'static str> {
    let is = |known: &&str| part.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    COMPANIONS.into_iter().find(is)
}

/// What a name without its prefix belongs to, if to something that may be left aside: `decoder_*`, `mask_token`.
pub(super) fn companion(name: &str) -> Option<String> {
    let (part, rest) = match name.strip_prefix("embeddings.mask_token") {
        Some(rest) => ("embeddings.mask_token", rest),
        None => name.split_at(name.find('.').unwrap_or(name.len())),
    };
    let known = companion_of(part)?;
    Some(match (part.len() > known.len(), rest.is_empty()) {
        (true, _) => format!("{known}_*"),
        (false, false) => format!("{known}.*"),
        (false, true) => known.to_owned(),
    })
}
