//! Reading, tensor by tensor.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::header::{Header, checksums};
use super::mismatch::{listed, shown};
use super::{Fit, Mismatch, Passed, Reason};
use crate::kernels::MAX_RANK;
use crate::tensor::{DType, Real, Shape, Tensor};
use crate::{Error, Result, files};

/// The longest header that the format allows.
const LONGEST_HEADER: u64 = 100_000_000;
/// Bytes that are converted at a time. A multiple of every element's size.
const BLOCK: usize = 1 << 20;

/// A parameter to fill, and the names under which it lies in a file: one, or those of parts of the same shape that are put
/// together along the first axis, as a projection to queries, keys and values is.
#[derive(Debug)]
pub(in crate::train) struct Place<'a> {
    /// At least one.
    pub names: Vec<String>,
    pub value: &'a mut Tensor,
}

impl<'a> Place<'a> {
    /// One that lies in the file whole.
    pub fn whole(name: String, value: &'a mut Tensor) -> Self {
        Place { names: vec![name], value }
    }
}

/// An open safetensors file: what is in it, and where.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    /// What every error about the content advises.
    hint: &'static str,
    file: File,
    header: Metadata,
    /// Where the elements start.
    start: u64,
    /// Checksums by name; `None` in a file without.
    sums: Option<HashMap<String, String>>,
}

impl TensorFile {
    /// Opens a file and reads its header; no tensor is touched. Errors about what it holds advise `hint`.
    ///
    /// # Errors
    /// When it is no ordinary file or cannot be read, its header is not that of a safetensors file of its length, or its
    /// metadata do not have their checksum.
    pub fn open(path: &Path, hint: &'static str) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let unusable = |problem: String| Error::file(path, problem, hint);
        let no_header = |problem: String| unusable(format!("not a safetensors file ({problem})"));
        // A run's folder is taken for its checkpoint before long by everyone.
        let whole = path.join("checkpoint.safetensors");
        if whole.is_file() {
            return Err(Error::file(path, "is a folder, not a file", format!("give {}", whole.display())));
        }
        files::ordinary(path, hint)?;
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let Some(rest) = length.checked_sub(8) else { return Err(no_header(format!("{length} bytes long"))) };
        let mut size = [0; 8];
        file.read_exact(&mut size).map_err(io)?;
        if size.starts_with(b"PK\x03\x04") || size.starts_with(&[0x80, 2]) {
            let hint = "make one of it: python docs/convert.py from-torch FILE OUT.safetensors";
            return Err(Error::file(path, "a file of PyTorch's, not a safetensors file", hint));
        }
        let size = u64::from_le_bytes(size);
        if size > rest.min(LONGEST_HEADER) {
            return Err(no_header(format!("a header of {size} bytes is announced in a file of {length}")));
        }
        let mut json = vec![0; size as usize];
        file.read_exact(&mut json).map_err(io)?;
        let Header(header) =
            serde_json::from_slice(&json).map_err(|e| no_header(format!("header: {}", shown(&e.to_string()))))?;
        if header.data_len() as u64 != rest - size {
            let (announced, found) = (header.data_len(), rest - size);
            return Err(no_header(format!("{announced} bytes of tensors are announced, and there are {found}")));
        }
        let sums = header.metadata().as_ref().map_or(Ok(None), checksums).map_err(unusable)?;
        Ok(TensorFile { path: path.to_owned(), hint, file, header, start: 8 + size, sums })
    }

    /// Where it is.
    pub(in crate::train) fn path(&self) -> &Path {
        &self.path
    }

    /// From here on, errors about what the file holds advise this.
    pub(in crate::train) fn advise(&mut self, hint: &'static str) {
        self.hint = hint;
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

    /// The bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.header.data_len() as u64
    }

