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
const COMPANIONS: &str = "decoder predictor optimizer head heads fc_norm pooler classifier projector mask_token masked_embed \
    embeddings.mask_token";
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

    /// The prefix as it is shown: `teacher.backbone.*`.
    pub fn shown(&self) -> String {
        if self.prefix.is_empty() { "plain names".to_owned() } else { format!("{}*", super::shown(&self.prefix)) }
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
    let together = APART.iter().find_map(|part| bare.strip_suffix(part)?.strip_suffix('.')).unwrap_or(bare);
    // The transformers library's names first: none of the official ones ends as they do.
    let layouts = [(Layout::Transformers, together, "encoder.layer"), (Layout::Official, bare, "blocks")];
    let found = layouts.into_iter().find_map(|(layout, name, blocks)| {
        let theirs = |(official, theirs)| if layout == Layout::Official { official } else { theirs };
        let outside = OUTSIDE.into_iter().map(theirs).map(|ending| name.strip_suffix(ending));
        let inside = INSIDE.into_iter().map(theirs).map(|layer| {
            let before = name.strip_suffix(layer)?.strip_suffix('.')?;
            before.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.')?.strip_suffix(blocks)
        });
        let all = outside.map(|prefix| (prefix, true)).chain(inside.map(|prefix| (prefix, false)));
        let mut all = all.filter_map(|(prefix, outside)| Some((prefix?, layout, outside)));
        all.find(|(prefix, ..)| prefix.is_empty() || prefix.ends_with('.'))
    });
    found.filter(|(prefix, ..)| prefix.split('.').all(|part| companion_of(part).is_none()))
}

fn companion_of(part: &str) -> Option<&'static str> {
    let is = |known: &&str| part.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    COMPANIONS.split(' ').find(is)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn sources_of(names: &[&str]) -> Vec<(String, Layout)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        sources(&names).into_iter().map(|source| (source.prefix, source.layout)).collect()
    }

    #[test]
    fn encoders_are_told_by_their_names_in_the_order_above() {
        let official = |prefix: &str| (prefix.to_owned(), Layout::Official);
        let order = "target_encoder. teacher.backbone. module.ema. encoder. model.  student.backbone.";
        let mut parts: Vec<&str> = order.split(' ').collect();
        parts.sort_unstable();
        let names: Vec<String> = parts.iter().map(|prefix| format!("{prefix}patch_embed.proj.weight")).collect();
        assert!(sources(&names).iter().map(|source| &*source.prefix).eq(order.split(' ')));

        // What is no encoder, or only has names like one.
        let others = "predictor_blocks.0.norm1.weight decoder.blocks.0.norm1.weight optimizer.m.encoder.pos_embed \
            predictor_pos_embed xblocks.0.norm1.weight blocks.x.norm1.weight blocks.0.norm1.weight.more norm.weight . ";
        assert_eq!(sources_of(&others.split(' ').collect::<Vec<_>>()), []);
        // Of two with blocks, that with patches comes first.
        let found = sources_of(&["audio.blocks.0.norm1.weight", "visual.blocks.0.norm1.weight", "visual.pos_embed"]);
        assert_eq!(found, [official("visual."), official("audio.")]);
        let theirs = ["vit.encoder.layer.11.attention.attention.key.bias", "vit.embeddings.cls_token"];
        assert_eq!(sources_of(&theirs), [("vit.".to_owned(), Layout::Transformers)]);
        assert_eq!(sources_of(&["encoder.layer.0.layernorm_before.weight"]), [(String::new(), Layout::Transformers)]);
        let many: Vec<String> = (0..1000).map(|k| format!("e{k}.pos_embed")).collect();
        assert_eq!(sources(&many).len(), MOST_SOURCES);
    }

    /// Those of encoders are in tests/weights_from_elsewhere.rs.
    #[test]
    fn names_of_a_decoder_of_the_transformers_library() {
        let source = Source { prefix: "vit.".to_owned(), layout: Layout::Transformers };
        for (name, theirs) in [
            ("mask_token", "decoder.mask_token"),
            ("decoder_pred.weight", "decoder.decoder_pred.weight"),
            ("decoder_blocks.1.mlp.fc1.bias", "decoder.decoder_layers.1.intermediate.dense.bias"),
        ] {
            assert_eq!(source.names(name), [theirs]);
        }
    }

    #[test]
    fn companions_and_what_is_none() {
        let cases = [
            ("decoder_blocks.0.norm1.weight", Some("decoder_*")),
            ("decoder.decoder_pred.bias", Some("decoder.*")),
            ("mask_token", Some("mask_token")),
            ("embeddings.mask_token", Some("embeddings.mask_token")),
            ("head.weight", Some("head.*")),
            ("heads.0.weight", Some("heads.*")),
            ("pooler.dense.weight", Some("pooler.*")),
            ("fc_norm.weight", Some("fc_norm.*")),
            ("header.weight", None),
            ("blocks.0.ls1.gamma", None),
            ("register_tokens", None),
            ("norm_pre.weight", None),
        ];
        cases.into_iter().for_each(|(name, what)| assert_eq!(companion(name).as_deref(), what, "{name}"));
    }
}
