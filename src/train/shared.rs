//! Line 17 among several processes: sums of gradients, AdamW and the moving average, to the bits of one process.
//!
//! 1. Each process sums the gradients of its images along the branches of the tree that it has whole ([`Lanes::pieces`]),
//!    each parameter as soon as the reverse sweep of a lane's last chunk is done with it.
//! 2. The trained parameters, one after the other, are cut into buckets, and each bucket into as many parts as there are
//!    processes: a process owns one part of each. It gets the pieces of the others for its parts, and adds them up along
//!    the tree. That takes the bytes of recursive halving (each process sends its gradients once, but for its own parts),
//!    and one message for each pair where halving has one for each level; in exchange it works for any number of
//!    processes, and a bucket need not wait for another: those of the last blocks go first, while the first blocks are
//!    still computed.
//! 3. A process has the moments of its parts alone, and updates their weights: stage 1 of ZeRO (Rajbhandari et al., SC
//!    2020).
//! 4. The new weights go to all. The moving averages, which every process needs whole, each computes by itself: that is
//!    a pass over memory, where sending them would double what goes over the network.

mod parts;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use self::parts::{Climbing, Parts};
use super::algorithm_1::{LossAndGradients, StepOutcome, StepParams, Trainer};
use super::batch::Batch;
use super::lanes::Lanes;
use super::non_finite::first_non_finite;
use super::pretrain::no_panic;
use crate::kernels::Teams;
use crate::kernels::meter::{self, Phase};
use crate::methods::{ModelParams, Update};
use crate::nn::{AdamW, Params, Role, count_non_finite, update_ema};
use crate::processes::World;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// The elements of tensors in f32.
fn elements<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<&'a [f32]> {
    tensors.into_iter().map(Tensor::as_slice).collect()
}

/// The elements of the trained parameters, to change.
fn weights(params: &mut ModelParams) -> Vec<&mut [f32]> {
    let trained = params.modules_mut().iter_mut().filter(|m| m.update == Update::Trained);
    let trained = trained.flat_map(|m| m.params.iter_mut()).filter(|p| p.role == Role::Trained);
    trained.map(|p| p.value.as_mut_slice()).collect()
}

fn to_bytes<'a>(numbers: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("four"))).collect()
}

/// left + right: on the thread that exchanges, as the others are at work.
fn add(mut left: Vec<f32>, right: Vec<f32>) -> Vec<f32> {
    left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    left
}

/// How the work of a step is shared.
struct Shared {
    lanes: Lanes,
    /// The pieces of each process.
    pieces: Vec<Vec<Range<usize>>>,
}

impl Shared {
    /// The sum along the tree of what each process has for each of its pieces.
    fn sum(&self, found: Vec<Vec<Vec<f32>>>) -> Vec<f32> {
        let pieces = self.pieces.iter().flatten().zip(found.into_iter().flatten());
        let mut pieces: Vec<_> = pieces.map(|(piece, found)| (piece, Some(found))).collect();
        let mut next = 0; // the tree is walked from left to right, as pieces stand
        let mut take = |branch: &Range<usize>| {
            let (piece, found) = pieces.get_mut(next)?;
            (*piece == branch).then(|| {
                next += 1;
                found.take().expect("each once")
            })
        };
        self.lanes.sum(&mut take, &add)
    }
}

/// In the place of the first parameter whose gradient is not finite: there is none.
const NOTHING: u64 = u64::MAX;

impl Trainer {
    /// The images of a batch of so many that this process trains on.
    ///
    /// # Errors
    /// When there are more processes than the batch has work for.
    pub(super) fn own_images(&self, batch: usize) -> Result<Range<usize>> {
        let lanes = self.lanes(batch);
        let of = lanes.of_processes(self.world.size())?;
        Ok(lanes.images(&of[self.world.rank()]))
    }

    /// Whether so many processes can train this on batches of so many images.
    ///
    /// # Errors
    /// When there are more processes than the batch has work for; when it is not in f32 on a CPU.
    pub fn can_be_shared(&self, processes: usize, batch: usize) -> Result<()> {
        self.is_f32_on_cpu()?;
        self.lanes(batch).of_processes(processes).map(|_| ())
    }

