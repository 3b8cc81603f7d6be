//! Table 7: the same noise on other tokens.

named! {
    /// Which tokens stand at stochastic positions, ψ̂ = A n + ψ (Eq. 5). The others stand at ψ; I-JEPA's do all.
    ///
    /// Every token has noise of its own. That of the context does not depend on the target blocks: the predictor sees one
    /// and the same context for each block of an image. That of the masked tokens is the same draw whether or not the
    /// context has noise too.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum NoiseOn: "choice of tokens with noise" {
        /// The masked tokens: StoP.
        Masked => "masked",
        /// The context tokens: c = A s_x + ψ̂, m_j = ψ_j + m.
        Context => "context",
        /// The masked and the context tokens.
        Both => "both",
    }
}

impl NoiseOn {
    /// Whether masked tokens have noise.
    pub fn masked(self) -> bool {
        self != NoiseOn::Context
    }

    /// Whether context tokens have noise.
    pub fn context(self) -> bool {
        self != NoiseOn::Masked
    }
}
