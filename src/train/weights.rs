//! Weights that no run of this program wrote: an encoder, and its predictor, out of a safetensors file, under the names in
//! which they are published.

mod names;
mod positions;

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde::Deserialize;

use self::names::{Source, companion, sources};
use super::safetensors::{Fit, Mismatch, Place, TensorFile, shown};
use crate::data::Normalization;
use crate::methods::{Method, ModelParams};
use crate::nn::{Init, LinearInit, Params};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, EncoderConfig, Preset};
use crate::{Error, Result};

/// The most numbers in an encoder that is made before the file is known to have them: 4 GiB of f32; ViT-g/16 has a
/// billion.
const MOST_NUMBERS: u64 = 1 << 30;
/// Numbers in an encoder that any file may say it has: 64 MB of f32.
const SMALL: u64 = 1 << 24;
const HINT: &str = "take the sizes that the file has (probe and features read them from it where no --preset is given), or \
    a whole safetensors file of an encoder of these sizes (docs/convert.py makes one of a .pth.tar), without parts that \
    are not computed here; --partial reads what fits";
const INIT_HINT: &str = "choose a model of the sizes that the file has (--preset, --image-size, --patch, --dim, --depth), or \
    a whole safetensors file of an encoder of these sizes (docs/convert.py makes one of a .pth.tar), without parts that \
    are not computed here; --partial takes what fits";
const CLASS_TOKEN_HINT: &str = "an encoder with a class token, of the sizes that the file has, begins a run of --method mae; \
    for the other methods, which have none, --partial leaves it out";
const POSITIONS_HINT: &str = "take the image size that fits, or --interpolate-positions";

/// How an encoder is read from a file.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// How well the file has to fit.
    pub fit: Fit,
    /// Which encoder of several: what stands before its names, or begins to. `None`: the evaluated one; docs/interop.md
    /// has the order.
    pub prefix: Option<String>,
    /// Whether positions on another grid are interpolated.
    pub interpolate_positions: bool,
}

/// An encoder out of a file.
#[derive(Clone, Debug)]
pub struct LoadedEncoder {
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
    /// What stands before its names in the file.
    pub prefix: String,
    /// Tensors in a file of it.
    pub tensors: usize,
    /// What did not fit; empty after a strict reading.
    pub left_out: Vec<Mismatch>,
    /// What else is to be said about the reading, line by line.
    pub notes: Vec<String>,
    /// The run that it comes from, if this program wrote the file.
    pub run: Option<Said>,
}

/// What [`load_into`] did.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// What was read from where, and what was not.
    pub lines: Vec<String>,
    /// The run that they come from, if this program wrote the file.
    pub run: Option<Said>,
}

/// An encoder of these sizes with fresh parameters: the one that [`fresh_model`](super::fresh_model) makes of that seed.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_encoder(sizes: &EncoderConfig, linear: LinearInit, seed: u64) -> Result<(Encoder, Params)> {
    possible(sizes)?;
    let (mut params, mut rng) = (Params::new(), stream(seed, Purpose::Init, [0, 0]));
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F32, linear };
    let encoder = Encoder::new(sizes, &mut init);
    Ok((encoder, params))
}

fn possible(sizes: &EncoderConfig) -> Result<()> {
    let impossible = |problem| Err(Error::config(problem, "choose sizes that fit together, or a preset"));
    sizes.problem().map_or(Ok(()), impossible)
}

/// Whether this program wrote the file, as a checkpoint.
///
/// # Errors
/// When it cannot be read, or is no safetensors file.
pub fn is_checkpoint(path: &Path) -> Result<bool> {
    Ok(is_ours(&TensorFile::open(path, HINT)?))
}

fn is_ours(file: &TensorFile) -> bool {
    file.metadata().and_then(|metadata| metadata.get("format")).is_some_and(|format| format.starts_with("stop-mim"))
}

