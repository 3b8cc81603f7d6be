//! Numbers that are read out later: a device that computes asynchronously is asked for them now, and goes on with what it is
//! asked for next while they are on their way.

use super::Buffer;
#[cfg(feature = "cuda")]
use super::cuda;
#[cfg(feature = "cuda")]
use super::real::Bf16;
use super::real::DType;

/// The elements of some buffers, as they were when they were asked for.
#[derive(Debug)]
pub struct Reading {
    parts: Vec<Part>,
    #[cfg(feature = "cuda")]
    from_gpu: Option<cuda::Reading>,
}

/// The elements of one of them.
#[derive(Debug)]
enum Part {
    /// In main memory.
    Here(Vec<f64>),
    /// On their way: behind those of the parts before, so many of this type.
    #[cfg(feature = "cuda")]
    OnGpu(usize, DType),
}

impl Reading {
    /// Begins to read all elements of these buffers.
    ///
    /// # Panics
    /// When they are on two GPUs.
    #[track_caller]
    pub fn begin(buffers: &[&Buffer]) -> Self {
        #[cfg(feature = "cuda")]
        {
            let pieces = buffers.iter().filter_map(|b| Some((b.on_gpu()?, b.len() * b.dtype().size())));
            let pieces: Vec<_> = pieces.collect();
            Reading {
                parts: buffers.iter().map(|buffer| Part::of(buffer)).collect(),
                from_gpu: cuda::Memory::begin_reading(&pieces),
            }
        }
        #[cfg(not(feature = "cuda"))]
        Reading { parts: buffers.iter().map(|buffer| Part::of(buffer)).collect() }
    }

    /// All elements as f64, once they are there: waits for what was asked of the device until [`begin`](Self::begin), not for
    /// what came after it.
    ///
    /// # Panics
    /// When a kernel failed.
    #[track_caller]
    pub fn wait(&self) -> Vec<f64> {
        #[cfg(feature = "cuda")]
        let mut bytes = self.from_gpu.as_ref().map_or(&[][..], cuda::Reading::wait);
        let mut all = Vec::new();
        for part in &self.parts {
            match part {
                Part::Here(elements) => all.extend(elements),
                #[cfg(feature = "cuda")]
                Part::OnGpu(len, dtype) => {
                    let (own, rest) = bytes.split_at(len * dtype.size());
                    bytes = rest;
                    match dtype {
                        DType::F32 => all.extend(own.as_chunks().0.iter().map(|x| f64::from(f32::from_ne_bytes(*x)))),
                        DType::F64 => all.extend(own.as_chunks().0.iter().map(|x| f64::from_ne_bytes(*x))),
                        DType::Bf16 => {
                            let wide = |x: &[u8; 2]| f64::from(Bf16(u16::from_ne_bytes(*x)).to_f32());
                            all.extend(own.as_chunks().0.iter().map(wide));
                        }
                    }
                }
            }
        }
        all
    }
}

impl Part {
    fn of(buffer: &Buffer) -> Self {
        #[cfg(feature = "cuda")]
        if buffer.on_gpu().is_some() {
            return Part::OnGpu(buffer.len(), buffer.dtype());
        }
        Part::Here(super::elementwise::to_dtype(buffer, DType::F64).as_slice::<f64>("reading").to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Device;
    use crate::kernels::testing::devices;

    #[test]
    fn numbers_are_read_as_they_were_when_they_were_asked_for() {
        for device in devices() {
            let x = Buffer::from_vec(vec![1.5f32, -2.0, 3.0]).to_device(device);
            let y = Buffer::full(2, 0.1, DType::F64, device);
            let here = Buffer::full(1, 7.0, DType::F64, Device::Cpu);
            let mut changed = x.clone();
            let reading = Reading::begin(&[&x, &here, &y]);
            let unread = Reading::begin(&[&x]);
            drop((unread, x));
            crate::kernels::elementwise::accumulate(&mut changed, &Buffer::full(3, 1.0, DType::F32, device));
            assert_eq!(reading.wait(), [1.5, -2.0, 3.0, 7.0, 0.1, 0.1], "{device}");
            assert_eq!(Reading::begin(&[&changed]).wait(), [2.5, -1.0, 4.0], "{device}");
            assert_eq!(Reading::begin(&[]).wait(), [] as [f64; 0]);
        }
    }
}
