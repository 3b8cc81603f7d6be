//! Parameters are filled with what lies in a file under their names.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::names::{Layout, Source, companion, sources};
use super::{HINT, InitOptions, RunInfo};
use crate::nn::Params;
use crate::tensor::{DType, Tensor};
use crate::train::safetensors::{Fit, Mismatch, Place, TensorFile, shown};
use crate::vit::{EncoderConfig, Preset, positions};
use crate::{Error, Result};

/// What stands in the place of hidden patches.
const MASK_TOKEN: &str = "mask_token";
const POSITIONS_HINT: &str = "take the image size that fits, or set `interpolate_positions`";

/// An open file, and the encoder in it that is meant.
pub(super) struct Opened {
    pub file: TensorFile,
    names: Vec<String>,
    /// All encoders in it.
    pub sources: Vec<Source>,
    /// The one that is meant.
    pub source: Source,
    /// Mask tokens of encoders that were read: of other files they are left aside.
    taken: HashSet<String>,
    /// What is to be said about the reading.
    pub notes: Vec<String>,
    /// The run that it comes from, if this program wrote the file.
    pub run: Option<RunInfo>,
}

impl Opened {
    /// Opens a file, in which `prefix` chooses one of several encoders.
    pub fn new(path: &Path, prefix: Option<&str>) -> Result<Self> {
        let file = TensorFile::open(path, HINT)?;
        let run = RunInfo::by(&file)?;
        let names = file.names();
        let sources = sources(&names);
        let listed = || sources.iter().map(Source::shown).collect::<Vec<_>>().join(", ");
        let mut notes = Vec::new();
        let source = match (sources.first(), prefix) {
            (None, _) => {
                let begin = names.iter().take(10_000).map(|name| name.split('.').next().unwrap_or(""));
                let begin: Vec<_> = BTreeSet::from_iter(begin).into_iter().take(20).map(shown).collect();
                let (count, begin) = (names.len(), begin.join(", "));
                let problem = format!("no encoder in it: its {count} tensors have names that begin with {begin}");
                return Err(Error::file(path, problem, "docs/interop.md says which names are known"));
            }
            (Some(first), None) => {
                if sources.len() > 1 {
                    let all = listed();
                    notes.push(format!("encoders in the file, the evaluated one first: {all}; `prefix` chooses"));
                }
                first
            }
            (Some(_), Some(prefix)) => {
                let asked = prefix.trim_end_matches('.');
                let exact = |source: &&Source| source.prefix.trim_end_matches('.') == asked;
                let begun = |source: &&Source| source.prefix.strip_prefix(asked).is_some_and(|x| x.starts_with('.'));
                sources.iter().find(exact).or_else(|| sources.iter().find(begun)).ok_or_else(|| {
                    let problem = format!("no encoder after the prefix '{}'", shown(prefix));
                    Error::file(path, problem, format!("there are: {}", listed()))
                })?
            }
        };
        let source = source.clone();
        Ok(Opened { file, names, sources, source, taken: HashSet::new(), notes, run })
    }

    /// Fills the parameters of an encoder; what a partial reading left out.
    pub fn fill_encoder(
        &mut self,
        source: &Source,
        params: &mut Params,
        class_token: bool,
        options: &InitOptions,
    ) -> Result<Vec<Mismatch>> {
        let class_tokens = [source.class_token(&self.file), class_token];
        let done = self.place_positions(source, "pos_embed", params, class_tokens, options)?;
        let sources = &self.sources;
        let unexpected = |name: &str| {
            done.as_deref() != Some(name) && inside(name, source, sources).is_some_and(|x| companion(x).is_none())
        };
        let mut places = places(source, params, done.as_deref());
        // An encoder that never saw a hidden patch has no token for one, or a decoder's stands in its place; no feature of a
        // whole image depends on it.
        let token = source.names(MASK_TOKEN).swap_remove(0);
        if let Some(at) = places.iter().position(|place| place.names[0] == token) {
            if source.layout == Layout::Official && self.file.fits(&places[at..=at]) {
                self.taken.insert(token);
            } else {
                places.remove(at);
                self.notes
                    .push(format!("{MASK_TOKEN}: the file has none of an encoder of this width, it starts afresh"));
            }
        }
        self.file.fill(places, &unexpected, options.fit)
    }

