//! Reading weights: tensors by name out of a safetensors file, straight into the parameters they are for.
//!
//! The header is read first and held against the length of the file: offsets that overlap, leave a hole, run past the
//! end or do not agree with shape and type are refused, and so is a name that stands there twice. Then each tensor goes
//! through a buffer of a megabyte into its parameter, so that the memory of reading is that of the parameters. Elements
//! may be f64, f32, f16 or bf16.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::kernels::MAX_RANK;
use crate::nn::{Init, LinearInit, Params};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Real, Shape, Tensor};
use crate::vit::{Encoder, EncoderConfig};
use crate::{Error, Result};

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes that are converted at a time. A multiple of every element's size.
const BLOCK: usize = 1 << 20;

/// How well a file has to fit the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Exactly the same names and shapes.
    Strict,
    /// Whatever fits is read; the rest is left out and reported.
    Partial,
}

/// A tensor that is not the same in a file and in the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Its name in the file.
    pub name: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// Why a tensor cannot be read into a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model has it, the file has not.
    Missing,
    /// The file has it, the model has not.
    Unexpected,
    /// It has another shape in the file.
    Shape {
        /// In the file.
        file: Vec<usize>,
        /// In the model.
        model: Shape,
    },
    /// Its elements are not floating-point numbers of 16, 32 or 64 bits.
    Elements(Dtype),
}

impl Misfit {
    /// Whether it is a parameter of the model, which keeps its value when this is left out.
    pub fn in_model(&self) -> bool {
        self.reason != Reason::Unexpected
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.reason {
            Reason::Missing => write!(f, "{name} is missing"),
            Reason::Unexpected => write!(f, "{name} is unexpected"),
            Reason::Shape { file, model } => write!(f, "{name} is {file:?} instead of {model}"),
            Reason::Elements(dtype) => write!(f, "{name} is of {dtype:?}, not of F32, F64, F16 or BF16"),
        }
    }
}

/// An open safetensors file: what is in it, and where.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Where the tensors start.
    start: u64,
}