/// The sizes of the encoder in a file. A checkpoint of this program says them. Of other weights the shapes tell all but
/// the number of heads, which the caller has to know.
///
/// # Errors
/// When the file cannot be read, there is no encoder in it, a tensor that tells a size is missing or of an odd shape, or
/// `heads` is `None` and needed.
pub fn sizes_of(path: &Path, prefix: Option<&str>, heads: Option<usize>) -> Result<EncoderConfig> {
    let file = TensorFile::open(path, HINT)?;
    let (sizes, said_heads) = match Said::by(&file, path)? {
        Some(Said { model: SaidModel { encoder, .. }, .. }) => (encoder.clone(), Some(encoder.heads)),
        None => (choose(&file.names(), path, prefix)?.0.sizes(&file)?, None),
    };
    let heads = heads.or(said_heads).ok_or_else(|| {
        let width = sizes.dim;
        let like = Preset::ALL.into_iter().map(|preset| preset.sizes().0).find(|like| like.dim == width);
        let usual = like.map_or(String::new(), |like| format!(" (ViTs of this width have {})", like.heads));
        let problem = format!("an encoder of width {width}; the number of its heads is not in a file of weights");
        Error::file(path, problem, format!("say --heads N{usual}, or --preset"))
    })?;
    let sizes = EncoderConfig { heads, ..sizes };
    possible(&sizes)?;
    // A small file must not have a large encoder made by what it says of itself.
    match sizes.elements() <= file.bytes().max(SMALL) {
        true => Ok(sizes),
        false => Err(too_small(&file, path, &sizes)),
    }
}

/// Reads an encoder of these sizes from a file, under the official names or those of the transformers library, behind any
/// prefix; docs/interop.md says which is taken where there are several. It has a class token if the file has one, whatever
/// `sizes` says. What a partial reading leaves out keeps the values of [`fresh_encoder`] with normal draws and seed 0.
///
/// # Errors
/// When the sizes do not fit together; when the file cannot be read, has no such encoder, or does not fit (missing,
/// unexpected or misshapen tensors, those of integers) and the fit is strict; when nothing in it fits; when a tensor is
/// damaged or not finite. All tensors of which this is true are named in one error (of thousands, the first thousand).
pub fn load_encoder(path: &Path, sizes: &EncoderConfig, options: &InitOptions) -> Result<LoadedEncoder> {
    let mut file = TensorFile::open(path, HINT)?;
    let run = Said::by(&file, path)?;
    let names = file.names();
    let (source, mut notes) = choose(&names, path, options.prefix.as_deref())?;
    let class_token = source.class_token(&file);
    let sizes = EncoderConfig { class_token, ..sizes.clone() };
    possible(&sizes)?;
    // Of a model that a machine can hold, the error below names what is missing, or a partial reading leaves it out. For a
    // larger one no memory is asked unless the file has it.
    if !has_room(&file, &sizes) {
        return Err(too_small(&file, path, &sizes));
    }
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, 0)?;
    let tensors = params.iter().map(|p| source.names(&p.name).len()).sum();
    let left_out = fill_encoder(&mut file, &source, &mut params, class_token, options, &mut notes)?;
    notes.extend(left_aside(&names, &source, &HashSet::new()));
    Ok(LoadedEncoder { encoder, params, prefix: source.prefix, tensors, left_out, notes, run })
}

/// Begins with the weights of a file: fills the encoder, and the target encoder, with the same values unless the file has
/// both as `encoder.` and `target_encoder.`; and the predictor, or MAE's decoder, if the file has one of the same sizes.
///
/// # Errors
/// As [`load_encoder`]. The parameters are then partly overwritten.
pub fn load_into(path: &Path, method: &dyn Method, params: &mut ModelParams, options: &InitOptions) -> Result<InitReport> {
    let mut file = TensorFile::open(path, INIT_HINT)?;
    let run = Said::by(&file, path)?;
    let names = file.names();
    let (source, mut notes) = choose(&names, path, options.prefix.as_deref())?;
    let class_token = method.encoder().config().class_token;
    if source.class_token(&file) && !class_token {
        file.advise(CLASS_TOKEN_HINT);
    }
    let (mut lines, mut filled) = (Vec::new(), Vec::new());
    let mut fill = |what: &str, source: &Source, params: &mut Params| -> Result<()> {
        let left_out = fill_encoder(&mut file, source, params, class_token, options, &mut notes)?;
        let all: usize = params.iter().map(|p| source.names(&p.name).len()).sum();
        let read = all - left_out.iter().filter(|mismatch| mismatch.in_model()).count();
        lines.push(format!("{what}: {read} of {all} tensors from {} ({})", path.display(), source.shown()));
        lines.extend(left_out.iter().map(|mismatch| format!("    {mismatch}: left out")));
        filled.push(source.clone());
        Ok(())
    };
    match params.average_of_encoder() {
        None => fill("encoder", &source, &mut params["encoder"])?,
        Some(target) => {
            fill("target encoder", &source, &mut params[target])?;
            // The encoder that this one is the moving average of.
            let online = source.prefix.replace("target_encoder.", "encoder.");
            let online = sources(&names).into_iter().find(|other| options.prefix.is_none() && other.prefix == online);
            match online.filter(|online| *online != source) {
                Some(online) => fill("encoder", &online, &mut params["encoder"])?,
                None => {
                    let read = params[target].clone();
                    params["encoder"].iter_mut().zip(read.iter()).for_each(|(p, q)| p.value = q.value.clone());
                    lines.push("encoder: the same".to_owned());
                }
            }
        }
    }
    let (of_predictor, read) = fill_predictor(&mut file, &names, &source, &mut params["predictor"], options)?;
    notes.extend(filled.iter().filter_map(|source| left_aside(&names, source, &read)));
    lines.append(&mut notes);
    lines.push(of_predictor);
    Ok(InitReport { lines, run })
}