    /// Overwrites each of `places` with the tensors of its names, and says which were left out. Of the other tensors in
    /// the file, those are unexpected of which `unexpected` says so.
    ///
    /// # Errors
    /// When the file cannot be read; when something does not fit and `fit` is strict, or nothing at all fits; when a
    /// tensor is damaged or not finite. All tensors of which this is true are named (of thousands, the first thousand).
    /// Some of the places have been overwritten then: they are the caller's to drop.
    pub(in crate::train) fn fill(
        &mut self,
        places: Vec<Place>,
        unexpected: &dyn Fn(&str) -> bool,
        fit: Fit,
    ) -> Result<Vec<Mismatch>> {
        let expected: HashSet<String> = places.iter().flat_map(|place| place.names.iter().cloned()).collect();
        let mut mismatches = Vec::new();
        for Place { names, value } in places {
            let mut shape = value.shape().to_vec();
            if names.len() > 1 {
                shape[0] /= names.len();
            }
            for (part, name) in names.into_iter().enumerate() {
                mismatches.extend(self.read(&name, value, &shape, part)?.map(|reason| Mismatch { name, reason }));
            }
        }
        let some_fit = mismatches.len() < expected.len();
        let unexpected = self.names().into_iter().filter(|name| !expected.contains(name) && unexpected(name));
        mismatches.extend(unexpected.map(|name| Mismatch { name, reason: Reason::Unexpected }));
        let allowed = |mismatch: &Mismatch| fit == Fit::Partial && some_fit && mismatch.reason.can_be_left_out();
        let (left_out, wrong): (Vec<_>, Vec<_>) = mismatches.into_iter().partition(allowed);
        if wrong.is_empty() { Ok(left_out) } else { Err(self.unusable(&wrong)) }
    }

    /// Whether every one of `places` has its tensors here, in its shape: as the header says, nothing is read.
    pub(in crate::train) fn fits(&self, places: &[Place]) -> bool {
        let fits = |place: &Place, name: &String| {
            let parts = place.names.len();
            self.info(name).is_ok_and(|info| {
                let mut shape = info.shape;
                if let Some(rows) = shape.first_mut() {
                    *rows = rows.saturating_mul(parts);
                }
                shape == place.value.shape()[..]
            })
        };
        places.iter().all(|place| place.names.iter().all(|name| fits(place, name)))
    }