impl WeightFile {
    /// Opens a file and reads its header; no tensor is touched.
    ///
    /// # Errors
    /// When the file cannot be read, or its header is not that of a safetensors file of its length.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let unusable = |problem: String| {
            let problem = format!("not a safetensors file ({problem})");
            Error::file(path, problem, "give a whole .safetensors file; docs/convert.py makes one of a .pth.tar")
        };
        // Before it is opened: opening a pipe waits for someone to write into it.
        let kind = std::fs::metadata(path).map_err(io)?;
        if kind.is_dir() {
            return Err(io(ErrorKind::IsADirectory.into()));
        }
        if !kind.is_file() {
            return Err(unusable("a device or a pipe".into()));
        }
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let Some(rest) = length.checked_sub(8) else { return Err(unusable(format!("{length} bytes long"))) };
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(io)?;
        let size = u64::from_le_bytes(size);
        if size > rest.min(LONGEST_HEADER) {
            return Err(unusable(format!("a header of {size} bytes is announced in a file of {length}")));
        }
        let mut json = vec![0; size as usize];
        file.read_exact(&mut json).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&json).map_err(|e| unusable(format!("header: {e}")))?;
        let Keys(mut keys) = serde_json::from_slice(&json).map_err(|e| unusable(format!("header: {e}")))?;
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(unusable(format!("header: {} stands there twice", pair[0])));
        }
        if header.data_len() as u64 != rest - size {
            let (announced, found) = (header.data_len(), rest - size);
            return Err(unusable(format!("{announced} bytes of tensors are announced, and there are {found}")));
        }
        Ok(WeightFile { path: path.to_owned(), file, header, start: 8 + size })
    }

    /// The file's metadata, if it has any.
    pub fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.header.metadata().as_ref()
    }

    /// The names of the tensors in the order in which they lie in the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Whether there is a tensor called `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// Reads parameters, each from the tensor of its name with the prefix of its module, and says which did not fit.
    /// Tensors whose names start with one of `others` belong to somebody else.
    ///
    /// # Errors
    /// When the file cannot be read; when something does not fit and `fit` is strict (nothing has been changed then),
    /// or nothing at all fits; when a number is not finite in the model's element type. All tensors of which this is
    /// true are named.
    pub fn read_into(&mut self, modules: &mut [(&str, &mut Params)], others: &[&str], fit: Fit) -> Result<Vec<Misfit>> {
        let mut misfits = Vec::new();
        let mut expected = HashSet::new();
        for (prefix, param) in modules.iter().flat_map(|(prefix, module)| module.iter().map(move |p| (prefix, p))) {
            let name = format!("{prefix}{}", param.name);
            if let Some(reason) = misfit(self.header.info(&name), param.value.shape()) {
                misfits.push(Misfit { name: name.clone(), reason });
            }
            expected.insert(name);
        }
        let fits = misfits.len() < expected.len();
        let ours = |name: &String| !expected.contains(name) && !others.iter().any(|prefix| name.starts_with(prefix));
        let unexpected = self.names().into_iter().filter(ours);
        misfits.extend(unexpected.map(|name| Misfit { name, reason: Reason::Unexpected }));
        if !misfits.is_empty() && (fit == Fit::Strict || !fits) {
            return Err(self.unfit(&misfits, "give the file of a model with these sizes"));
        }

        let left_out: HashSet<&str> = misfits.iter().map(|m| m.name.as_str()).collect();
        let mut not_finite = Vec::new();
        for (prefix, module) in modules.iter_mut() {
            for param in module.iter_mut() {
                let name = format!("{prefix}{}", param.name);
                if left_out.contains(name.as_str()) {
                    continue;
                }
                self.read(&name, &mut param.value)?;
                if !param.value.is_finite() {
                    not_finite.push(format!("{name} has values that are not finite"));
                }
            }
        }
        match not_finite.is_empty() {
            true => Ok(misfits),
            false => Err(self.unfit(&not_finite, "these weights cannot compute anything")),
        }
    }

    /// A tensor of whatever shape it has in the file.
    ///
    /// # Errors
    /// When there is none of that name, its elements are not floating-point numbers, it has too many dimensions, or the
    /// file cannot be read.
    pub fn tensor(&mut self, name: &str, dtype: DType) -> Result<Tensor> {
        let misfit = |reason| self.unfit(&[Misfit { name: name.to_owned(), reason }], "give a file that has it");
        let Some(info) = self.header.info(name) else { return Err(misfit(Reason::Missing)) };
        if info.shape.len() > MAX_RANK {
            let problem = format!("{name} has {} dimensions; {MAX_RANK} is the most", info.shape.len());
            return Err(Error::file(&self.path, problem, "reshape it"));
        }
        if !readable(info.dtype) {
            return Err(misfit(Reason::Elements(info.dtype)));
        }
        let mut tensor = Tensor::zeros(Shape::new(&info.shape), dtype);
        self.read(name, &mut tensor)?;
        Ok(tensor)
    }

    /// One error about all of these.
    fn unfit(&self, problems: &[impl fmt::Display], hint: &str) -> Error {
        let list: Vec<String> = problems.iter().map(|p| format!("\n    {p}")).collect();
        let tensors = if problems.len() == 1 { "1 tensor does".into() } else { format!("{} tensors do", list.len()) };
        Error::file(&self.path, format!("{tensors} not fit:{}", list.concat()), hint)
    }

    /// Overwrites `tensor` with the elements of the one called `name`, which is in the file, of as many readable
    /// elements.
    fn read(&mut self, name: &str, tensor: &mut Tensor) -> Result<()> {
        let info = self.header.info(name).expect("checked by the caller").clone();
        let done = match tensor.dtype() {
            DType::F32 => self.elements(&info, tensor.as_mut_slice::<f32>()),
            DType::F64 => self.elements(&info, tensor.as_mut_slice::<f64>()),
        };
        done.map_err(|e| Error::io("read", &self.path, e))
    }

    /// The elements of a tensor, rounded to the nearest of type `T`. From f32 to f32 nothing is rounded.
    fn elements<T: Real>(&mut self, info: &TensorInfo, out: &mut [T]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.start + info.data_offsets.0 as u64))?;
        match info.dtype {
            Dtype::F64 => convert(&mut self.file, out, f64::from_le_bytes),
            Dtype::F32 => convert(&mut self.file, out, |bytes| f32::from_le_bytes(bytes).into()),
            Dtype::F16 => convert(&mut self.file, out, |bytes| from_f16(u16::from_le_bytes(bytes)).into()),
            Dtype::BF16 => convert(&mut self.file, out, |bytes| from_bf16(u16::from_le_bytes(bytes)).into()),
            other => unreachable!("{other:?} was refused"),
        }
    }
}