/// What a checkpoint of this program says about its run, as far as it matters to whoever reads its encoder.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// The images it was trained on, as [`crate::data::open`] reads it.
    pub data: String,
    /// From which its weights were drawn.
    pub seed: u64,
    /// How its images were normalized; checkpoints of 0.1.0 do not say.
    pub normalization: Option<Normalization>,
    model: SaidModel,
}

#[derive(Clone, Debug, Deserialize)]
struct SaidModel {
    encoder: EncoderConfig,
    linear_init: LinearInit,
}

impl Said {
    /// How the run's linear layers began.
    pub fn linear_init(&self) -> LinearInit {
        self.model.linear_init
    }

    /// `None` where this program did not write the file.
    fn by(file: &TensorFile, path: &Path) -> Result<Option<Said>> {
        let Some(config) = file.metadata().filter(|_| is_ours(file)).and_then(|metadata| metadata.get("config")) else {
            return Ok(None);
        };
        let unusable = |why: &str| {
            let problem = format!("its configuration cannot be read ({})", shown(why));
            Error::file(path, problem, "give a checkpoint that this version of the program wrote")
        };
        let said: Said = serde_json::from_str(config).map_err(|e| unusable(&e.to_string()))?;
        if let Some(Err(error)) = said.normalization.as_ref().map(Normalization::check) {
            return Err(unusable(error.to_string().lines().next().unwrap_or_default()));
        }
        Ok(Some(said))
    }
}

/// The encoder that is meant, and what is to be said where there are others.
fn choose(names: &[String], path: &Path, prefix: Option<&str>) -> Result<(Source, Vec<String>)> {
    let all = sources(names);
    let listed = || all.iter().map(Source::shown).collect::<Vec<_>>().join(", ");
    if all.is_empty() {
        let begin: BTreeSet<&str> =
            names.iter().map(|name| name.split('.').next().unwrap_or("")).take(10_000).collect();
        let begin: Vec<String> = begin.iter().take(20).map(|part| shown(part)).collect();
        let problem =
            format!("no encoder in it: its {} tensors have names that begin with {}", names.len(), begin.join(", "));
        return Err(Error::file(path, problem, "docs/interop.md says which names are known"));
    }
    let Some(prefix) = prefix else {
        let notes = match all.len() {
            1 => Vec::new(),
            _ => vec![format!("encoders in the file, the evaluated one first: {}; --prefix chooses", listed())],
        };
        return Ok((all[0].clone(), notes));
    };
    let asked = prefix.trim_end_matches('.');
    let exact = |source: &&Source| source.prefix.trim_end_matches('.') == asked;
    let begun = |source: &&Source| source.prefix.strip_prefix(asked).is_some_and(|rest| rest.starts_with('.'));
    match all.iter().find(exact).or_else(|| all.iter().find(begun)) {
        Some(source) => Ok((source.clone(), Vec::new())),
        None => {
            let problem = format!("no encoder after the prefix '{}'", shown(prefix));
            Err(Error::file(path, problem, format!("there are: {}", listed())))
        }
    }
}

impl Source {
    fn class_token(&self, file: &TensorFile) -> bool {
        self.names("cls_token").iter().all(|name| file.contains(name))
    }