    fn is_f32_on_cpu(&self) -> Result<()> {
        let is = |p: &crate::nn::Param| p.value.dtype() == DType::F32 && !p.value.device().is_gpu();
        if self.params.modules().iter().flat_map(|m| m.params.iter()).all(is) {
            return Ok(());
        }
        let hint = "train on CPUs, or on one GPU in one process";
        Err(Error::config("several processes train on CPUs alone, in f32", hint))
    }

    /// This trainer as one of several processes, from here on: what the first one's is, all are, and each keeps the
    /// moments of its share.
    ///
    /// # Errors
    /// When it is not in f32 on a CPU; when another process has an error.
    pub fn among(mut self, world: &Arc<World>) -> Result<Self> {
        if world.size() == 1 {
            return Ok(self);
        }
        let AdamW { betas: (beta_1, beta_2), eps, .. } = self.optimizer;
        let numbers = [self.optimizer.steps(), beta_1.to_bits(), beta_2.to_bits(), eps.to_bits()];
        let first =
            world.share(self.is_f32_on_cpu().map(|()| numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))?;
        let first = &first[0];
        let number = |i: usize| u64::from_le_bytes(first[8 * i..8 * i + 8].try_into().expect("eight"));
        self.world = Arc::clone(world);
        let parts = Parts::new(&self.params, world.size());
        let groups = std::mem::take(&mut self.optimizer.groups);
        let mut own = AdamW::new(&[&self.own_weights(&parts)]);
        own.betas = (f64::from_bits(number(1)), f64::from_bits(number(2)));
        own.eps = f64::from_bits(number(3));
        own.groups = parts.all_of(world.rank()).map(|(i, _)| groups[i]).collect();
        let whole = std::mem::replace(&mut self.optimizer, own);
        let moments = self.optimizer.restore(number(0));
        let params = &mut self.params;
        let others = || (0..world.size()).filter(|process| *process != 0);
        world.together(|| {
            let (modules, state) = params.modules_and_state_mut();
            let values = modules.iter_mut().flat_map(|m| m.params.iter_mut()).map(|p| &mut p.value);
            for value in values.chain(state.iter_mut().map(|(_, value)| value)) {
                let value: &mut [f32] = value.as_mut_slice();
                if world.is_first() {
                    world.exchange(&others().map(|to| (to, &*value)).collect::<Vec<_>>(), &mut []);
                } else {
                    world.exchange(&[], &mut [(0, value)]);
                }
            }
            let [m, v] = [0, 1].map(|k| elements(whole.moments().iter().map(|(m, v)| [m, v][k])));
            if world.is_first() {
                for of in [&m, &v] {
                    let packed: Vec<_> = others().flat_map(|to| parts.all_of(to).map(move |of| (to, of))).collect();
                    let packed: Vec<_> = packed.iter().map(|(to, (i, at))| (*to, &of[*i][at.clone()])).collect();
                    world.exchange(&packed, &mut []);
                }
                for ((i, at), (own_m, own_v)) in parts.all_of(0).zip(moments) {
                    own_m.as_mut_slice().copy_from_slice(&m[i][at.clone()]);
                    own_v.as_mut_slice().copy_from_slice(&v[i][at]);
                }
            } else {
                let (m, v): (Vec<_>, Vec<_>) = moments.iter_mut().map(|(m, v)| (m, v)).unzip();
                for of in [m, v] {
                    let mut rows: Vec<_> = of.into_iter().map(|x| (0, x.as_mut_slice::<f32>())).collect();
                    world.exchange(&[], &mut rows);
                }
            }
        });
        Ok(self)
    }

