//! `stop-mim masks`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::options::{MaskArgs, ModelArgs, OpenArgs};
use crate::data::{self, Dataset, Subset};
use crate::report::canvas::Canvas;
use crate::report::masks::{MaskedImage, mask_sheet};
use crate::rng::{Purpose, stream};
use crate::train::Masking;
use crate::vit::EncoderConfig;
use crate::{Result, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Images, as for pretrain.
    #[arg(long, default_value = "shapes", value_name = "DATA")]
    data: String,
    /// How many images.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    images: u8,
    /// The picture to write.
    #[arg(long, default_value = "masks.png", value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    /// Decides the masks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args) -> Result<()> {
    files::check_is_png(&args.out)?;
    files::check_writable(&args.out)?;
    let model = args.model.config()?;
    let masking = args.masks.masking(&model)?;
    let splits = data::open_with(&args.data, model.encoder.image_size, args.open.options())?;
    draw_masks(&masking, &model.encoder, args.seed, splits.train, usize::from(args.images))?.save_png(&args.out)?;
    println!("{}", args.out.display());
    Ok(())
}

/// An even choice of `n` images, each with masks as a run's first step would draw them. No other image is looked at.
pub fn draw_masks(
    masking: &Masking,
    encoder: &EncoderConfig,
    seed: u64,
    images: Arc<dyn Dataset>,
    n: usize,
) -> Result<Canvas> {
    let images = Subset::even(images, n);
    let n = images.len();
    let mut rng = stream(seed, Purpose::Mask, [1, 0]);
    let (contexts, targets) = masking.sample(n, encoder.patches(), &mut rng)?;
    // MAE predicts all that is not visible: drawing it as a block would show the same twice.
    let blocks = if let Masking::Blocks(_) = masking { &targets[..] } else { &[] };
    let mut pixels = vec![vec![0; 3 * encoder.image_size.pow(2)]; n];
    for (i, pixels) in pixels.iter_mut().enumerate() {
        images.unlabeled_pixels(i, pixels)?;
    }
    let rows: Vec<Vec<&[u32]>> = (0..n).map(|i| blocks.iter().map(|t| t.row(i)).collect()).collect();
    let masked: Vec<MaskedImage<'_>> =
        (0..n).map(|i| MaskedImage { pixels: &pixels[i], context: contexts[0].row(i), targets: &rows[i] }).collect();
    let scale = (96 / encoder.image_size).max(1);
    Ok(mask_sheet(&masked, encoder.image_size, encoder.patch_size, scale))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::paper::masking::MultiBlock;
    use crate::vit::Preset;

    /// A thousand images, five hundred of a class; counts how many are looked at of each.
    struct Counted([AtomicUsize; 2], Vec<String>);

    impl Dataset for Counted {
        fn len(&self) -> usize {
            1000
        }
        fn image_size(&self) -> usize {
            32
        }
        fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
            self.0[index / 500].fetch_add(1, Ordering::Relaxed);
            out.fill(index as u8);
            Ok(())
        }
        fn label(&self, index: usize) -> Option<usize> {
            Some(index / 500)
        }
        fn class_names(&self) -> &[String] {
            &self.1
        }
        fn describe(&self) -> String {
            "counted".to_owned()
        }
    }

    #[test]
    fn only_the_images_that_are_shown_are_looked_at_and_they_are_of_all_classes() {
        let encoder = Preset::Toy.sizes().0;
        let masking = Masking::Blocks(MultiBlock::for_small_grid((encoder.grid(), encoder.grid())));
        for (n, expected) in [(6, [3, 3]), (0, [0, 0]), (40, [20, 20])] {
            let images = Arc::new(Counted(Default::default(), vec!["a".into(), "b".into()]));
            draw_masks(&masking, &encoder, 0, images.clone(), n).unwrap();
            assert_eq!(images.0.each_ref().map(|count| count.load(Ordering::Relaxed)), expected);
        }
    }
}
