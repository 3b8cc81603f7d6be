//! The sizes of the paper's ViTs, and the numbers in their parameters, which a test of `train::checkpoint` holds against
//! models that are made.

use stop_mim::vit::{EncoderConfig, Preset};

/// The parameters are those of timm's vit_{tiny,small,base,large}_patch16_224 and vit_huge_patch14_224 less their heads; a
/// class token and its position are two numbers for each of D. Of ViT-g/16 it has none with this MLP.
#[test]
fn presets_are_the_published_networks() {
    // Preset, width, heads, depth, patch side, MLP width, depth of the predictor, parameters.
    let cases = [
        (Preset::VitT16, [192, 3, 12, 16, 768, 6], Some(5_717_416 - 193_000)),
        (Preset::VitS16, [384, 6, 12, 16, 1536, 6], Some(22_050_664 - 385_000)),
        (Preset::VitB16, [768, 12, 12, 16, 3072, 6], Some(86_567_656 - 769_000)),
        (Preset::VitL16, [1024, 16, 24, 16, 4096, 12], Some(304_326_632 - 1_025_000)),
        (Preset::VitH14, [1280, 16, 32, 14, 5120, 12], Some(632_045_800 - 1_281_000)),
        (Preset::VitG16, [1408, 16, 40, 16, 6144, 16], None),
    ];
    for (preset, sizes, parameters) in cases {
        let (e, p) = preset.sizes();
        assert_eq!([e.dim, e.heads, e.depth, e.patch_size, e.mlp_dim(), p.depth], sizes, "{preset}");
        assert_eq!((e.image_size, e.class_token, p.dim), (224, false, 384), "{preset}");
        let with_class_token = EncoderConfig { class_token: true, ..e.clone() };
        assert_eq!(with_class_token.elements() - e.elements(), 2 * e.dim as u64, "{preset}");
        assert!(parameters.is_none_or(|n| n == with_class_token.elements()), "{preset}");
    }
}

/// By hand: a predictor of width 384 on 768 features, 196 positions and six blocks.
#[test]
fn a_predictor_of_vit_b_has_22_million_parameters() {
    let (embed, token, positions, norm, out) = (768 * 384 + 384, 384, 196 * 384, 2 * 384, 384 * 768 + 768);
    let block = (384 * 1152 + 1152) + (384 * 384 + 384) + (384 * 1536 + 1536) + (1536 * 384 + 384) + 4 * 384;
    let elements = Preset::VitB16.sizes().1.elements([768, 768, 196]);
    assert_eq!(elements, embed + token + positions + 6 * block + norm + out);
}