    /// The shape of a tensor as the header has it: nothing else is read.
    ///
    /// # Errors
    /// When there is none of that name, or its elements are not floating-point numbers.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let mismatch = |reason| [Mismatch { name: name.to_owned(), reason }];
        self.info(name).map(|info| info.shape).map_err(|reason| self.unusable(&mismatch(reason)))
    }

    /// A tensor of whatever shape it has in the file.
    ///
    /// # Errors
    /// When there is none of that name, its elements are not floating-point numbers or not finite, it has too many
    /// dimensions, it takes more memory than there is, it is damaged, or the file cannot be read.
    pub fn tensor(&mut self, name: &str, dtype: DType) -> Result<Tensor> {
        let shape = self.shape(name)?;
        if shape.len() > MAX_RANK {
            let problem = format!("{} has {} dimensions; {MAX_RANK} is the most", shown(name), shape.len());
            return Err(Error::file(&self.path, problem, "reshape it"));
        }
        // Memory that cannot be had ends the process, unless it is asked for like this.
        let of_each = match dtype {
            DType::F32 => size_of::<f32>(),
            DType::F64 => size_of::<f64>(),
        };
        let bytes = shape.iter().product::<usize>().saturating_mul(of_each);
        if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
            let problem = format!("{} is {shape:?}, for which there is not enough memory", shown(name));
            return Err(Error::file(&self.path, problem, "make a file of a part of it"));
        }
        let mut tensor = Tensor::zeros(Shape::new(&shape), dtype);
        match self.read(name, &mut tensor, &shape, 0)? {
            None => Ok(tensor),
            Some(reason) => Err(self.unusable(&[Mismatch { name: name.to_owned(), reason }])),
        }
    }

    fn unusable(&self, mismatches: &[Mismatch]) -> Error {
        let all = |what: fn(&Reason) -> bool| mismatches.iter().all(|mismatch| what(&mismatch.reason));
        let hint = match () {
            () if all(|reason| !reason.can_be_left_out()) => "take another copy of the file, or an earlier one",
            () if all(|reason| matches!(reason, Reason::Elements(_))) => "convert it to floating point, such as F32",
            () => self.hint,
        };
        Error::file(&self.path, listed(mismatches), hint)
    }

    /// What the header says of a tensor that can be read.
    fn info(&self, name: &str) -> Result<TensorInfo, Reason> {
        let info = self.header.info(name).ok_or(Reason::Missing)?;
        match info.dtype {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(info.clone()),
            other => Err(Reason::Elements(other)),
        }
    }

    /// Overwrites part number `part` of `place` with the tensor called `name`, or says why not; every part is of `shape`.
    /// What is damaged or not finite is seen only when it is there.
    fn read(&mut self, name: &str, place: &mut Tensor, shape: &[usize], part: usize) -> Result<Option<Reason>> {
        let info = match self.info(name) {
            Err(reason) => return Ok(Some(reason)),
            Ok(info) if info.shape != shape => {
                return Ok(Some(Reason::Shape { file: info.shape, model: Shape::new(shape) }));
            }
            Ok(info) => info,
        };
        let elements = shape.iter().product::<usize>();
        let part = part * elements..(part + 1) * elements;
        let passed = match place.dtype() {
            DType::F32 => self.elements(&info, &mut place.as_mut_slice::<f32>()[part]),
            DType::F64 => self.elements(&info, &mut place.as_mut_slice::<f64>()[part]),
        };
        let passed = passed.map_err(|e| Error::io("read", &self.path, e))?;
        let whole = self.sums.as_ref().is_none_or(|sums| sums.get(name) == Some(&passed.checksum()));
        Ok(match (whole, passed.finite) {
            (false, _) => Some(Reason::Damaged),
            (true, false) => Some(Reason::NotFinite),
            (true, true) => None,
        })
    }

    /// The elements of a tensor, rounded to the nearest of type `T`. From f32 to f32 nothing is rounded.
    fn elements<T: Real>(&mut self, info: &TensorInfo, out: &mut [T]) -> io::Result<Passed> {
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
fn convert<const N: usize, T: Real>(
    file: &mut File,
    out: &mut [T],
    number: impl Fn([u8; N]) -> f64,
) -> io::Result<Passed> {
    let mut bytes = vec![0; BLOCK.min(out.len() * N)];
    let mut passed = Passed::nothing();
    for out in out.chunks_mut(BLOCK / N) {
        let bytes = &mut bytes[..out.len() * N];
        file.read_exact(bytes)?;
        passed.crc.update(bytes);
        out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(x, bytes)| *x = T::from_f64(number(*bytes)));
        passed.finite &= out.iter().fold(true, |finite, x| finite & x.is_finite());
    }
    Ok(passed)
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, f32s, file_of, raw};
    use super::*;

    fn open(file: &Scratch) -> TensorFile {
        TensorFile::open(&file.0, "a hint").unwrap()
    }

    /// a \[2, 2\], b \[3\], c \[1\], all −1.
    fn three(dtype: DType) -> [(&'static str, Tensor); 3] {
        [("a", &[2usize, 2][..]), ("b", &[3]), ("c", &[1])]
            .map(|(name, shape)| (name, Tensor::full(shape, -1.0, dtype)))
    }

    /// Places with a prefix before their names.
    fn places<'a>(prefix: &str, tensors: &'a mut [(&'static str, Tensor)]) -> Vec<Place<'a>> {
        tensors.iter_mut().map(|(name, tensor)| Place::whole(format!("{prefix}{name}"), tensor)).collect()
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
        let halves = |bits: [u16; 2]| bits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let file = Scratch::new(
            "types",
            &file_of(&[
                ("half", "F16", &[2], halves([0x3c00, 0xc400])),
                ("brain", "BF16", &[2], halves([0x3f80, 0xc0a0])),
                ("single", "F32", &[300_001], f32s(&long)),
                ("double", "F64", &[1], 0.1f64.to_le_bytes().to_vec()),
            ]),
        );
        for dtype in [DType::F32, DType::F64] {
            let mut all = [("double", 1), ("single", 300_001), ("brain", 2), ("half", 2)]
                .map(|(name, n)| (name, Tensor::zeros([n], dtype)));
            assert_eq!(open(&file).fill(places("", &mut all), &|_| true, Fit::Strict).unwrap(), []);
            let [double, single, brain, half] = all.map(|(_, x)| x.to_f64_vec());
            assert_eq!((half, brain), (vec![1.0, -4.0], vec![1.0, -5.0]));
            assert!(single.iter().zip(&long).all(|(x, y)| *x == f64::from(*y)));
            assert_eq!(double, [if dtype == DType::F32 { f64::from(0.1f32) } else { 0.1 }]);
        }
        assert_eq!(open(&file).tensor("single", DType::F32).unwrap().as_slice::<f32>(), long);
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
    fn one_error_names_all_that_does_not_fit() {
        let file = Scratch::new("strict", &unfit());
        for (others, count) in [("other.", "4 tensors cannot"), ("another.", "5 tensors cannot")] {
            let mut all = three(DType::F32);
            let unexpected = |name: &str| !name.starts_with(others);
            let error = open(&file).fill(places("m.", &mut all), &unexpected, Fit::Strict).unwrap_err().to_string();
            let (a, b) = ("m.a is [4] instead of [2, 2]", "m.b is of I32");
            for words in [count, a, b, "m.c is missing", "m.d is unexpected", "strict", "a hint"] {
                assert!(error.contains(words), "no '{words}' in {error}");
            }
            assert_eq!(error.contains("other.x is unexpected"), others == "another.");
            assert!(all.iter().all(|(_, x)| x.to_f64_vec().iter().all(|x| *x == -1.0)));
        }
    }

    #[test]
    fn a_partial_reading_says_what_was_left_out() {
        let fitting = ("c", "F32", &[1usize][..], f32s(&[5.0]));
        let good = file_of(&[("a", "F32", &[4], f32s(&[1.0; 4])), fitting, ("d", "U8", &[1], vec![0])]);
        let mut all = three(DType::F32);
        let left_out =
            open(&Scratch::new("partial", &good)).fill(places("", &mut all), &|_| true, Fit::Partial).unwrap();
        let shape = Reason::Shape { file: vec![4], model: Shape::new(&[2, 2]) };
        let expected = [("a", shape), ("b", Reason::Missing), ("d", Reason::Unexpected)];
        assert_eq!(left_out, expected.map(|(name, reason)| Mismatch { name: name.into(), reason }));
        assert_eq!(left_out.iter().map(Mismatch::in_model).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(all.each_ref().map(|(_, x)| x.to_f64_vec()), [vec![-1.0; 4], vec![-1.0; 3], vec![5.0]]);

        let nothing = open(&Scratch::new("nothing", &unfit())).fill(places("m.", &mut all), &|_| true, Fit::Partial);
        let error = nothing.unwrap_err().to_string();
        assert!(error.contains("5 tensors cannot"), "{error}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_named_tensor_by_tensor() {
        let huge = 1e300f64.to_le_bytes().to_vec(); // infinite in f32
        let a = f32s(&[0.0, f32::NAN, 0.0, 0.0]);
        let b = f32s(&[0.0, 0.0, f32::NEG_INFINITY]);
        let bytes = file_of(&[("a", "F32", &[2, 2], a), ("b", "F32", &[3], b), ("c", "F64", &[1], huge)]);
        let file = Scratch::new("nan", &bytes);
        for (dtype, count) in [(DType::F32, "3 tensors"), (DType::F64, "2 tensors")] {
            let filled = open(&file).fill(places("", &mut three(dtype)), &|_| true, Fit::Partial);
            let error = filled.unwrap_err().to_string();
            for words in [count, "a has values that are not finite", "another copy"] {
                assert!(error.contains(words), "{error}");
            }
        }
        let mut long = vec![0.0; 300_001]; // more than a block
        long[0] = f32::NAN;
        let long = Scratch::new("long-nan", &file_of(&[("x", "F32", &[300_001], f32s(&long))]));
        assert!(open(&long).tensor("x", DType::F32).unwrap_err().to_string().contains("not finite"));
        for bits in [0x7c00u16, 0xfc00, 0x7e00] {
            let half = file_of(&[("x", "F16", &[1], bits.to_le_bytes().to_vec())]);
            let error = open(&Scratch::new("half-nan", &half)).tensor("x", DType::F64).unwrap_err().to_string();
            assert!(error.contains("x has values that are not finite"), "{error}");
        }
    }

    /// a \[2, 2\], b \[3\] of 300,001, c \[1\], with checksums.
    fn with_checksums(name: &str) -> (Scratch, [(&'static str, Tensor); 3]) {
        let long = Tensor::from_fn([300_001], DType::F32, |i| i as f64 * 0.1);
        let tensors =
            [("a", Tensor::full([2, 2], 1.0, DType::F32)), ("b", long), ("c", Tensor::zeros([1], DType::F32))];
        let file = Scratch::new(name, &[]);
        let metadata = [("key".to_owned(), "value".to_owned())].into();
        crate::train::safetensors::write(&file.0, metadata, &tensors.each_ref().map(|(n, x)| ((*n).to_owned(), x)))
            .unwrap();
        (file, tensors)
    }

    /// Each tensor, in its first and last byte, with damage that makes it no NaN; partial reading is no way round.
    #[test]
    fn damage_is_named_tensor_by_tensor_with_what_else_is_wrong() {
        let (file, mut tensors) = with_checksums("sums");
        let whole = std::fs::read(&file.0).unwrap();
        assert_eq!(open(&file).fill(places("", &mut tensors), &|_| true, Fit::Strict).unwrap(), []);
        let end = whole.len();
        for (name, at) in
            [("a", end - 4 - 4 * 300_001 - 16), ("b", end - 4 - 4 * 300_001), ("b", end - 8), ("c", end - 4)]
        {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&file.0, bytes).unwrap();
            for fit in [Fit::Strict, Fit::Partial] {
                let error = open(&file).fill(places("", &mut tensors), &|_| true, fit).unwrap_err().to_string();
                let said = format!("1 tensor cannot be used:\n    {name} is damaged");
                assert!(error.contains(&said) && error.contains("another copy"), "{error}");
            }
            let alone = open(&file).tensor(name, DType::F32).unwrap_err().to_string();
            assert!(alone.contains("is damaged"), "{alone}");
        }
        // c is damaged still; and what damage makes infinite is called damaged.
        let mut bytes = whole.clone();
        bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
        std::fs::write(&file.0, bytes).unwrap();
        let mut other = [("a", Tensor::zeros([4], DType::F32)), ("c", Tensor::zeros([1], DType::F32))];
        let error = open(&file).fill(places("", &mut other), &|_| true, Fit::Strict).unwrap_err().to_string();
        for words in ["3 tensors cannot", "a is [2, 2]", "b is unexpected", "c is damaged", "a hint"] {
            assert!(error.contains(words), "no '{words}' in {error}");
        }
    }

    /// A changed value, a changed key, a changed checksum; and one of the two keys alone.
    #[test]
    fn damaged_metadata_are_an_error() {
        let (file, _) = with_checksums("metadata");
        let whole = std::fs::read(&file.0).unwrap();
        let changed = |from: &str, to: &str| {
            let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let bytes = [&whole[..at], to.as_bytes(), &whole[at + from.len()..]].concat();
            std::fs::write(&file.0, bytes).unwrap();
            TensorFile::open(&file.0, "a hint")
        };
        for (from, to) in [("value", "valve"), ("key", "kez"), ("\\\"a\\\":\\\"", "\\\"z\\\":\\\"")] {
            let error = changed(from, to).unwrap_err().to_string();
            assert!(error.contains("its metadata are damaged"), "{error}");
        }
        for (from, to) in [("checksum", "checksun"), ("crc32", "crc33")] {
            let error = changed(from, to).unwrap_err().to_string();
            let other = if from == "crc32" { "checksum" } else { "crc32" };
            assert!(error.contains(&format!("damaged: '{other}' is there without '{from}'")), "{error}");
        }
        assert_eq!(changed("value", "value").unwrap().sums.unwrap().len(), 3);
    }

    /// As after a program that adds a tensor and keeps the metadata.
    #[test]
    fn a_tensor_without_its_checksum_is_damaged_where_others_have_theirs() {
        let (file, _) = with_checksums("added");
        let whole = std::fs::read(&file.0).unwrap();
        let end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let elements = whole.len() - end;
        let added = format!(r#","d":{{"dtype":"F32","shape":[1],"data_offsets":[{elements},{}]}}}}"#, elements + 4);
        let header = std::str::from_utf8(&whole[8..end]).unwrap().trim_end().strip_suffix('}').unwrap();
        let file =
            Scratch::new("added-to", &[raw(&(header.to_owned() + &added), &whole[end..]), f32s(&[1.0])].concat());
        assert!(open(&file).tensor("c", DType::F32).is_ok());
        let error = open(&file).tensor("d", DType::F32).unwrap_err().to_string();
        assert!(error.contains("d is damaged"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors() {
        let good = file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0])), ("b", "F16", &[1], vec![0, 0])]);
        let refused = |bytes: &[u8]| {
            let file = Scratch::new("damaged", bytes);
            let error = TensorFile::open(&file.0, "a hint").unwrap_err().to_string();
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
        let numbered = |n: usize, entry: &dyn Fn(usize) -> String| (0..n).map(entry).collect::<Vec<_>>().join(",");
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
            ("an endless shape", entry("a", &format!("[{}1]", "1,".repeat(64)), "[0,4]"), 4),
            ("metadata twice", r#""__metadata__":{"a":"b","a":"c"}"#.into(), 0),
            (
                "too many metadata",
                format!(r#""__metadata__":{{{}}}"#, numbered(100_001, &|k| format!(r#""{k}":"""#))),
                0,
            ),
            ("too many tensors", numbered(100_001, &|k| entry(&k.to_string(), "[0]", "[0,0]")), 0),
            ("an unknown type", entry("a", "[1]", "[0,4]").replace("F32", "F33"), 4),
            ("no object", r#""a":7"#.into(), 0),
        ];
        for (what, entries, bytes) in headers {
            let error = refused(&raw(&format!("{{{entries}}}"), &vec![0; bytes]));
            let words = match what {
                "a name twice, data once" | "a name twice" | "metadata twice" => "a stands there twice",
                "an endless shape" => "a has more than 64 dimensions",
                "too many metadata" | "too many tensors" => "more than 100000 entries",
                _ => "",
            };
            assert!(error.contains(words), "{what}: {error}");
        }
        refused(&raw("[]", &[]));
        refused(&raw(&"[".repeat(100_000), &[]));
        refused(&[&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat());
        // Calm where there is nothing wrong: no tensors at all, or empty ones.
        for fine in [raw("{}", &[]), raw(&format!("{{{}}}", entry("a", "[0,7]", "[0,0]")), &[])] {
            assert!(TensorFile::open(&Scratch::new("fine", &fine).0, "a hint").is_ok());
        }
        let missing = TensorFile::open(Path::new("no such file"), "a hint");
        assert!(matches!(missing, Err(Error::Io { action: "read", .. })));
        let folder = TensorFile::open(&std::env::temp_dir(), "a hint").unwrap_err().to_string();
        assert!(folder.contains("is a folder, not a file") && folder.contains("a hint"), "{folder}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_not_read() {
        let error = TensorFile::open(Path::new("/dev/zero"), "a hint").unwrap_err().to_string();
        assert!(error.contains("/dev/zero: is a device or a pipe") && error.contains("a hint"), "{error}");
    }

    /// A file that shrinks after its header was read.
    #[test]
    fn a_file_cut_while_it_is_read_is_an_error() {
        let file = Scratch::new("shrinking", &file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0]))]));
        let mut open = TensorFile::open(&file.0, "a hint").unwrap();
        let cut = std::fs::metadata(&file.0).unwrap().len() - 1;
        File::options().write(true).open(&file.0).unwrap().set_len(cut).unwrap();
        assert!(matches!(open.tensor("a", DType::F32), Err(Error::Io { action: "read", .. })));
    }

    #[test]
    fn a_lone_tensor_is_there_readable_and_of_a_rank_that_tensors_have() {
        let ranks = [1; MAX_RANK + 1];
        let bytes = file_of(&[("deep", "F32", &ranks, f32s(&[1.0])), ("whole", "I64", &[1], vec![0; 8])]);
        let file = Scratch::new("lone", &bytes);
        let mut open = TensorFile::open(&file.0, "a hint").unwrap();
        for (name, words) in [("none", "missing"), ("deep", "dimensions"), ("whole", "I64")] {
            let error = open.tensor(name, DType::F32).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(open.shape("deep").unwrap(), ranks);
        assert!(open.shape("none").unwrap_err().to_string().contains("none is missing"));
        let whole = open.shape("whole").unwrap_err().to_string();
        assert!(whole.contains("whole is of I64") && whole.contains("convert it"), "{whole}");
    }
}
