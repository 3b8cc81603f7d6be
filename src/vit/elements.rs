//! How many numbers a network has, before it is made: from its sizes alone.

use super::config::{EncoderConfig, MLP_RATIO, PredictorConfig};

impl EncoderConfig {
    /// Numbers in its parameters, the table of positions included.
    pub fn elements(&self) -> u64 {
        let [d, side, patches] = [self.dim, self.patch_size, self.patches()].map(|n| n as u64);
        let class_token = u64::from(self.class_token);
        (3 * side * side + 1 + patches + 2 * class_token) * d + blocks(self.depth, d, self.mlp_dim() as u64)
    }
}

impl PredictorConfig {
    /// Numbers in its parameters, the table of `positions` positions included, from features of width `inputs` to
    /// `outputs` numbers.
    pub fn elements(&self, [inputs, outputs, positions]: [usize; 3]) -> u64 {
        let [d, inputs, outputs, positions] = [self.dim, inputs, outputs, positions].map(|n| n as u64);
        (inputs + 2 + positions) * d + blocks(self.depth, d, MLP_RATIO as u64 * d) + (d + 1) * outputs
    }
}

/// Numbers in so many blocks of width d, with MLPs of width h, and in the norm behind them.
fn blocks(depth: usize, d: u64, h: u64) -> u64 {
    // Attention has 4 D² + 4 D, the MLP 2 D H + H + D, the norms 4 D; behind the blocks stands one more norm.
    depth as u64 * (4 * d * d + 2 * d * h + h + 9 * d) + 2 * d
}