    /// What the shapes in a file say; heads are not among it, and 1 here.
    fn sizes(&self, file: &TensorFile) -> Result<EncoderConfig> {
        let shape = |name: &str| file.shape(&self.names(name)[0]);
        let (kernel, positions, hidden) =
            (shape("patch_embed.proj.weight")?, shape("pos_embed")?, shape("blocks.0.mlp.fc1.weight")?);
        let class_token = self.class_token(file);
        let odd = |name: &str, shape: &[usize]| {
            let problem =
                format!("{} is {shape:?}, which is of no encoder that is known here", shown(&self.names(name)[0]));
            Err(Error::file(file.path(), problem, "docs/interop.md says which encoders can be read"))
        };
        let [dim, 3, side, also] = kernel[..] else { return odd("patch_embed.proj.weight", &kernel) };
        let [mlp_dim, width] = hidden[..] else { return odd("blocks.0.mlp.fc1.weight", &hidden) };
        if side != also || dim == 0 {
            return odd("patch_embed.proj.weight", &kernel);
        }
        if width != dim {
            return odd("blocks.0.mlp.fc1.weight", &hidden);
        }
        let grid = match positions[..] {
            [1, tokens, width] if width == dim => square(tokens, class_token),
            _ => None,
        };
        let Some(grid) = grid else { return odd("pos_embed", &positions) };
        let depth = (0..).take_while(|i| file.contains(&self.names(&format!("blocks.{i}.norm1.weight"))[0])).count();
        let (like, _) = Preset::VitB16.sizes();
        let image_size = grid.saturating_mul(side);
        let mlp_ratio = mlp_dim as f64 / dim as f64;
        Ok(EncoderConfig { image_size, patch_size: side, dim, depth, heads: 1, mlp_ratio, class_token, ..like })
    }
}

/// The side of a square grid of so many positions, one of which is the class token's if there is one.
fn square(positions: usize, class_token: bool) -> Option<usize> {
    let patches = positions.checked_sub(usize::from(class_token))?;
    let side = patches.isqrt();
    (side > 0 && side * side == patches).then_some(side)
}

/// Whether the file can have all numbers of such an encoder, or it is a small one: each takes two bytes there at least.
fn has_room(file: &TensorFile, sizes: &EncoderConfig) -> bool {
    let numbers = sizes.elements();
    numbers <= MOST_NUMBERS || numbers.saturating_mul(2) <= file.bytes()
}

fn too_small(file: &TensorFile, path: &Path, sizes: &EncoderConfig) -> Error {
    let (bytes, numbers) = (file.bytes(), sizes.elements());
    let problem =
        format!("its tensors of {bytes} bytes are not those of an encoder of these sizes, of {numbers} numbers");
    Error::file(path, problem, HINT)
}

/// Fills the parameters of an encoder; what a partial reading left out.
fn fill_encoder(
    file: &mut TensorFile,
    source: &Source,
    params: &mut Params,
    class_token: bool,
    options: &InitOptions,
    notes: &mut Vec<String>,
) -> Result<Vec<Mismatch>> {
    let names = file.names();
    let others = longer(&names, source);
    let with_class = [source.class_token(file), class_token];
    let done = place_positions(file, source, "pos_embed", params, with_class, options, notes)?;
    let unexpected = |name: &str| {
        !done.contains(name) && inside(name, source, &others).is_some_and(|inner| companion(inner).is_none())
    };
    let places = params.iter_mut().map(|p| Place { names: source.names(&p.name), value: &mut p.value });
    let places = places.filter(|place| !done.contains(&place.names[0])).collect();
    file.fill(places, &unexpected, options.fit)
}

/// The encoders whose names may begin with the prefix of `source`, but are not its own.
fn longer(names: &[String], source: &Source) -> Vec<Source> {
    sources(names).into_iter().filter(|other| other.prefix.len() > source.prefix.len()).collect()
}

/// What lies among the names of an encoder and changes nothing about its features, but for what was `read`; as a line, if
/// there is anything.
fn left_aside(names: &[String], source: &Source, read: &HashSet<String>) -> Option<String> {
    let others = longer(names, source);
    let names = names.iter().filter(|name| !read.contains(*name));
    let aside: BTreeSet<String> = names.filter_map(|name| companion(inside(name, source, &others)?)).collect();
    (!aside.is_empty()).then(|| format!("left aside: {}", aside.into_iter().collect::<Vec<_>>().join(", ")))
}

/// What a name is behind the prefix of `source`; `None` if it stands elsewhere, or after a prefix of `others`, which are
/// longer.
fn inside<'a>(name: &'a str, source: &Source, others: &[Source]) -> Option<&'a str> {
    let inner = name.strip_prefix(&source.prefix)?;
    (!others.iter().any(|other| name.starts_with(&other.prefix))).then_some(inner)
}