    /// Fills a module that is neither encoder nor predictor, if the file has all of it in these sizes under its own prefix;
    /// what is to be said about it, and the names of what was read.
    pub fn fill_module(
        &mut self,
        (name, prefix): (&str, &str),
        params: &mut Params,
    ) -> Result<(String, HashSet<String>)> {
        let source = Source { prefix: format!("{prefix}."), layout: Layout::Official };
        let places = places(&source, params, None);
        let names: HashSet<String> = places.iter().flat_map(|place| place.names.iter().cloned()).collect();
        let found = names.iter().filter(|name| self.file.contains(name)).count();
        if found == 0 || !self.file.fits(&places) {
            let why = if found == 0 { "none in the file" } else { "that in the file has other sizes" };
            return Ok((format!("{name}: {why}, it starts afresh"), HashSet::new()));
        }
        let count = places.len();
        self.file.fill(places, &|_| false, Fit::Strict)?;
        Ok((format!("{name}: {count} tensors ({prefix}.*)"), names))
    }

    /// What lies among the names of an encoder and changes nothing about its features, but for what was `read`; as a line,
    /// if there is anything.
    pub fn left_aside(&self, source: &Source, read: &HashSet<String>) -> Option<String> {
        let names = self.names.iter().filter(|name| !read.contains(*name) && !self.taken.contains(*name));
        let aside: BTreeSet<String> =
            names.filter_map(|name| companion(inside(name, source, &self.sources)?)).collect();
        (!aside.is_empty()).then(|| format!("left aside: {}", Vec::from_iter(aside).join(", ")))
    }

    /// Fills a predictor, or a decoder, if the file has one of these sizes; what is to be said about it, and the names of what
    /// was read.
    pub fn fill_predictor(
        &mut self,
        encoder: &Source,
        params: &mut Params,
        options: &InitOptions,
    ) -> Result<(String, HashSet<String>)> {
        let decoder = params.get("decoder_embed.weight").is_some();
        let what = if decoder { "decoder" } else { "predictor" };
        let embed = format!("{what}_embed.weight");
        let source = if decoder {
            self.file.contains(&encoder.names(&embed)[0]).then(|| encoder.clone())
        } else {
            let at_a_point = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
            let prefixes = self.names.iter().filter_map(|name| name.strip_suffix(&embed)).filter(at_a_point);
            let prefixes = prefixes.filter(|prefix| !prefix.starts_with("optimizer."));
            let shortest = prefixes.min_by_key(|prefix| prefix.len());
            shortest.map(|prefix| Source { prefix: prefix.to_owned(), layout: Layout::Official })
        };
        let afresh = |why: String| Ok((format!("{what}: {why}, it starts afresh"), HashSet::new()));
        let Some(source) = source else { return afresh("none in the file".to_owned()) };
        let first = source.names(&embed)[0].clone();
        let beside = first.strip_suffix("embed.weight").unwrap_or(&first);
        let (fresh, before) = (params.clone(), self.notes.len());
        let done = self.place_positions(&source, &format!("{what}_pos_embed"), params, [decoder; 2], options)?;
        let notes: String = self.notes.drain(before..).map(|note| format!("; {note}")).collect();
        let places = places(&source, params, done.as_deref());
        let ours: HashSet<String> =
            places.iter().flat_map(|place| place.names.iter().cloned()).chain(done.iter().cloned()).collect();
        let more = self.names.iter().any(|name| name.starts_with(beside) && !ours.contains(name));
        let beside = shown(beside);
        if more || !self.file.fits(&places) {
            *params = fresh;
            return afresh(format!("that in the file ({beside}*) has other sizes"));
        }
        let count = places.len() + usize::from(done.is_some());
        self.file.fill(places, &|_| false, Fit::Strict)?;
        Ok((format!("{what}: {count} tensors ({beside}*){notes}"), ours))
    }