    /// What [`among`](Self::among) has shared out, in one hand again: in the first process, which alone gets it. All
    /// take part.
    pub fn whole(&self) -> Option<Self> {
        let world = &self.world;
        if world.size() == 1 {
            return Some(self.clone());
        }
        let parts = Parts::new(&self.params, world.size());
        let own = || self.optimizer.moments();
        if !world.is_first() {
            let rows: Vec<_> = own().iter().flat_map(|(m, v)| [m, v]).map(|x| (0, x.as_slice::<f32>())).collect();
            world.together(|| world.exchange(&rows, &mut []));
            return None;
        }
        let mut whole = Trainer::new(Arc::clone(&self.method), self.params.clone());
        (whole.chunk_images, whole.precision) = (self.chunk_images, self.precision);
        (whole.optimizer.betas, whole.optimizer.eps) = (self.optimizer.betas, self.optimizer.eps);
        let moments = whole.optimizer.restore(self.optimizer.steps());
        world.together(|| {
            for ((i, at), (m, v)) in parts.all_of(0).zip(own()) {
                moments[i].0.as_mut_slice()[at.clone()].copy_from_slice(m.as_slice::<f32>());
                moments[i].1.as_mut_slice()[at].copy_from_slice(v.as_slice::<f32>());
            }
            for from in 1..world.size() {
                let of: Vec<(usize, Range<usize>)> = parts.all_of(from).collect();
                let mut rows: Vec<[Vec<f32>; 2]> =
                    of.iter().map(|(_, at)| [(); 2].map(|()| vec![0.0; at.len()])).collect();
                world.exchange(&[], &mut rows.iter_mut().flatten().map(|row| (from, &mut row[..])).collect::<Vec<_>>());
                for ((i, at), [m, v]) in of.into_iter().zip(rows) {
                    moments[i].0.as_mut_slice()[at.clone()].copy_from_slice(&m);
                    moments[i].1.as_mut_slice()[at].copy_from_slice(&v);
                }
            }
        });
        Some(whole)
    }

    /// The weights that this process updates, each run of them as a parameter.
    fn own_weights(&self, parts: &Parts) -> Params {
        let values = elements(self.params.trained_params().map(|p| &p.value));
        let mut own = Params::new();
        for (k, (i, at)) in parts.all_of(self.world.rank()).enumerate() {
            own.add(k.to_string(), Tensor::new([at.len()], values[i][at].to_vec()), Role::Trained);
        }
        own
    }

    /// [`step`](Self::step) of one of several processes, on its images of the batch.
    pub(super) fn step_together(&mut self, batch: &Batch, params: &StepParams) -> Result<StepOutcome> {
        let (world, step) = (Arc::clone(&self.world), self.optimizer.steps() as usize + 1);
        let lanes = self.lanes(batch.part().of);
        let pieces = lanes.of_processes(world.size())?.iter().map(|own| lanes.pieces(own)).collect();
        let shared = Shared { lanes, pieces };

        // 1. and 2. While the first blocks are still computed, the sums of the last ones are on their way.
        let parts = Parts::new(&self.params, world.size());
        let (climbing, done) = Climbing::new(&shared.pieces[world.rank()], parts.starts.len() - 1);
        let (found, gradients) = std::thread::scope(|scope| {
            let (trainer, shared, parts, climbing) = (&*self, &shared, &parts, &climbing);
            let sums = move || trainer.sum_of_parts(shared, parts, climbing, &done);
            let sums = scope.spawn(move || trainer.world.together(sums));
            let found = no_panic(step, || trainer.own_lanes(batch, shared, climbing));
            climbing.close();
            (found, sums.join().expect("it ends all where it panics"))
        });
        let small = |found: &LossAndGradients| elements([&found.loss].into_iter().chain(&found.means)).concat();
        let (found, said) = match found {
            Ok(found) => {
                let said = to_bytes(&found.iter().flat_map(small).collect::<Vec<_>>());
                (found.into_iter().next(), Ok(said))
            }
            Err(error) => (None, Err(error)),
        };
        let all = world.share(said)?;
        let (loss, means) = shared.loss_and_means(&all, &found.expect("each process has a lane"));
        self.check_together(batch, &parts, (&loss, &means, &gradients))?;

        // 3. and 4.
        world.together(|| {
            let _phase = meter::phase_of_all(Phase::Optimizer);
            let mut own = self.own_weights(&parts);
            self.optimizer.update(&mut [&mut own], gradients, params.lr, params.weight_decay);
            self.spread(&parts, &own);
            for (module, average) in self.params.trained_and_average() {
                average.into_iter().for_each(|average| update_ema(params.ema_momentum, module, average));
            }
            self.method.next_state(&mut self.params.state, &means);
        });
        Ok(StepOutcome { loss: loss.item(), numbers: self.method.numbers(&self.params, &means).read() })
    }

