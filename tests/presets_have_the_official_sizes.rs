//! The paper's ViTs, constructed and counted.

use stop_mim::DType;
use stop_mim::methods::{Method, Model, ModelConfig};
use stop_mim::nn::LinearInit;
use stop_mim::rng::{Purpose, stream};
use stop_mim::vit::{EncoderConfig, PredictorConfig, Preset};

/// Numbers in a block of width d with an MLP of width h: qkv, proj, fc1, fc2 with biases, two norms.
fn block(d: usize, h: usize) -> usize {
    (3 * d * d + 3 * d) + (d * d + d) + (h * d + h) + (d * h + d) + 4 * d
}

/// An encoder with MLPs of width h and its table of n positions.
fn encoder((d, h): (usize, usize), depth: usize, patch: usize, n: usize) -> usize {
    (3 * patch * patch * d + d) + n * d + depth * block(d, h) + 2 * d
}

/// A predictor of width 384 with its table of n positions: embed, mask token, blocks, norm, projection back.
fn predictor(d: usize, depth: usize, n: usize) -> usize {
    let p = 384;
    (d * p + p) + p + n * p + depth * block(p, 4 * p) + 2 * p + (p * d + d)
}

/// Numbers in the encoder and predictor of a preset, constructed.
fn count((encoder, predictor): (EncoderConfig, PredictorConfig)) -> (usize, usize) {
    let method = MethodConfig::Ijepa { target_blocks: 1 };
    let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal };
    let mut rng = stream(0, Purpose::Init, [0, 0]);
    let (_, params) = Model::new(&config, DType::F32, &mut rng).unwrap();
    (params["encoder"].elements(), params["predictor"].elements())
}

#[test]
fn parameter_counts() {
    // Preset, width, heads, depth, patch side, patches in an image, depth of the predictor.
    let cases = [
        (Preset::VitT16, 192, 3, 12, 16, 196, 6),
        (Preset::VitS16, 384, 6, 12, 16, 196, 6),
        (Preset::VitB16, 768, 12, 12, 16, 196, 6),
        (Preset::VitL16, 1024, 16, 24, 16, 196, 12),
        (Preset::VitH14, 1280, 16, 32, 14, 256, 12),
        (Preset::VitG16, 1408, 16, 40, 16, 196, 16),
    ];
    for (preset, d, heads, depth, patch, n, predictor_depth) in cases {
        let (mut sizes_e, mut sizes_p) = preset.sizes();
        let h = if preset == Preset::VitG16 { 6144 } else { 4 * d };
        assert_eq!((sizes_e.mlp_dim(), sizes_e.heads), (h, heads), "{preset:?}");
        assert_eq!((sizes_e.depth, sizes_p.depth), (depth, predictor_depth), "{preset:?}");
        // The largest three have hundreds of millions of numbers, all of them in blocks that are alike: count one.
        let (mut depth, mut predictor_depth) = (depth, predictor_depth);
        if d > 768 {
            (depth, predictor_depth) = (1, 1);
            (sizes_e.depth, sizes_p.depth) = (1, 1);
        }
        let exact = (encoder((d, h), depth, patch, n), predictor(d, predictor_depth, n));
        assert_eq!(count((sizes_e, sizes_p)), exact, "{preset:?}");
    }
    // timm's vit_{base,large}_patch16_224 and vit_huge_patch14_224 less head, class token and its position.
    assert_eq!(encoder((768, 4 * 768), 12, 16, 196), 86_567_656 - 769_000 - 2 * 768);
    assert_eq!(encoder((1024, 4 * 1024), 24, 16, 196), 304_326_632 - 1_025_000 - 2 * 1024);
    assert_eq!(encoder((1280, 4 * 1280), 32, 14, 256), 632_045_800 - 1_281_000 - 2 * 1280);
}
