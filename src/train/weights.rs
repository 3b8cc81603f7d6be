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
            let hint = "give the file of a model with these sizes; with --preset, --partial reads what fits";
            return Err(self.unfit(&misfits, hint));
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
        31 => (255 << 23) | (fraction << 13),              // infinite or NaN
        _ => ((exponent + 127 - 15) << 23) | (fraction << 13),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Role;
    use crate::vit::Preset;

    /// A file of its own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, bytes: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("stop-mim-weights-{}-{name}", std::process::id()));
            std::fs::write(&path, bytes).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).unwrap();
        }
    }

    /// A file by hand: any header, any data.
    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    /// A file with these tensors one after the other: name, element type, shape, bytes.
    fn file_of(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut entry = |(name, dtype, shape, bytes): &(&str, &str, &[usize], Vec<u8>)| {
            let start = data.len();
            data.extend(bytes);
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len())
        };
        let entries: Vec<String> = tensors.iter().map(&mut entry).collect();
        raw(&format!("{{{}}}", entries.join(",")), &data)
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// Parameters a \[2, 2\], b \[3\], c \[1\], all −1.
    fn three(dtype: DType) -> Params {
        let mut params = Params::new();
        for (name, shape) in [("a", &[2usize, 2][..]), ("b", &[3]), ("c", &[1])] {
            params.add(name, Tensor::full(shape, -1.0, dtype), Role::Trained);
        }
        params
    }

    fn values(params: &Params, name: &str) -> Vec<f64> {
        params.get(name).unwrap().value.to_f64_vec()
    }

    /// (−1)ˢ 2^(e − bias) (1 + f/2ⁿ), said plainly, for a sign bit, `exponent` bits and `fraction` bits.
    fn naive(bits: u16, exponent: u32, fraction: u32) -> f64 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let (most, bias) = ((1i32 << exponent) - 1, (1i32 << (exponent - 1)) - 1);
        let e = (i32::from(bits) >> fraction) & most;
        let f = f64::from(bits & ((1 << fraction) - 1)) / 2f64.powi(fraction as i32);
        match e {
            0 => sign * f * 2f64.powi(1 - bias),
            e if e == most && f == 0.0 => sign * f64::INFINITY,
            e if e == most => f64::NAN,
            e => sign * (1.0 + f) * 2f64.powi(e - bias),
        }
    }

    #[test]
    fn every_half_precision_number() {
        for bits in 0..=u16::MAX {
            for (found, exact) in [(from_f16(bits), naive(bits, 5, 10)), (from_bf16(bits), naive(bits, 8, 7))] {
                let found = f64::from(found);
                let same = found.to_bits() == exact.to_bits() || (found.is_nan() && exact.is_nan());
                assert!(same, "{bits:#06x} is {exact}, not {found}");
            }
        }
    }

    #[test]
    fn every_element_type_reaches_either_type_of_parameter() {
        let long: Vec<f32> = (0..300_001).map(|i| i as f32 * 0.1 - 7.0).collect(); // more than a block
        let file = Scratch::new(
            "types",
            &file_of(&[
                ("half", "F16", &[2], [0x3c00u16, 0xc400].iter().flat_map(|x| x.to_le_bytes()).collect()),
                ("brain", "BF16", &[2], [0x3f80u16, 0xc0a0].iter().flat_map(|x| x.to_le_bytes()).collect()),
                ("single", "F32", &[300_001], f32s(&long)),
                ("double", "F64", &[1], 0.1f64.to_le_bytes().to_vec()),
            ]),
        );
        for dtype in [DType::F32, DType::F64] {
            let mut params = Params::new();
            for (name, n) in [("double", 1), ("single", 300_001), ("brain", 2), ("half", 2)] {
                params.add(name, Tensor::zeros([n], dtype), Role::Trained);
            }
            let mut open = WeightFile::open(&file.0).unwrap();
            assert_eq!(open.read_into(&mut [("", &mut params)], &[], Fit::Strict).unwrap(), []);
            assert_eq!((values(&params, "half"), values(&params, "brain")), (vec![1.0, -4.0], vec![1.0, -5.0]));
            assert!(values(&params, "single").iter().zip(&long).all(|(x, y)| *x == f64::from(*y)));
            let tenth = if dtype == DType::F32 { f64::from(0.1f32) } else { 0.1 };
            assert_eq!(values(&params, "double"), [tenth]);
        }
        let single = WeightFile::open(&file.0).unwrap().tensor("single", DType::F32).unwrap();
        assert_eq!(single.as_slice::<f32>(), long);
    }

    /// a is misshapen, b is of integers, c is missing, d is unexpected; `other.x` is somebody else's.
    fn unfit() -> Vec<u8> {
        file_of(&[
            ("m.a", "F32", &[4], f32s(&[1.0; 4])),
            ("m.b", "I32", &[3], vec![0; 12]),
            ("m.d", "F32", &[1], f32s(&[1.0])),
            ("other.x", "F32", &[1], f32s(&[1.0])),
        ])
    }

    #[test]
    fn one_error_names_all_that_does_not_fit_and_nothing_is_changed() {
        let file = Scratch::new("strict", &unfit());
        for (others, count) in [(&["other."][..], "4 tensors do not fit"), (&[], "5 tensors do not fit")] {
            let mut params = three(DType::F32);
            let mut open = WeightFile::open(&file.0).unwrap();
            let error = open.read_into(&mut [("m.", &mut params)], others, Fit::Strict).unwrap_err().to_string();
            let (a, b) = ("m.a is [4] instead of [2, 2]", "m.b is of I32");
            for words in [count, a, b, "m.c is missing", "m.d is unexpected", "strict"] {
                assert!(error.contains(words), "no '{words}' in {error}");
            }
            assert_eq!(error.contains("other.x is unexpected"), others.is_empty());
            assert!(["a", "b", "c"].iter().all(|name| values(&params, name).iter().all(|x| *x == -1.0)));
        }
    }

    #[test]
    fn a_partial_reading_says_what_was_left_out() {
        let fitting = ("c", "F32", &[1usize][..], f32s(&[5.0]));
        let good = file_of(&[("a", "F32", &[4], f32s(&[1.0; 4])), fitting, ("d", "U8", &[1], vec![0])]);
        let file = Scratch::new("partial", &good);
        let mut params = three(DType::F32);
        let mut open = WeightFile::open(&file.0).unwrap();
        let left_out = open.read_into(&mut [("", &mut params)], &[], Fit::Partial).unwrap();
        let shape = Reason::Shape { file: vec![4], model: Shape::new(&[2, 2]) };
        let expected = [("a", shape), ("b", Reason::Missing), ("d", Reason::Unexpected)];
        assert_eq!(left_out, expected.map(|(name, reason)| Misfit { name: name.into(), reason }));
        assert_eq!(left_out.iter().map(Misfit::in_model).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!((values(&params, "a"), values(&params, "c")), (vec![-1.0; 4], vec![5.0]));

        let file = Scratch::new("nothing", &unfit());
        let mut open = WeightFile::open(&file.0).unwrap();
        let error = open.read_into(&mut [("m.", &mut params)], &[], Fit::Partial).unwrap_err().to_string();
        assert!(error.contains("5 tensors do not fit"), "{error}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_named_tensor_by_tensor() {
        let huge = 1e300f64.to_le_bytes().to_vec(); // infinite in f32
        let a = f32s(&[0.0, f32::NAN, 0.0, 0.0]);
        let b = f32s(&[0.0, 0.0, f32::NEG_INFINITY]);
        let bytes = file_of(&[("a", "F32", &[2, 2], a), ("b", "F32", &[3], b), ("c", "F64", &[1], huge)]);
        let file = Scratch::new("nan", &bytes);
        for (dtype, count) in [(DType::F32, "3 tensors"), (DType::F64, "2 tensors")] {
            let mut open = WeightFile::open(&file.0).unwrap();
            let mut params = three(dtype);
            let error = open.read_into(&mut [("", &mut params)], &[], Fit::Partial).unwrap_err().to_string();
            assert!(error.contains(count) && error.contains("a has values that are not finite"), "{error}");
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        let good = file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0])), ("b", "F16", &[1], vec![0, 0])]);
        let refused = |bytes: &[u8]| {
            let file = Scratch::new("damaged", bytes);
            let error = WeightFile::open(&file.0).unwrap_err().to_string();
            assert!(error.contains("damaged") && error.contains("not a safetensors file"), "{error}");
            error
        };
        for end in 0..good.len() {
            refused(&good[..end]);
        }
        refused(&[&good[..], &[0]].concat());
        for size in [0, 3, good.len() as u64 - 7, LONGEST_HEADER + 1, u64::MAX] {
            refused(&[&size.to_le_bytes()[..], &good[8..]].concat());
        }
        let entry = |name: &str, shape: &str, offsets: &str| {
            format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        let headers = [
            ("overlapping", entry("a", "[1]", "[0,4]") + "," + &entry("b", "[1]", "[2,6]"), 6),
            ("the same place twice", entry("a", "[1]", "[0,4]") + "," + &entry("b", "[1]", "[0,4]"), 4),
            ("a hole", entry("a", "[1]", "[0,4]") + "," + &entry("b", "[1]", "[8,12]"), 12),
            ("backwards", entry("a", "[1]", "[4,0]"), 4),
            ("a shape of other length", entry("a", "[3]", "[0,4]"), 4),
            ("past the end", entry("a", "[3]", "[0,12]"), 8),
            ("a shape that overflows", entry("a", "[4294967296,4294967296]", "[0,0]"), 0),
            ("a negative size", entry("a", "[-1]", "[0,4]"), 4),
            ("an offset beyond 64 bits", entry("a", "[1]", "[0,99999999999999999999]"), 4),
            ("a name twice, data once", entry("a", "[1]", "[0,4]") + "," + &entry("a", "[1]", "[0,4]"), 4),
            ("a name twice", entry("a", "[1]", "[0,4]") + "," + &entry("a", "[1]", "[4,8]"), 8),
            ("an unknown type", entry("a", "[1]", "[0,4]").replace("F32", "F33"), 4),
            ("no object", r#""a":7"#.into(), 0),
        ];
        for (what, entries, bytes) in headers {
            let error = refused(&raw(&format!("{{{entries}}}"), &vec![0; bytes]));
            assert!(what != "a name twice, data once" || error.contains("a stands there twice"), "{what}: {error}");
        }
        refused(&raw("[]", &[]));
        refused(&raw(&"[".repeat(100_000), &[]));
        refused(&[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat());
        // Calm where there is nothing wrong: no tensors at all, or empty ones.
        for fine in [raw("{}", &[]), raw(&format!("{{{}}}", entry("a", "[0,7]", "[0,0]")), &[])] {
            assert!(WeightFile::open(&Scratch::new("fine", &fine).0).is_ok());
        }
        assert!(matches!(WeightFile::open(&std::env::temp_dir()), Err(Error::Io { .. })));
    }

    /// A file that shrinks after its header was read.
    #[test]
    fn a_file_cut_while_it_is_read_is_an_error() {
        let file = Scratch::new("shrinking", &file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0]))]));
        let mut open = WeightFile::open(&file.0).unwrap();
        let cut = std::fs::metadata(&file.0).unwrap().len() - 1;
        File::options().write(true).open(&file.0).unwrap().set_len(cut).unwrap();
        assert!(matches!(open.tensor("a", DType::F32), Err(Error::Io { action: "read", .. })));
    }

    #[test]
    fn a_lone_tensor_is_there_readable_and_of_a_rank_that_tensors_have() {
        let ranks = [1; MAX_RANK + 1];
        let bytes = file_of(&[("deep", "F32", &ranks, f32s(&[1.0])), ("whole", "I64", &[1], vec![0; 8])]);
        let file = Scratch::new("lone", &bytes);
        let mut open = WeightFile::open(&file.0).unwrap();
        for (name, words) in [("none", "missing"), ("deep", "dimensions"), ("whole", "I64")] {
            let error = open.tensor(name, DType::F32).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
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
        let all: Vec<_> = all.iter().map(|(name, shape, x)| (name.as_str(), "F32", &shape[..], x.clone())).collect();
        Scratch::new(name, &file_of(&all))
    }

    #[test]
    fn an_encoder_is_found_under_any_of_its_prefixes_the_target_first() {
        let sizes = tiny();
        let fresh = |seed| fresh_encoder(&sizes, LinearInit::Normal, seed).unwrap().1;
        let (context, target) = (fresh(1), fresh(2));
        let same = |a: &Params, b: &Params| a.iter().zip(b.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0);
        for prefix in PREFIXES {
            let file = encoder_file("prefix", &[(prefix, &context)]);
            let loaded = load_encoder(&file.0, &sizes, Fit::Strict).unwrap();
            assert_eq!((loaded.prefix, loaded.left_out.len()), (prefix, 0));
            assert!(same(&loaded.params, &context));
        }
        let file =
            encoder_file("both", &[("encoder.", &context), ("target_encoder.", &target), ("predictor.", &context)]);
        assert!(same(&load_encoder(&file.0, &sizes, Fit::Strict).unwrap().params, &target));
    }

    #[test]
    fn the_file_decides_about_the_class_token() {
        for class_token in [false, true] {
            let sizes = EncoderConfig { class_token, ..tiny() };
            let (_, params) = fresh_encoder(&sizes, LinearInit::Xavier, 3).unwrap();
            let file = encoder_file("class", &[("", &params)]);
            let asked = EncoderConfig { class_token: !class_token, ..tiny() };
            let loaded = load_encoder(&file.0, &asked, Fit::Strict).unwrap();
            assert_eq!(loaded.encoder.config(), &sizes);
        }
    }

    #[test]
    fn sizes_that_cannot_be_or_are_not_the_files() {
        let (_, params) = fresh_encoder(&tiny(), LinearInit::Normal, 0).unwrap();
        let file = encoder_file("sizes", &[("", &params)]);
        let impossible = EncoderConfig { heads: 3, ..tiny() };
        assert!(matches!(load_encoder(&file.0, &impossible, Fit::Partial), Err(Error::Config { .. })));
        let deeper = EncoderConfig { depth: 2, ..tiny() };
        let error = load_encoder(&file.0, &deeper, Fit::Strict).unwrap_err().to_string();
        assert!(
            error.contains("12 tensors do not fit") && error.contains("blocks.1.mlp.fc2.bias is missing"),
            "{error}"
        );
        assert_eq!(load_encoder(&file.0, &deeper, Fit::Partial).unwrap().left_out.len(), 12);
    }

    #[test]
    fn a_fresh_encoder_is_the_fresh_models() {
        let config = crate::methods::ModelConfig {
            method: crate::methods::Method::Ijepa { target_blocks: 1 },
            encoder: tiny(),
            predictor: Preset::Toy.sizes().1,
            linear_init: LinearInit::Normal,
        };
        let mut rng = stream(9, Purpose::Init, [0, 0]);
        let (_, params) = crate::methods::Model::new(&config, DType::F32, &mut rng).unwrap();
        let (_, alone) = fresh_encoder(&tiny(), LinearInit::Normal, 9).unwrap();
        assert!(params.encoder.iter().zip(alone.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    }
}