/// Fills a predictor, or a decoder, if the file has one of these sizes; what is to be said about it, and the names of what
/// was read.
fn fill_predictor(
    file: &mut TensorFile,
    names: &[String],
    encoder: &Source,
    params: &mut Params,
    options: &InitOptions,
) -> Result<(String, HashSet<String>)> {
    let decoder = params.get("decoder_embed.weight").is_some();
    let (what, embed) =
        if decoder { ("decoder", "decoder_embed.weight") } else { ("predictor", "predictor_embed.weight") };
    let source = if decoder {
        file.contains(&encoder.names(embed)[0]).then(|| encoder.clone())
    } else {
        let at_a_point = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
        let prefixes = names.iter().filter_map(|name| name.strip_suffix(embed)).filter(at_a_point);
        let prefixes = prefixes.filter(|prefix| !prefix.starts_with("optimizer."));
        prefixes.min_by_key(|prefix| prefix.len()).map(Source::predictor)
    };
    let afresh = |why: String| Ok((format!("{what}: {why}, it starts afresh"), HashSet::new()));
    let Some(source) = source else { return afresh("none in the file".to_owned()) };
    let first = source.names(embed)[0].clone();
    let beside = first.strip_suffix("_embed.weight").unwrap_or(&first).to_owned();
    let mut notes = Vec::new();
    let position = format!("{what}_pos_embed");
    let fresh = params.clone();
    let done = place_positions(file, &source, &position, params, [decoder; 2], options, &mut notes)?;
    let places = params.iter_mut().map(|p| Place { names: source.names(&p.name), value: &mut p.value });
    let places: Vec<Place> = places.filter(|place| !done.contains(&place.names[0])).collect();
    let ours: HashSet<&String> = places.iter().flat_map(|place| &place.names).collect();
    let more = names.iter().any(|name| {
        name.strip_prefix(&beside).is_some_and(|rest| rest.starts_with('_'))
            && !ours.contains(name)
            && !done.contains(name)
    });
    if more || !file.fits(&places) {
        *params = fresh;
        return afresh(format!("that in the file ({}_*) has other sizes", shown(&beside)));
    }
    let count = places.len() + done.len();
    let read = ours.into_iter().chain(&done).cloned().collect();
    file.fill(places, &|_| false, Fit::Strict)?;
    let notes = notes.iter().map(|note| format!("; {note}")).collect::<String>();
    Ok((format!("{what}: {count} tensors ({}_*){notes}", shown(&beside)), read))
}

