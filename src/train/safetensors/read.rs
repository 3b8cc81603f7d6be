//! Reading, tensor by tensor.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::header::{Header, checksums};
use super::mismatch::{listed, shown};
use super::{Digest, Fit, Mismatch, Reason};
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

    /// The shape of each part.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.value.shape().to_vec();
        shape.iter_mut().take(1).for_each(|rows| *rows /= self.names.len());
        shape
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

/// What helps against damage.
const ANOTHER_COPY: &str = "take another copy of the file, or an earlier one";

impl TensorFile {
    /// Opens a file and reads its header; no tensor is touched. Errors about what a whole file holds advise `hint`.
    ///
    /// # Errors
    /// When it is no ordinary file or cannot be read, its header is not that of a safetensors file of its length, or its
    /// metadata do not have their checksum.
    pub fn open(path: &Path, hint: &'static str) -> Result<Self> {
        let io = |e| Error::io("read", path, e);
        let damaged = |problem: String| Error::file(path, problem, ANOTHER_COPY);
        let no_header = |problem: String| damaged(format!("not a safetensors file ({problem})"));
        // A run's folder is taken for its checkpoint before long by everyone.
        let whole = path.join("checkpoint.safetensors");
        if whole.is_file() {
            return Err(Error::file(path, "is a folder, not a file", format!("give {}", whole.display())));
        }
        files::ordinary(path, "give a safetensors file")?;
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
        let sums = header.metadata().as_ref().map_or(Ok(None), checksums).map_err(damaged)?;
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
        for place in places {
            let shape = place.shape();
            for (part, name) in place.names.into_iter().enumerate() {
                mismatches.extend(self.read(&name, place.value, &shape, part)?.map(|reason| Mismatch { name, reason }));
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
        let fits = |name: &String, shape: &[usize]| self.info(name).is_ok_and(|info| info.shape == shape);
        places.iter().all(|place| place.names.iter().all(|name| fits(name, &place.shape())))
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
        let of_each = if dtype == DType::F32 { size_of::<f32>() } else { size_of::<f64>() };
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
        let hint = if all(|reason| !reason.can_be_left_out()) {
            ANOTHER_COPY
        } else if all(|reason| matches!(reason, Reason::Elements(_))) {
            "convert it to floating point, such as F32"
        } else {
            self.hint
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
        let digest = match place.dtype() {
            DType::Bf16 => unreachable!("parameters are never bf16"),
            DType::F32 => self.elements(&info, &mut place.as_mut_slice::<f32>()[part]),
            DType::F64 => self.elements(&info, &mut place.as_mut_slice::<f64>()[part]),
        };
        let digest = digest.map_err(|e| Error::io("read", &self.path, e))?;
        let whole = self.sums.as_ref().is_none_or(|sums| sums.get(name) == Some(&digest.checksum()));
        Ok(match (whole, digest.finite) {
            (false, _) => Some(Reason::Damaged),
            (true, false) => Some(Reason::NotFinite),
            (true, true) => None,
        })
    }

    /// The elements of a tensor, rounded to the nearest of type `T`. From f32 to f32 nothing is rounded.
    fn elements<T: Real>(&mut self, info: &TensorInfo, out: &mut [T]) -> io::Result<Digest> {
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
) -> io::Result<Digest> {
    let mut bytes = vec![0; BLOCK.min(out.len() * N)];
    let mut digest = Digest::new();
    for out in out.chunks_mut(BLOCK / N) {
        let bytes = &mut bytes[..out.len() * N];
        file.read_exact(bytes)?;
        out.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(x, bytes)| *x = T::from_f64(number(*bytes)));
        digest.update(out, bytes);
    }
    Ok(digest)
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
    use super::*;

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
}
