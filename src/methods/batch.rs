//! What a method is shown: views of some images, with or without masks.

use crate::tensor::{Indices, Tensor};

/// One view of some images: crops of them, with the tokens that are visible and those to predict.
#[derive(Clone, Debug)]
pub struct View {
    /// \[b, C, S, S\]
    pub images: Tensor,
    /// B_x: E b rows, context mask by context mask; `None`: every token is visible.
    pub context: Option<Indices>,
    /// B_y: P E b rows, target block by target block, inside each as `context`; `None`: nothing is predicted.
    pub targets: Option<Indices>,
}

/// A few images: what one thread works on.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The views that the method [wants](super::Method::views), in that order.
    pub views: Vec<View>,
    /// The class of each image, where the method wants it.
    pub labels: Option<Indices>,
    /// n, \[P E b, N_t, d_e\]: noise for the targets of the first view that has any, where the method [wants](super::Method::sigma) it.
    /// The last dimension is as the method [says](super::Method::noise_width).
    pub noise: Option<Tensor>,
    /// n, \[E b, N_c, d_e\]: noise for the context of that view, where the method wants it [there](super::Method::noise_on).
    pub context_noise: Option<Tensor>,
}

impl Chunk {
    /// One view with masks: what the methods of the paper are shown.
    pub fn masked(images: Tensor, context: Indices, targets: Indices, noise: Option<Tensor>) -> Self {
        let view = View { images, context: Some(context), targets: Some(targets) };
        Chunk { views: vec![view], labels: None, noise, context_noise: None }
    }

    /// The images of the first view, \[b, C, S, S\].
    pub fn images(&self) -> &Tensor {
        &self.views[0].images
    }

    /// The visible tokens of the first view, B_x.
    ///
    /// # Panics
    /// When it has no mask.
    #[track_caller]
    pub fn context(&self) -> &Indices {
        self.views[0].context.as_ref().expect("the first view has no context mask")
    }

    /// The tokens to predict of the first view, B_y.
    ///
    /// # Panics
    /// When it has no mask.
    #[track_caller]
    pub fn targets(&self) -> &Indices {
        self.views[0].targets.as_ref().expect("the first view has no targets")
    }

    /// The same chunk with other tokens to predict in its first view.
    #[must_use]
    pub fn with_targets(mut self, targets: Indices) -> Self {
        self.views[0].targets = Some(targets);
        self
    }
}