/// Fills a table of positions that does not lie in the file as it is needed: on another grid, or with a row for a class token
/// that only one of file and model has. Gives back the names of what is done; a table that is read like any other tensor,
/// or does not fit, is not.
fn place_positions(
    file: &mut TensorFile,
    source: &Source,
    name: &str,
    params: &mut Params,
    [class_in_file, class_in_model]: [bool; 2],
    options: &InitOptions,
    notes: &mut Vec<String>,
) -> Result<HashSet<String>> {
    let in_file = source.names(name).swap_remove(0);
    let Some(param) = params.iter_mut().find(|p| p.name == name) else { return Ok(HashSet::new()) };
    let ([_, tokens, dim], shape) = (param.value.dims("positions"), file.shape(&in_file));
    let Ok([1, rows, width]) = shape.map(|shape| <[usize; 3]>::try_from(shape).unwrap_or_default()) else {
        return Ok(HashSet::new());
    };
    let grids = square(rows, class_in_file).zip(square(tokens, class_in_model));
    if width != dim || [rows, class_in_file.into()] == [tokens, class_in_model.into()] {
        return Ok(HashSet::new());
    }
    let Some((from, to)) = grids else {
        if options.interpolate_positions {
            let problem = format!("{} has {rows} positions, which are no square grid", shown(&in_file));
            return Err(Error::file(
                file.path(),
                problem,
                "leave out --interpolate-positions, and take the image size that fits",
            ));
        }
        return Ok(HashSet::new());
    };
    if from != to && !options.interpolate_positions {
        file.advise(POSITIONS_HINT);
        return Ok(HashSet::new());
    }
    let table = file.tensor(&in_file, DType::F32)?;
    let (class, table) = table.as_slice::<f32>().split_at(usize::from(class_in_file) * dim);
    let mut rows = if from == to { table.to_vec() } else { positions::interpolate(table, dim, from, to) };
    if class_in_model {
        let own = param.value.to_dtype(DType::F32);
        let class = if class_in_file { class } else { &own.as_slice::<f32>()[..dim] };
        rows.splice(..0, class.iter().copied());
    }
    param.value = Tensor::new([1, tokens, dim], rows).to_dtype(param.value.dtype());
    if from != to {
        notes.push(format!("{} interpolated from a grid of {from}x{from} to {to}x{to}", shown(&in_file)));
    }
    Ok([in_file].into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{MethodConfig, ModelConfig};
    use crate::train::safetensors::testing::{Scratch, f32s, file_of};
    use crate::vit::PredictorConfig;

    fn partial() -> InitOptions {
        InitOptions { fit: Fit::Partial, ..InitOptions::default() }
    }

    fn tiny() -> EncoderConfig {
        EncoderConfig { image_size: 8, dim: 8, depth: 1, heads: 2, ..Preset::Toy.sizes().0 }
    }

    /// The tensors of an encoder under a prefix, as (name, type, shape, bytes) for [`file_of`].
    fn written(params: &Params, prefix: &str) -> Vec<(String, Vec<usize>, Vec<u8>)> {
        let bytes = |x: &Tensor| f32s(x.as_slice());
        params.iter().map(|p| (format!("{prefix}{}", p.name), p.value.shape().to_vec(), bytes(&p.value))).collect()
    }

    fn encoder_file(name: &str, modules: &[(&str, &Params)]) -> Scratch {
        let all: Vec<_> = modules.iter().flat_map(|(prefix, params)| written(params, prefix)).collect();
        file_with(name, &all)
    }

    fn file_with(name: &str, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Scratch {
        let all: Vec<_> =
            tensors.iter().map(|(name, shape, x)| (name.as_str(), "F32", &shape[..], x.clone())).collect();
        Scratch::new(name, &file_of(&all))
    }

    #[test]
    fn an_encoder_is_found_under_any_of_its_prefixes_the_target_first() {
        let sizes = tiny();
        let fresh = |seed| fresh_encoder(&sizes, LinearInit::Normal, seed).unwrap().1;
        let (context, target) = (fresh(1), fresh(2));
        let same = |a: &Params, b: &Params| a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0);
        for prefix in ["target_encoder.", "encoder.", "model.", ""] {
            let file = encoder_file("prefix", &[(prefix, &context)]);
            let loaded = load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap();
            assert_eq!((&*loaded.prefix, loaded.left_out.len()), (prefix, 0));
            assert!(same(&loaded.params, &context));
        }
        let file =
            encoder_file("both", &[("encoder.", &context), ("target_encoder.", &target), ("predictor.", &context)]);
        assert!(same(&load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap().params, &target));
    }

    /// As after a file was cut and mended by hand: an encoder that is not asked for is not read in its place.
    #[test]
    fn an_encoder_that_is_not_whole_is_still_the_one() {
        let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 1).unwrap();
        for missing in params.iter().map(|p| format!("target_encoder.{}", p.name)) {
            let mut all = [written(&params, "encoder."), written(&params, "target_encoder.")].concat();
            all.retain(|(name, ..)| *name != missing);
            let file = file_with("part", &all);
            let error = load_encoder(&file.0, &tiny(), &InitOptions::default()).unwrap_err().to_string();
            assert!(error.contains(&format!("1 tensor cannot be used:\n    {missing} is missing")), "{error}");
            assert_eq!(load_encoder(&file.0, &tiny(), &partial()).unwrap().prefix, "target_encoder.");
        }
    }

    #[test]
    fn the_file_decides_about_the_class_token() {
        for class_token in [false, true] {
            let sizes = EncoderConfig { class_token, ..tiny() };
            let (_, params) = fresh_encoder(&sizes, LinearInit::Xavier, 3).unwrap();
            let file = encoder_file("class", &[("", &params)]);
            let asked = EncoderConfig { class_token: !class_token, ..tiny() };
            let loaded = load_encoder(&file.0, &asked, &InitOptions::default()).unwrap();
            assert_eq!(loaded.encoder.config(), &sizes);
        }
    }

    #[test]
    fn a_class_token_keeps_its_position_when_the_others_are_interpolated() {
        for class_token in [false, true] {
            let (_, params) = fresh_encoder(&EncoderConfig { class_token, ..tiny() }, LinearInit::Normal, 0).unwrap();
            let params = marked(&params, 1.0);
            let file = encoder_file("interpolated", &[("", &params)]);
            let larger = EncoderConfig { image_size: 12, ..tiny() };
            let options = InitOptions { interpolate_positions: true, ..InitOptions::default() };
            let loaded = load_encoder(&file.0, &larger, &options).unwrap();
            let [before, after] = [&params, &loaded.params].map(|p| p.get("pos_embed").unwrap().value.to_f64_vec());
            let first = 8 * usize::from(class_token);
            assert_eq!(after[..first], before[..first]);
            // Three places for two: the middle one is the mean of all four.
            let mean = |d: usize| (0..4).map(|t| before[first + 8 * t + d]).sum::<f64>() / 4.0;
            assert!((0..8).all(|d| (after[first + 8 * 4 + d] - mean(d)).abs() < 1e-6));
        }
    }

    #[test]
    fn sizes_that_cannot_be_or_are_not_the_files() {
        let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 0).unwrap();
        let file = encoder_file("sizes", &[("", &params)]);
        let impossible = EncoderConfig { heads: 3, ..tiny() };
        assert!(matches!(load_encoder(&file.0, &impossible, &partial()), Err(Error::Config { .. })));
        let deeper = EncoderConfig { depth: 2, ..tiny() };
        let error = load_encoder(&file.0, &deeper, &InitOptions::default()).unwrap_err().to_string();
        assert!(error.contains("12 tensors cannot") && error.contains("blocks.1.mlp.fc2.bias is missing"), "{error}");
        assert_eq!(load_encoder(&file.0, &deeper, &partial()).unwrap().left_out.len(), 12);
        // More than there is memory for.
        for sizes in [EncoderConfig { dim: 8192, depth: 2, ..tiny() }, EncoderConfig { dim: 16_384, ..tiny() }] {
            let error = load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap_err().to_string();
            assert!(error.contains("bytes are not those of an encoder of these sizes"), "{error}");
        }
    }

    /// The least that a file of such an encoder can have is enough.
    #[test]
    fn an_encoder_of_two_bytes_a_number_is_read() {
        let sizes = EncoderConfig { class_token: true, ..tiny() };
        let (_, params) = fresh_encoder(&sizes, LinearInit::Normal, 0).unwrap();
        let all = written(&params, "");
        let halves: Vec<_> = all.iter().map(|(n, s, x)| (n.as_str(), "F16", &s[..], vec![0; x.len() / 2])).collect();
        let file = Scratch::new("halves", &file_of(&halves));
        assert_eq!(TensorFile::open(&file.0, "").unwrap().bytes(), 2 * sizes.elements());
        load_encoder(&file.0, &sizes, &InitOptions::default()).unwrap();
    }

    #[test]
    fn a_fresh_encoder_is_the_fresh_models() {
        let config = crate::methods::ModelConfig {
            method: crate::methods::MethodConfig::Ijepa { target_blocks: 1 },
            encoder: tiny(),
            predictor: Preset::Toy.sizes().1,
            linear_init: LinearInit::Normal,
        };
        let mut rng = stream(9, Purpose::Init, [0, 0]);
        let (_, params) = config.build(DType::F32, &mut rng).unwrap();
        let (_, alone) = fresh_encoder(&tiny(), LinearInit::Normal, 9).unwrap();
        assert!(params["encoder"].iter().zip(alone.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    }

    fn model(method: MethodConfig) -> (std::sync::Arc<dyn Method>, ModelParams) {
        let class_token = method.class_token();
        let config = ModelConfig {
            method,
            encoder: EncoderConfig { class_token, ..tiny() },
            predictor: PredictorConfig { dim: 8, depth: 1, ..Preset::Toy.sizes().1 },
            linear_init: LinearInit::Normal,
        };
        config.build(DType::F32, &mut stream(11, Purpose::Init, [0, 0])).unwrap()
    }

    /// Other values than any that parameters begin with.
    fn marked(params: &Params, by: f64) -> Params {
        let mut params = params.clone();
        let mark = |x: &Tensor| Tensor::from_fn(*x.shape(), DType::F32, |i| by + i as f64 / 1024.0);
        params.iter_mut().for_each(|p| p.value = mark(&p.value));
        params
    }

    fn same(a: &Params, b: &Params) -> bool {
        a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0)
    }

    #[test]
    fn a_model_begins_with_what_a_file_has() {
        let (model_, fresh) = model(MethodConfig::Ijepa { target_blocks: 1 });
        let [online, target, predictor] =
            [(&fresh["encoder"], 1.0), (&fresh["encoder"], 2.0), (&fresh["predictor"], 3.0)].map(|(p, by)| marked(p, by));
        let official = [("encoder.", &online), ("predictor.", &predictor), ("target_encoder.", &target)];
        let init = |modules: &[(&str, &Params)], options: &InitOptions| {
            let mut params = fresh.clone();
            let file = encoder_file("init", modules);
            let lines = load_into(&file.0, &*model_, &mut params, options)?.lines.join("\n");
            Ok::<_, Error>((params, lines))
        };
        let whole = InitOptions::default();
        let (params, lines) = init(&official, &whole).unwrap();
        let found = &params["target_encoder"];
        assert!(same(&params["encoder"], &online) && same(found, &target) && same(&params["predictor"], &predictor));
        assert!(
            lines.contains("(target_encoder.*)") && lines.contains("predictor: 20 tensors (predictor.predictor_*)"),
            "{lines}"
        );

        // One encoder alone, or asked for, becomes both.
        let context = InitOptions { prefix: Some("encoder".into()), ..InitOptions::default() };
        for (modules, options) in [(&official[..1], &whole), (&official[..], &context)] {
            let (params, lines) = init(modules, options).unwrap();
            assert!(same(&params["encoder"], &online) && same(&params["target_encoder"], &online), "{lines}");
            assert!(same(&params["predictor"], &fresh["predictor"]) == (modules.len() == 1), "{lines}");
        }
        // A predictor with one block more is another one.
        let config = ModelConfig {
            predictor: PredictorConfig { depth: 2, ..model_.config().unwrap().predictor.clone() },
            ..model_.config().unwrap().clone()
        };
        let deeper = config.build(DType::F32, &mut stream(0, Purpose::Init, [0, 0])).unwrap().1["predictor"].clone();
        let (params, lines) = init(&[("", &online), ("predictor.", &deeper)], &whole).unwrap();
        assert!(same(&params["predictor"], &fresh["predictor"]) && lines.contains("has other sizes"), "{lines}");

        let half = encoder_file("init-half", &[("", &online)]);
        let mut larger = EncoderConfig { depth: 2, ..tiny() };
        larger.class_token = false;
        let config = ModelConfig { encoder: larger, ..model_.config().unwrap().clone() };
        let (deep, mut params) = config.build(DType::F32, &mut stream(0, Purpose::Init, [0, 0])).unwrap();
        let error = load_into(&half.0, &*deep, &mut params, &whole).unwrap_err().to_string();
        assert!(error.contains("blocks.1.norm1.weight is missing"), "{error}");
        let lines = load_into(&half.0, &*deep, &mut params, &partial()).unwrap().lines.join("\n");
        assert!(lines.contains("17 of 29 tensors") && lines.contains("blocks.1.norm1.weight is missing"), "{lines}");
    }

    #[test]
    fn mae_begins_with_encoder_and_decoder() {
        let (model_, fresh) = model(MethodConfig::Mae { normalize_patches: true });
        let (encoder, decoder) = (marked(&fresh["encoder"], 1.0), marked(&fresh["predictor"], 2.0));
        for prefix in ["model.", ""] {
            let file = encoder_file("init-mae", &[(prefix, &encoder), (prefix, &decoder)]);
            let mut params = fresh.clone();
            let lines = load_into(&file.0, &*model_, &mut params, &InitOptions::default()).unwrap().lines.join("\n");
            assert!(same(&params["encoder"], &encoder) && same(&params["predictor"], &decoder), "{lines}");
        }
        // I-JEPA has no class token: in part only, and then the patches' positions are read all the same.
        let (model_, fresh) = model(MethodConfig::Ijepa { target_blocks: 1 });
        let (file, mut params) = (encoder_file("init-mae", &[("", &encoder)]), fresh.clone());
        let error = load_into(&file.0, &*model_, &mut params, &InitOptions::default()).unwrap_err().to_string();
        assert!(error.contains("cls_token is unexpected"), "{error}");
        load_into(&file.0, &*model_, &mut params, &partial()).unwrap();
        let (from, to) = (encoder.get("pos_embed").unwrap(), params["encoder"].get("pos_embed").unwrap());
        assert_eq!(from.value.as_slice::<f32>()[8..], *to.value.as_slice::<f32>());
    }
}