/// Fills `out` with numbers of N bytes each from where the file stands.
fn convert<const N: usize, T: Real>(file: &mut File, out: &mut [T], number: impl Fn([u8; N]) -> f64) -> io::Result<()> {
    let mut bytes = vec![0; BLOCK.min(out.len() * N)];
    for out in out.chunks_mut(BLOCK / N) {
        let bytes = &mut bytes[..out.len() * N];
        file.read_exact(bytes)?;
        out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(x, bytes)| *x = T::from_f64(number(*bytes)));
    }
    Ok(())
}

fn readable(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Why a tensor of the file cannot fill a parameter of this shape.
fn misfit(info: Option<&TensorInfo>, shape: &Shape) -> Option<Reason> {
    match info {
        None => Some(Reason::Missing),
        Some(info) if info.shape != shape[..] => Some(Reason::Shape { file: info.shape.clone(), model: *shape }),
        Some(info) => (!readable(info.dtype)).then_some(Reason::Elements(info.dtype)),
    }
}

/// IEEE binary16: a sign, 5 bits of exponent with bias 15, 10 bits of fraction. Every one of them is an f32.
fn from_f16(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(bits >> 15) << 31, u32::from(bits >> 10) & 31, u32::from(bits) & 1023);
    let magnitude = match exponent {
        0 => (fraction as f32 * 2f32.powi(-24)).to_bits(), // subnormal in f16, normal in f32
        31 => 255 << 23 | fraction << 13,                  // infinite or NaN
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// bfloat16: the upper half of an f32.
fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The keys of a JSON object as they stand there. (The header's map keeps only the last of two that are alike.)
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The prefixes under which an encoder can lie in a file, the evaluated one first: with a target encoder, it is the one
/// (appendix C.1). Plain names come last.
const PREFIXES: [&str; 4] = ["target_encoder.", "encoder.", "model.", ""];
/// The prefixes of what else is in a file of several modules.
const MODULES: [&str; 3] = ["target_encoder.", "encoder.", "predictor."];

/// An encoder out of a file.
#[derive(Clone, Debug)]
pub struct LoadedEncoder {
    /// What is computed.
    pub encoder: Encoder,
    /// With what.
    pub params: Params,
    /// The prefix of its names in the file.
    pub prefix: &'static str,
    /// What did not fit; empty after a strict reading.
    pub left_out: Vec<Misfit>,
}

/// An encoder of these sizes with fresh parameters: the one that [`fresh_model`](super::fresh_model) makes of that seed.
///
/// # Errors
/// When the sizes do not fit together.
pub fn fresh_encoder(sizes: &EncoderConfig, linear: LinearInit, seed: u64) -> Result<(Encoder, Params)> {
    if let Some(problem) = sizes.problem() {
        return Err(Error::config(problem, "choose sizes that fit together, or a preset"));
    }
    let (mut params, mut rng) = (Params::new(), stream(seed, Purpose::Init, [0, 0]));
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F32, linear };
    let encoder = Encoder::new(sizes, &mut init);
    Ok((encoder, params))
}

/// Reads an encoder of these sizes from a file with the official names: plain, or after `target_encoder.` (preferred),
/// `encoder.` or `model.`. It has a class token if the file has one, whatever `sizes` says. What a partial reading
/// leaves out keeps the values of [`fresh_encoder`] with normal draws and seed 0.
///
/// # Errors
/// As of [`WeightFile::read_into`], and when the sizes do not fit together.
pub fn load_encoder(path: &Path, sizes: &EncoderConfig, fit: Fit) -> Result<LoadedEncoder> {
    let mut file = WeightFile::open(path)?;
    let found = PREFIXES.into_iter().find(|prefix| file.contains(&format!("{prefix}patch_embed.proj.weight")));
    let prefix = found.unwrap_or("");
    let class_token = file.contains(&format!("{prefix}cls_token"));
    let sizes = EncoderConfig { class_token, ..sizes.clone() };
    let (encoder, mut params) = fresh_encoder(&sizes, LinearInit::Normal, 0)?;
    let others: Vec<&str> = MODULES.into_iter().filter(|other| *other != prefix).collect();
    let left_out = file.read_into(&mut [(prefix, &mut params)], &others, fit)?;
    Ok(LoadedEncoder { encoder, params, prefix, left_out })
}
