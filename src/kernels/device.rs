//! Where tensors live.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "cuda")]
use super::cuda::Gpu;
use crate::{Error, Result};

/// Where elements live, and so which loops compute with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// Main memory, and loops made for speed: vector code, blocks, threads.
    #[default]
    Cpu,
    /// Main memory, and each operation's definition in its simplest loops: the oracle that the other devices are
    /// compared with, and the code to read first. Hundreds of times slower. Its buffers start as NaN, also in release
    /// builds; it computes in f64 whatever the elements are, and knows no [`Precision`](super::Precision).
    Reference,
    /// The NVIDIA GPU with this number, and the kernels of this crate; see docs/cuda.md.
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

impl Device {
    /// Looks whether it is there, and opens it.
    ///
    /// # Errors
    /// When it is not; the error says what is missing. Main memory is always there.
    pub fn open(self) -> Result<()> {
        match self {
            Device::Cpu | Device::Reference => Ok(()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Gpu::open(ordinal).map(|_| ()),
        }
    }

    /// Whether the elements lie in main memory.
    pub(super) fn is_host(self) -> bool {
        matches!(self, Device::Cpu | Device::Reference)
    }

    /// Whether it is a GPU, which wants much work at a time.
    pub fn is_gpu(self) -> bool {
        !self.is_host()
    }
}

impl Device {
    /// What `work` gives. A GPU is handed all that it is asked for meanwhile at once, as one CUDA graph: a launch in a graph
    /// costs a third of one by itself. Main memory has no use for that.
    #[track_caller]
    pub fn in_one_graph<R>(self, work: impl FnOnce() -> R) -> R {
        match self {
            Device::Cpu | Device::Reference => work(),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Gpu::get(ordinal).in_one_graph(work),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => write!(f, "cpu"),
            Device::Reference => write!(f, "reference"),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// `cpu`, `reference`, `cuda` (the first GPU) or `cuda:N`.
impl FromStr for Device {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Device::Cpu),
            "reference" => Ok(Device::Reference),
            #[cfg(feature = "cuda")]
            "cuda" => Ok(Device::Cuda(0)),
            #[cfg(feature = "cuda")]
            _ if name.strip_prefix("cuda:").is_some_and(|n| n.parse::<usize>().is_ok()) => {
                Ok(Device::Cuda(name[5..].parse().unwrap_or_default()))
            }
            #[cfg(not(feature = "cuda"))]
            _ if name == "cuda" || name.starts_with("cuda:") => {
                let hint = "build it with `cargo build --release --features cuda`";
                Err(Error::config("this program was built without CUDA", hint))
            }
            _ => Err(Error::config(
                format!("no device is called '{name}'"),
                "there are: cpu, reference, cuda, cuda:1, …",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_name() {
        for device in [Device::Cpu, Device::Reference] {
            assert_eq!(device.to_string().parse::<Device>().unwrap(), device);
        }
        let error = |name: &str| name.parse::<Device>().unwrap_err().to_string();
        assert!(error("tpu").contains("no device is called 'tpu'"), "{}", error("tpu"));
        #[cfg(feature = "cuda")]
        {
            let device = |name: &str| name.parse::<Device>().unwrap();
            assert_eq!(["cuda", "cuda:0", "cuda:3"].map(device), [0, 0, 3].map(Device::Cuda));
            assert_eq!(Device::Cuda(3).to_string(), "cuda:3");
            for name in ["cuda:", "cuda:x", "cuda:-1"] {
                assert!(error(name).contains(name), "{}", error(name));
            }
        }
        #[cfg(not(feature = "cuda"))]
        assert!(error("cuda:1").contains("--features cuda"), "{}", error("cuda:1"));
    }
}
