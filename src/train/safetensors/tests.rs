//! Files made by hand, cut, injured and written anew.

use std::fs;
use std::io::Write;

use tempfile::{Builder, TempPath};

use super::*;
use crate::kernels::MAX_RANK;
use crate::tensor::{DType, Shape, Tensor};
use crate::{Error, Result};

/// A file of its own, removed at the end.
pub struct Scratch(pub TempPath);

impl Scratch {
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        let mut file = Builder::new().prefix(name).tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Scratch(file.into_temp_path())
    }

    fn open(&self) -> TensorFile {
        TensorFile::open(&self.0, "a hint").unwrap()
    }

    fn fill(&self, prefix: &str, tensors: &mut [(&'static str, Tensor)], fit: Fit) -> Result<Vec<Mismatch>> {
        let places = tensors.iter_mut().map(|(name, tensor)| Place::whole(format!("{prefix}{name}"), tensor));
        self.open().fill(places.collect(), &|name| !name.starts_with("other."), fit)
    }
}

/// Any header, any data.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// Name, element type, shape, bytes.
pub type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A file with these tensors one after the other.
pub fn file_of(tensors: &[Entry]) -> Vec<u8> {
    let mut data = Vec::new();
    let entry = |(name, dtype, shape, bytes): &Entry| {
        let start = data.len();
        data.extend(bytes);
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len())
    };
    let entries: Vec<String> = tensors.iter().map(entry).collect();
    raw(&format!("{{{}}}", entries.join(",")), &data)
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// a \[2, 2\], b \[3\], c \[1\], all −1.
fn three(dtype: DType) -> [(&'static str, Tensor); 3] {
    [("a", &[2usize, 2][..]), ("b", &[3]), ("c", &[1])].map(|(name, shape)| (name, Tensor::full(shape, -1.0, dtype)))
}

/// That an error contains all of these.
#[track_caller]
pub fn says<T>(result: Result<T>, words: &[&str]) -> String {
    let error = result.err().expect("an error").to_string();
    words.iter().for_each(|words| assert!(error.contains(words), "no '{words}' in {error}"));
    error
}

#[test]
fn every_element_type_reaches_either_type_of_parameter() {
    let long: Vec<f32> = (0..300_001).map(|i| i as f32 * 0.1 - 7.0).collect(); // more than a block
    let halves = |bits: [u16; 2]| bits.iter().flat_map(|x| x.to_le_bytes()).collect();
    let entries = [
        ("half", "F16", &[2usize][..], halves([0x3c00, 0xc400])),
        ("brain", "BF16", &[2], halves([0x3f80, 0xc0a0])),
        ("single", "F32", &[300_001], f32s(&long)),
        ("double", "F64", &[1], 0.1f64.to_le_bytes().to_vec()),
    ];
    let file = Scratch::new("types", &file_of(&entries));
    for dtype in [DType::F32, DType::F64] {
        let mut all = [("double", 1), ("single", 300_001), ("brain", 2), ("half", 2)]
            .map(|(name, n)| (name, Tensor::zeros([n], dtype)));
        assert_eq!(file.fill("", &mut all, Fit::Strict).unwrap(), []);
        let [double, single, brain, half] = all.map(|(_, x)| x.to_f64_vec());
        assert_eq!((half, brain), (vec![1.0, -4.0], vec![1.0, -5.0]));
        assert!(single.iter().zip(&long).all(|(x, y)| *x == f64::from(*y)));
        assert_eq!(double, [if dtype == DType::F32 { f64::from(0.1f32) } else { 0.1 }]);
    }
    assert_eq!(file.open().tensor("single", DType::F32).unwrap().as_slice::<f32>(), long);
}

/// a is misshapen, b is of integers, c is missing, d is unexpected; `other.x` is somebody else's, and `another.x` is not.
#[test]
fn what_does_not_fit_is_named_in_one_error_or_left_out_and_said() {
    let unfit = |other: &str| {
        let (b, d) = (("m.b", "I32", &[3usize][..], vec![0; 12]), ("m.d", "F32", &[1usize][..], f32s(&[1.0])));
        file_of(&[("m.a", "F32", &[4], f32s(&[1.0; 4])), b, d, (other, "F32", &[1], f32s(&[1.0]))])
    };
    for (other, count) in [("other.x", "4 tensors cannot"), ("another.x", "5 tensors cannot")] {
        let (file, mut all) = (Scratch::new("strict", &unfit(other)), three(DType::F32));
        let (a, b) = ("m.a is [4] instead of [2, 2]", "m.b is of I32");
        let words = [count, a, b, "m.c is missing", "m.d is unexpected", "strict", "a hint"];
        let error = says(file.fill("m.", &mut all, Fit::Strict), &words);
        assert_eq!(error.contains("another.x is unexpected"), other == "another.x");
        assert!(all.iter().all(|(_, x)| x.to_f64_vec().iter().all(|x| *x == -1.0)));
        // Where nothing fits, partial reading is no way round.
        says(file.fill("m.", &mut all, Fit::Partial), &[count]);
    }
    let fitting = ("c", "F32", &[1usize][..], f32s(&[5.0]));
    let good = file_of(&[("a", "F32", &[4], f32s(&[1.0; 4])), fitting, ("d", "U8", &[1], vec![0])]);
    let mut all = three(DType::F32);
    let left_out = Scratch::new("partial", &good).fill("", &mut all, Fit::Partial).unwrap();
    let shape = Reason::Shape { file: vec![4], model: Shape::new(&[2, 2]) };
    let expected = [("a", shape), ("b", Reason::Missing), ("d", Reason::Unexpected)];
    assert_eq!(left_out, expected.map(|(name, reason)| Mismatch { name: name.into(), reason }));
    assert_eq!(left_out.iter().map(Mismatch::in_model).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(all.each_ref().map(|(_, x)| x.to_f64_vec()), [vec![-1.0; 4], vec![-1.0; 3], vec![5.0]]);
}

#[test]
fn numbers_that_are_not_finite_are_named_tensor_by_tensor() {
    let huge = 1e300f64.to_le_bytes().to_vec(); // infinite in f32
    let (a, b) = (f32s(&[0.0, f32::NAN, 0.0, 0.0]), f32s(&[0.0, 0.0, f32::NEG_INFINITY]));
    let all = [("a", "F32", &[2usize, 2][..], a), ("b", "F32", &[3], b), ("c", "F64", &[1], huge)];
    let file = Scratch::new("nan", &file_of(&all));
    for (dtype, count) in [(DType::F32, "3 tensors"), (DType::F64, "2 tensors")] {
        let words = [count, "a has values that are not finite", "another copy"];
        says(file.fill("", &mut three(dtype), Fit::Partial), &words);
    }
    let mut long = vec![0.0; 300_001]; // more than a block
    long[0] = f32::NAN;
    for (dtype, n, bytes) in [("F32", 300_001, f32s(&long)), ("F16", 1, 0xfc00u16.to_le_bytes().to_vec())] {
        let file = Scratch::new("nan", &file_of(&[("x", dtype, &[n], bytes)]));
        says(file.open().tensor("x", DType::F64), &["x has values that are not finite"]);
    }
}

/// a \[2, 2\], b \[3\] of 300,001, c \[1\], with checksums.
fn with_checksums(name: &str) -> (Scratch, [(&'static str, Tensor); 3]) {
    let long = Tensor::from_fn([300_001], DType::F32, |i| i as f64 * 0.1);
    let tensors = [("a", Tensor::full([2, 2], 1.0, DType::F32)), ("b", long), ("c", Tensor::zeros([1], DType::F32))];
    let file = Scratch::new(name, &[]);
    let metadata = [("key".to_owned(), "value".to_owned())].into();
    write(&file.0, metadata, &tensors.each_ref().map(|(name, x)| ((*name).to_owned(), x))).unwrap();
    (file, tensors)
}

/// Each tensor, in its first and last byte, with damage that makes it no NaN; partial reading is no way round.
#[test]
fn damage_is_named_tensor_by_tensor_with_what_else_is_wrong() {
    let (file, mut tensors) = with_checksums("sums");
    let whole = fs::read(&file.0).unwrap();
    assert_eq!(file.fill("", &mut tensors, Fit::Strict).unwrap(), []);
    let end = whole.len();
    for (name, at) in [("a", end - 4 - 4 * 300_001 - 16), ("b", end - 4 - 4 * 300_001), ("b", end - 8), ("c", end - 4)]
    {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file.0, bytes).unwrap();
        for fit in [Fit::Strict, Fit::Partial] {
            let said = format!("1 tensor cannot be used:\n    {name} is damaged");
            says(file.fill("", &mut tensors, fit), &[&said, "another copy"]);
        }
        says(file.open().tensor(name, DType::F32), &["is damaged"]);
    }
    // c is damaged still; and what damage makes infinite is called damaged.
    let mut bytes = whole.clone();
    bytes[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&file.0, bytes).unwrap();
    let mut other = [("a", Tensor::zeros([4], DType::F32)), ("c", Tensor::zeros([1], DType::F32))];
    let words = ["3 tensors cannot", "a is [2, 2]", "b is unexpected", "c is damaged", "a hint"];
    says(file.fill("", &mut other, Fit::Strict), &words);
    // As after a program that adds a tensor and keeps the metadata: it has no checksum, and others have theirs.
    let start = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let elements = whole.len() - start;
    let added = format!(r#","d":{{"dtype":"F32","shape":[1],"data_offsets":[{elements},{}]}}}}"#, elements + 4);
    let header = std::str::from_utf8(&whole[8..start]).unwrap().trim_end().strip_suffix('}').unwrap();
    fs::write(&file.0, [raw(&(header.to_owned() + &added), &whole[start..]), f32s(&[1.0])].concat()).unwrap();
    assert!(file.open().tensor("c", DType::F32).is_ok());
    says(file.open().tensor("d", DType::F32), &["d is damaged"]);
}

/// Cut anywhere, and what tests/hostile_checkpoints.rs has not.
#[test]
fn damaged_files_are_errors() {
    let good = file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0])), ("b", "F16", &[1], vec![0, 0])]);
    let file = Scratch::new("damaged", &[]);
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&file.0, bytes).unwrap();
        says(TensorFile::open(&file.0, "a hint"), &["damaged", "not a safetensors file", words, "another copy"]);
    };
    (0..good.len()).for_each(|end| refused(&good[..end], ""));
    refused(&[&good[..], &[0]].concat(), "");
    let entry = |name: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let two = |name: &str, offsets: &str| entry("a", "[1]", "[0,4]") + "," + &entry(name, "[1]", offsets);
    let numbered = |entry: &dyn Fn(usize) -> String| (0..100_001).map(entry).collect::<Vec<_>>().join(",");
    let many_texts = numbered(&|k| format!(r#""{k}":"""#));
    for (entries, bytes, words) in [
        (two("b", "[2,6]"), 6, ""),
        (two("b", "[8,12]"), 12, ""),
        (two("a", "[0,4]"), 4, "a stands there twice"),
        (two("a", "[4,8]"), 8, "a stands there twice"),
        (entry("a", &format!("[{}1]", "1,".repeat(64)), "[0,4]"), 4, "more than 64 dimensions"),
        (r#""__metadata__":{"a":"b","a":"c"}"#.into(), 0, "a stands there twice"),
        (format!(r#""__metadata__":{{{many_texts}}}"#), 0, "more than 100000 entries"),
        (numbered(&|k| entry(&k.to_string(), "[0]", "[0,0]")), 0, "more than 100000 entries"),
    ] {
        refused(&raw(&format!("{{{entries}}}"), &vec![0; bytes]), words);
    }
    // Calm where there is nothing wrong: no tensors at all, or empty ones.
    for fine in [raw("{}", &[]), raw(&format!("{{{}}}", entry("a", "[0,7]", "[0,0]")), &[])] {
        Scratch::new("fine", &fine).open();
    }
}

#[test]
fn what_is_no_file_or_no_longer_whole_is_an_error() {
    let missing = TensorFile::open("no such file".as_ref(), "a hint");
    assert!(matches!(missing, Err(Error::Io { action: "read", .. })));
    says(TensorFile::open(&std::env::temp_dir(), "a hint"), &["is a folder, not a file", "give a safetensors file"]);
    if cfg!(target_os = "linux") {
        let words = ["/dev/zero: is a device or a pipe", "give a safetensors file"];
        says(TensorFile::open("/dev/zero".as_ref(), "a hint"), &words);
    }
    // A file that shrinks after its header was read.
    let file = Scratch::new("shrinking", &file_of(&[("a", "F32", &[2], f32s(&[1.0, 2.0]))]));
    let mut open = file.open();
    let cut = fs::metadata(&file.0).unwrap().len() - 1;
    fs::File::options().write(true).open(&file.0).unwrap().set_len(cut).unwrap();
    assert!(matches!(open.tensor("a", DType::F32), Err(Error::Io { action: "read", .. })));
}

#[test]
fn a_lone_tensor_is_there_readable_and_of_a_rank_that_tensors_have() {
    let ranks = [1; MAX_RANK + 1];
    let file = file_of(&[("deep", "F32", &ranks, f32s(&[1.0])), ("whole", "I64", &[1], vec![0; 8])]);
    let file = Scratch::new("lone", &file);
    let mut open = file.open();
    for (name, words) in [("none", "missing"), ("deep", "dimensions"), ("whole", "I64")] {
        says(open.tensor(name, DType::F32), &[words]);
    }
    assert_eq!(open.shape("deep").unwrap(), ranks);
    says(open.shape("none"), &["none is missing"]);
    says(open.shape("whole"), &["whole is of I64", "convert it"]);
}

/// The oracle is the `safetensors` crate; the checksums are `zlib.crc32`'s of Python.
#[test]
fn what_is_written_is_what_others_read() {
    let file = Scratch::new("written", b"old");
    let metadata = [("b".to_owned(), "ü \"".to_owned()), ("a".to_owned(), String::new())];
    let (x, y) = (Tensor::from_fn([2, 3], DType::F32, |i| i as f64), Tensor::zeros([0, 4], DType::F32));
    let tensors = [("x".to_owned(), &x), ("a.y".to_owned(), &y)];
    write(&file.0, metadata.into(), &tensors).unwrap();
    let bytes = fs::read(&file.0).unwrap();
    assert!(u64::from_le_bytes(bytes[..8].try_into().unwrap()).is_multiple_of(8));
    let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = read.tensor("x").unwrap();
    assert_eq!((view.dtype(), view.shape()), (::safetensors::Dtype::F32, &[2, 3][..]));
    assert_eq!(view.data(), f32s(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    assert_eq!(read.tensor("a.y").unwrap().shape(), [0, 4]);
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let said = header.metadata().clone().unwrap();
    assert_eq!(said.len(), 4);
    assert_eq!((said["a"].as_str(), said["b"].as_str()), ("", "ü \""));
    assert_eq!(said["crc32"], r#"{"a.y":"00000000","x":"91e79017"}"#);
    assert_eq!(said["checksum"], "67abc57a");

    write(&file.0, said.into_iter().collect(), &tensors).unwrap();
    assert_eq!(fs::read(&file.0).unwrap(), bytes, "the same content gives the same bytes");
}

#[test]
fn rows_that_come_one_after_the_other_make_the_same_tensor() {
    let file = Scratch::new("rows", b"old");
    let rows = |take: &mut dyn FnMut(&[f32]) -> Result<()>| {
        take(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
        take(&[])?;
        take(&[6.0, 7.0, 8.0])?;
        Ok(vec![("l".into(), Extra::Integers(vec![-1, 7, 300])), ("n".into(), Extra::Bytes(b"a\0b".to_vec()))])
    };
    assert_eq!(write_rows(&file.0, "x", &[1, 3], rows).unwrap(), 3);
    let bytes = fs::read(&file.0).unwrap();
    let read = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (labels, names) = (read.tensor("l").unwrap(), read.tensor("n").unwrap());
    assert_eq!((labels.dtype(), labels.shape()), (::safetensors::Dtype::I32, &[3][..]));
    assert_eq!(labels.data()[8..], 300i32.to_le_bytes());
    assert_eq!((names.dtype(), names.data()), (::safetensors::Dtype::U8, &b"a\0b"[..]));
    let x = file.open().tensor("x", DType::F32).unwrap();
    assert_eq!(x.shape()[..], [3, 1, 3]);
    assert!(x.as_slice::<f32>().iter().enumerate().all(|(i, x)| *x == i as f32));

    for bad in [f32::NAN, f32::INFINITY] {
        let written = write_rows(&file.0, "x", &[1], |take| take(&[0.0, bad]).map(|()| vec![]));
        says(written, &["x has values that are not finite"]);
    }
    let stopped = write_rows(&file.0, "x", &[1], |take| take(&[0.0]).and(Err(Error::Interrupted)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    assert_eq!(fs::read(&file.0).unwrap(), bytes, "what was there stays");
}

/// Wherever the number stands; what was there before stays, byte for byte.
#[test]
fn numbers_that_are_not_finite_are_not_written() {
    let file = Scratch::new("not-written", b"old");
    let good = Tensor::full([3], f64::from(f32::MAX), DType::F32);
    for (bad, at) in [(f32::NAN, 0), (f32::INFINITY, 4096), (f32::NEG_INFINITY, 9_999)] {
        let mut values = vec![f32::MAX; 10_000];
        values[at] = bad;
        let hurt = Tensor::new([10_000], values);
        let tensors = [("one".to_owned(), &hurt), ("good".to_owned(), &good), ("two".to_owned(), &hurt)];
        let said = "not written: 2 tensors cannot be used:\n    one has values that are not finite\n    two has";
        says(write(&file.0, Default::default(), &tensors), &[said]);
        assert_eq!(fs::read(&file.0).unwrap(), b"old");
    }
    write(&file.0, Default::default(), &[("largest".to_owned(), &good)]).unwrap();
}