    /// Fills a table of positions that does not lie in the file as it is needed: on another grid, or with a row for a class
    /// token that only one of file and model has. Gives back its name if that is done; a table that is read like any other
    /// tensor, or does not fit, is not.
    fn place_positions(
        &mut self,
        source: &Source,
        name: &str,
        params: &mut Params,
        [class_in_file, class_in_model]: [bool; 2],
        options: &InitOptions,
    ) -> Result<Option<String>> {
        let (file, in_file) = (&mut self.file, source.names(name).swap_remove(0));
        let Some(param) = params.iter_mut().find(|p| p.name == name) else { return Ok(None) };
        let ([_, tokens, dim], shape) = (param.value.dims("positions"), file.shape(&in_file));
        let Ok([1, rows, width]) = shape.map(|shape| <[usize; 3]>::try_from(shape).unwrap_or_default()) else {
            return Ok(None);
        };
        if width != dim || (rows, class_in_file) == (tokens, class_in_model) {
            return Ok(None);
        }
        let Some((from, to)) = square(rows, class_in_file).zip(square(tokens, class_in_model)) else {
            if options.interpolate_positions {
                let problem = format!("{} has {rows} positions, which are no square grid", shown(&in_file));
                let hint = "leave out `interpolate_positions`, and take the image size that fits";
                return Err(Error::file(file.path(), problem, hint));
            }
            return Ok(None);
        };
        if from != to && !options.interpolate_positions {
            file.advise(POSITIONS_HINT);
            return Ok(None);
        }
        let table = file.tensor(&in_file, DType::F32)?;
        let (class, table) = table.as_slice::<f32>().split_at(usize::from(class_in_file) * dim);
        let mut rows = if from == to { table.to_vec() } else { positions::interpolate(table, dim, from, [to; 2]) };
        if class_in_model {
            let own = param.value.to_dtype(DType::F32);
            let class = if class_in_file { class } else { &own.as_slice::<f32>()[..dim] };
            rows.splice(..0, class.iter().copied());
        }
        param.value = Tensor::new([1, tokens, dim], rows).to_dtype(param.value.dtype());
        if from != to {
            let what = shown(&in_file);
            self.notes.push(format!("{what} interpolated from a grid of {from}x{from} to {to}x{to}"));
        }
        Ok(Some(in_file))
    }
}

/// The parameters as places for what lies in the file under their names, without the one that is `done`.
fn places<'a>(source: &Source, params: &'a mut Params, done: Option<&str>) -> Vec<Place<'a>> {
    let places = params.iter_mut().map(|p| Place { names: source.names(&p.name), value: &mut p.value });
    places.filter(|place| Some(&*place.names[0]) != done).collect()
}

/// What a name is behind the prefix of `source`; `None` if it stands elsewhere, or after a longer prefix of all `sources`.
fn inside<'a>(name: &'a str, source: &Source, sources: &[Source]) -> Option<&'a str> {
    let longer = |other: &&Source| other.prefix.len() > source.prefix.len();
    let elsewhere = sources.iter().filter(longer).any(|other| name.starts_with(&other.prefix));
    name.strip_prefix(&source.prefix).filter(|_| !elsewhere)
}

/// The side of a square grid of so many positions, one of which is the class token's if there is one.
fn square(positions: usize, class_token: bool) -> Option<usize> {
    let patches = positions.checked_sub(usize::from(class_token))?;
    let side = patches.isqrt();
    (side > 0 && side * side == patches).then_some(side)
}

impl Source {
    /// Whether the file has the encoder's class token.
    pub(super) fn class_token(&self, file: &TensorFile) -> bool {
        self.names("cls_token").iter().all(|name| file.contains(name))
    }

    /// Tensors that a file of these parameters has.
    pub(super) fn tensors(&self, params: &Params) -> usize {
        params.iter().map(|p| self.names(&p.name).len()).sum()
    }

    /// What the shapes in a file say; heads are not among it, and 1 here.
    pub(super) fn sizes(&self, file: &TensorFile) -> Result<EncoderConfig> {
        const KERNEL: &str = "patch_embed.proj.weight";
        const POSITIONS: &str = "pos_embed";
        const HIDDEN: &str = "blocks.0.mlp.fc1.weight";
        let shape = |name: &str| file.shape(&self.names(name)[0]);
        let (kernel, positions, hidden) = (shape(KERNEL)?, shape(POSITIONS)?, shape(HIDDEN)?);
        let class_token = self.class_token(file);
        let odd = |name: &str, shape: &[usize]| {
            let name = shown(&self.names(name)[0]);
            let problem = format!("{name} is {shape:?}, which is of no encoder that is known here");
            Err(Error::file(file.path(), problem, "docs/interop.md says which encoders can be read"))
        };
        let (dim, patch_size) = match kernel[..] {
            [dim, 3, side, also] if side == also && dim > 0 => (dim, side),
            _ => return odd(KERNEL, &kernel),
        };
        let mlp_ratio = match hidden[..] {
            [mlp_dim, width] if width == dim => mlp_dim as f64 / dim as f64,
            _ => return odd(HIDDEN, &hidden),
        };
        let grid = match positions[..] {
            [1, tokens, width] if width == dim => square(tokens, class_token),
            _ => None,
        };
        let Some(grid) = grid else { return odd(POSITIONS, &positions) };
        let depth = (0..).take_while(|i| file.contains(&self.names(&format!("blocks.{i}.norm1.weight"))[0])).count();
        let (like, _) = Preset::VitB16.sizes();
        let image_size = grid.saturating_mul(patch_size);
        Ok(EncoderConfig { image_size, patch_size, dim, depth, heads: 1, mlp_ratio, class_token, ..like })
    }
}
