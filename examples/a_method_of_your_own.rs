// A method of your own: from the visible patches of an image, predict the mean color of each hidden one.
//
// `cargo run --release --example a_method_of_your_own`
use std::{ops::ControlFlow, sync::Arc};

use stop_mim::autograd::{Var, ops};
use stop_mim::data::{self, Dataset, Subset};
use stop_mim::eval::{ProbeConfig, labels, linear_probe, pooled_features};
use stop_mim::methods::{Chunk, MaskedPrediction, MethodConfig, ModelParams, ModelWeights, Update};
use stop_mim::nn::{LinearInit, Role, Weights, fresh};
use stop_mim::paper::{Loss, context_token, masked_token};
use stop_mim::train::{RunConfig, Trainer, resume};
use stop_mim::vit::{Encoder, Names, Predictor, Preset};
use stop_mim::{DType, Result, Tensor, rng};

#[derive(Debug)]
struct MeanColors(Encoder, Predictor);

#[rustfmt::skip]
impl MaskedPrediction for MeanColors {
    fn name(&self) -> &str { "mean-colors" }
    fn encoder(&self) -> &Encoder { &self.0 }
    fn predictor(&self) -> &Predictor { &self.1 }
    fn loss(&self) -> Loss { Loss::SquaredError }

    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) { // Eqs. (1) and (2)
        let (g, at) = (&self.1, |places| ops::gather_tokens(&phi[self.1.position], places));
        let c = context_token(&at(chunk.context()), &phi[g.embed.weight], s_x, Some(&phi[g.embed.bias]));
        (c, masked_token(&at(chunk.targets()), &phi[g.mask_token]))
    }

    fn targets(&self, _: &ModelWeights, chunk: &Chunk) -> Var {
        let images = chunk.images().clone().into();
        let patches = ops::patchify(&images, self.0.config().patch_size, ops::PatchOrder::ChannelFirst);
        let hidden = ops::gather_tokens(&patches, chunk.targets()); // [R, N_t, 3 p²]
        let [rows, tokens, pixels] = hidden.dims("targets");
        hidden.reshape([rows, tokens, 3, pixels / 3]).mean_axis(3) // [R, N_t, 3]
    }
}

fn main() -> Result<()> {
    let (sizes, decoder) = Preset::Toy.sizes();
    let mut rng = rng::stream(0, rng::Purpose::Init, [0, 0]);
    let (encoder, theta) = fresh(LinearInit::Normal, DType::F32, &mut rng, |init| Encoder::new(&sizes, init));
    let (predictor, phi) = fresh(LinearInit::Normal, DType::F32, &mut rng, |init| {
        Predictor::new(&decoder, (sizes.dim, 3), sizes.grid(), Names::Predictor, Role::Trained, init)
    });
    let params = ModelParams::new().with("encoder", Update::Trained, theta).with("predictor", Update::Trained, phi);
    let trainer = Trainer::new(Arc::new(MeanColors(encoder, predictor)), params);

    // I-JEPA's images, masks and schedules, and few steps.
    let recipe = RunConfig::for_method(MethodConfig::Ijepa { target_blocks: 1 }, Preset::Toy);
    let (config, splits) = (RunConfig { batch: 16, ..recipe }.with_steps(50), data::open("shapes", 32)?);
    let trained = resume(trainer, &config, &splits, 0, &mut |report, _| {
        println!("step {:2}  loss {:.3}", report.step, report.loss);
        Ok(ControlFlow::Continue(()))
    });
    let (trainer, normalization) = (trained.map_err(|failed| failed.error)?, splits.normalization()?);

    let features = |images: &Arc<dyn Dataset>| -> Result<(Tensor, Vec<u32>)> {
        let (some, encoder) = (Subset::even(images.clone(), 500), trainer.method.encoder());
        let x = pooled_features(encoder, trainer.params.evaluated(), (&some, &normalization), 1, &|_| Ok(()))?;
        Ok((x[0].clone(), labels(&some).expect("shapes have classes")))
    };
    let ((train, of_train), (test, of_test)) = (features(&splits.train)?, features(&splits.test)?);
    let config = ProbeConfig::default();
    let probe = linear_probe((&train, &of_train), (&test, &of_test), 10, &config, &|| Ok(()))?;
    println!("a linear probe gets {:.1} % of 500 test images right", 100.0 * probe.test_top1);
    Ok(())
}
