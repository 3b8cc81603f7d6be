// A method of your own: from the visible patches of an image, predict the mean color of each hidden one.
use std::{ops::ControlFlow, sync::Arc};

use stop_mim::autograd::{Var, ops};
use stop_mim::methods::{Chunk, MaskedPrediction, Method, MethodConfig, ModelWeights, Networks, Recording};
use stop_mim::nn::{Role, Weights};
use stop_mim::paper::{Loss, context_token, masked_token};
use stop_mim::train::{RunConfig, Trainer, resume};
use stop_mim::vit::{Encoder, Names, Predictor, Preset};
use stop_mim::{DType, Result, data, eval, rng};

#[derive(Debug)]
struct MeanColors(Encoder, Predictor);

#[rustfmt::skip]
impl Method for MeanColors {
    fn name(&self) -> &str { "mean-colors" }
    fn encoder(&self) -> &Encoder { &self.0 }
    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording { self.record_prediction(w, chunk) }
}

#[rustfmt::skip]
impl MaskedPrediction for MeanColors {
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
    // I-JEPA's networks, images, masks and schedules, but three numbers for each hidden patch, and few steps.
    let recipe = RunConfig::for_method(MethodConfig::ijepa(1), Preset::Toy);
    let (config, splits) = (RunConfig { batch: 16, ..recipe }.with_steps(50), data::open("shapes", 32)?);
    let mut rng = rng::stream(0, rng::Purpose::Init, [0, 0]);
    let networks = Networks::new(&config.model, 3, Names::Predictor, Role::Trained, DType::F32, &mut rng);
    let method = MeanColors(networks.encoder.clone(), networks.predictor.clone());
    let trainer = Trainer::new(Arc::new(method), networks.params());
    let trained = resume(trainer, &config, &splits, 0, &mut |report, _| {
        println!("step {:2}  loss {:.3}", report.step, report.loss);
        Ok(ControlFlow::Continue(()))
    });
    let trainer = trained.map_err(|failed| failed.error)?;
    let trained = (trainer.method.encoder(), trainer.params.evaluated());
    let probe = eval::probe_encoder(trained, &splits, 500, &eval::ProbeConfig::default())?;
    println!("a linear probe gets {:.1} % of 500 test images right", 100.0 * probe.test_top1);
    Ok(())
}