    /// The loss and the means of each of this process's lanes; gradients climb as they are done.
    fn own_lanes(&self, batch: &Batch, shared: &Shared, climbing: &Climbing) -> Result<Vec<LossAndGradients>> {
        let own: Vec<usize> = shared.pieces[self.world.rank()].iter().cloned().flatten().collect();
        let (here, teams) = (meter::here(), Teams::of(own.len()));
        let lane = |&lane: &usize| {
            let _there = (here.enter(), teams.begin());
            let mut chunks: Vec<_> = shared.lanes.chunks(lane).collect();
            let last = chunks.pop().expect("at least one chunk");
            let sum =
                chunks.into_iter().try_fold(None, |sum, chunk| self.add_chunk(batch, chunk, sum, None).map(Some))?;
            self.add_chunk(batch, last, sum, Some(&mut |param, gradient| climbing.climb(lane, param, gradient)))
        };
        own.par_iter().with_max_len(1).map(lane).collect()
    }

    /// The sum over all processes of the gradients for this one's parts, bucket by bucket as parameters are `done` in
    /// this process.
    fn sum_of_parts(
        &self,
        shared: &Shared,
        parts: &Parts,
        climbing: &Climbing,
        done: &Mutex<Receiver<usize>>,
    ) -> Vec<Tensor> {
        let (rank, processes) = (self.world.rank(), self.world.size());
        let done = done.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut missing, mut sums) = (vec![climbing.pieces.len(); parts.starts.len() - 1], Vec::new());
        for bucket in &parts.buckets {
            let params = || parts.slices(bucket.clone()).map(|(i, _)| i);
            while params().any(|i| missing[i] > 0) {
                // Where a lane has failed, zeros take the place of what did not come: the others wait for something,
                // and hear of the error when the loss is shared.
                let Ok(param) = done.recv() else { break };
                missing[param] -= 1;
            }
            let _phase = meter::phase_of_all(Phase::GradientSum);
            let found = climbing.take(&params().collect::<Vec<_>>(), &parts.starts);
            let found: Vec<Vec<&[f32]>> = found.iter().map(elements).collect();
            let packed = |process: usize| {
                let within = parts.of(bucket, process);
                let first = params().next().expect("a bucket is of parameters");
                found.iter().map(move |piece| parts.packed(within.clone(), first, piece))
            };
            let mut outgoing: Vec<(usize, Vec<f32>)> = Vec::new();
            (0..processes).filter(|to| *to != rank).for_each(|to| outgoing.extend(packed(to).map(|row| (to, row))));
            let len = parts.of(bucket, rank).len();
            let of_others = |from: usize| vec![vec![0.0; len]; shared.pieces[from].len()];
            let mut all: Vec<Vec<Vec<f32>>> = (0..processes)
                .map(|from| if from == rank { packed(rank).collect() } else { of_others(from) })
                .collect();
            drop(found);
            let incoming = all.iter_mut().enumerate().filter(|(from, _)| *from != rank);
            let mut incoming: Vec<_> =
                incoming.flat_map(|(from, rows)| rows.iter_mut().map(move |row| (from, &mut row[..]))).collect();
            let outgoing: Vec<(usize, &[f32])> = outgoing.iter().map(|(to, row)| (*to, &row[..])).collect();
            self.world.exchange(&outgoing, &mut incoming);
            let mut sum = &shared.sum(all)[..];
            sums.extend(parts.slices(parts.of(bucket, rank)).map(|(_, inside)| {
                let now = sum.split_off(..inside.len()).expect("as many as the part has");
                Tensor::new([now.len()], now.to_vec())
            }));
        }
        sums
    }

    /// Sends the weights that this process has updated to all others, and gets theirs.
    fn spread(&mut self, parts: &Parts, own: &Params) {
        let (rank, processes) = (self.world.rank(), self.world.size());
        let mut own = own.iter().map(|param| param.value.as_slice::<f32>());
        let mut weights = weights(&mut self.params);
        for bucket in &parts.buckets {
            let slices = parts.slices(parts.of(bucket, rank)).count();
            let mine = own.by_ref().take(slices).collect::<Vec<_>>().concat();
            let outgoing: Vec<(usize, &[f32])> =
                (0..processes).filter(|to| *to != rank).map(|to| (to, &mine[..])).collect();
            let mut rows: Vec<Vec<f32>> = (0..processes)
                .map(|from| vec![0.0; if from == rank { 0 } else { parts.of(bucket, from).len() }])
                .collect();
            let incoming = rows.iter_mut().enumerate().filter(|(from, _)| *from != rank);
            self.world.exchange(&outgoing, &mut incoming.map(|(from, row)| (from, &mut row[..])).collect::<Vec<_>>());
            drop(outgoing);
            rows[rank] = mine;
            rows.iter().enumerate().for_each(|(from, row)| parts.unpack(parts.of(bucket, from), row, &mut weights));
        }
    }

    /// The error of [`step`](Self::step) when something is not finite, the same in all processes.
    fn check_together(
        &self,
        batch: &Batch,
        parts: &Parts,
        (loss, means, gradients): (&Tensor, &[Tensor], &[Tensor]),
    ) -> Result<()> {
        let world = &self.world;
        let bad = |gradient: &&Tensor| count_non_finite(&[gradient]).item() > 0.0;
        let all_good = count_non_finite(&gradients.iter().collect::<Vec<_>>()).item() == 0.0;
        let owned = parts.all_of(world.rank()).zip(gradients);
        let first = owned.filter(|(_, g)| !all_good && bad(g)).min_by_key(|((i, at), _)| (*i, at.start));
        let said = first.map_or((NOTHING, true), |((i, _), gradient)| (i as u64, gradient.is_finite()));
        let said = world.share(Ok([&said.0.to_le_bytes()[..], &[u8::from(said.1)]].concat()))?;
        let said: Vec<(u64, bool)> =
            said.iter().map(|said| (u64::from_le_bytes(said[..8].try_into().expect("eight")), said[8] == 1)).collect();
        let worst = said.iter().min().filter(|(i, _)| *i != NOTHING); // of one parameter first what is not finite
        let Some(problem) = self
            .not_finite_loss(loss, means)
            .or_else(|| worst.map(|(i, finite)| self.bad_gradient(*i as usize, *finite)))
        else {
            return Ok(());
        };
        let step = self.optimizer.steps() as usize + 1;
        let source = no_panic(step, || Ok(first_non_finite(self, batch)));
        let text = |source: crate::train::NonFiniteSource| {
            format!("{}\n{source}", source.advice().unwrap_or_default()).into_bytes()
        };
        let sources = world.share(source.map(|source| source.map_or(Vec::new(), text)))?;
        // Processes have images in their order, and looked at theirs in order.
        let source = sources.into_iter().find(|source| !source.is_empty());
        let source = source.map(|source| String::from_utf8_lossy(&source).into_owned());
        let source = source.as_deref().and_then(|source| source.split_once('\n'));
        Err(self.non_finite(problem, source.map(|(advice, source)| (source, (!advice.is_empty()).then_some(advice)))))
    }
}

impl Shared {
    /// The loss and the means over the whole batch, given each process's bytes: those of each of its lanes; `like` has
    /// their shapes.
    fn loss_and_means(&self, all: &[Vec<u8>], like: &LossAndGradients) -> (Tensor, Vec<Tensor>) {
        let len = 1 + like.means.iter().map(Tensor::elements).sum::<usize>();
        let lanes =
            all.iter().flat_map(|bytes| from_bytes(bytes).chunks_exact(len).map(<[f32]>::to_vec).collect::<Vec<_>>());
        let mut lanes: Vec<Option<Vec<f32>>> = lanes.map(Some).collect();
        let sum = self.lanes.sum(&mut |lane| if lane.len() == 1 { lanes[lane.start].take() } else { None }, &add);
        let mut rest = &sum[1..];
        let mean =
            |like: &Tensor| Tensor::new(*like.shape(), rest.split_off(..like.elements()).expect("so many").to_vec());
        (Tensor::new([], vec![sum[0]]), like.means.iter().map(mean).collect())
    }
}
