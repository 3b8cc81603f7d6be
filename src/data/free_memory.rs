//! How much memory decoded images may be kept in: a share of what the machine, the process's control groups and its limits
//! (`ulimit -v`, `ulimit -d`) leave. Linux says so in files; elsewhere a fixed amount is taken.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// The most that is kept, in bytes, however large the machine is.
const MOST: u64 = 2_000_000_000;

/// One part of so many is taken; the rest is for training, and for whatever else goes on.
const SHARE: u64 = 4;

/// What is kept where nothing is known about memory, in bytes.
const UNKNOWN: u64 = 500_000_000;

/// Bytes that decoded images may take, unless the user says otherwise.
pub(super) fn share() -> u64 {
    share_of(free(Path::new("/proc"), Path::new("/sys/fs/cgroup")))
}

fn share_of(free: Option<u64>) -> u64 {
    free.map_or(UNKNOWN, |free| (free / SHARE).min(MOST))
}

/// The least of what is free by each account that there is. `proc` and `cgroup` are where Linux has these file systems.
fn free(proc: &Path, cgroup: &Path) -> Option<u64> {
    let kilobytes = |file, name| number(&proc.join(file), name).map(|kilobytes| kilobytes.saturating_mul(1024));
    // What is left of a limit; there is no number where it is "unlimited".
    let left = |limit, used| {
        let used = kilobytes("self/status", used).unwrap_or(0);
        number(&proc.join("self/limits"), limit).map(|soft| soft.saturating_sub(used))
    };
    let (space, data) = (left("Max address space", "VmSize:"), left("Max data size", "VmData:"));
    [kilobytes("meminfo", "MemAvailable:"), group_limit(proc, cgroup), space, data].into_iter().flatten().min()
}

/// The number behind `name` in a file with a line for each name.
fn number(path: &Path, name: &str) -> Option<u64> {
    let text = read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The least limit of the control groups that the process is in, of either version. How much of it is in use is not asked:
/// most of that is files that the system would let go of.
fn group_limit(proc: &Path, cgroup: &Path) -> Option<u64> {
    let limits = |line: &str| {
        let (controllers, group) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match controllers {
            "" => (cgroup.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => (cgroup.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let group: PathBuf =
            Path::new(group).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        // A limit of any group above holds too. Inside a container, those above are not to be seen.
        let files = group.ancestors().map(|group| root.join(group).join(file));
        files.filter_map(|file| read_to_string(file).ok()?.trim().parse().ok()).min()
    };
    read_to_string(proc.join("self/cgroup")).ok()?.lines().filter_map(limits).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    use crate::data::testing::write;

    const MIB: u64 = 1 << 20;

    fn found(scratch: &TempDir) -> Option<u64> {
        free(&scratch.path().join("proc"), &scratch.path().join("cgroup"))
    }

    #[test]
    fn the_least_of_all_accounts_counts() {
        let scratch = tempdir().unwrap();
        assert_eq!(found(&scratch), None);
        let limits = |space: &str, data: &str| {
            format!(
                "Limit                     Soft Limit           Hard Limit           Units\n\
                 Max data size             {data}            unlimited            bytes\n\
                 Max address space         {space}           unlimited            bytes\n"
            )
        };
        for (file, text, expected) in [
            ("proc/meminfo", "MemTotal:       16000 kB\nMemAvailable:    8192 kB\nSwapFree: 9 kB\n", 8 * MIB),
            // A group without a limit, in one with a limit.
            ("proc/self/cgroup", "0::/a/b\n", 8 * MIB),
            ("cgroup/a/b/memory.max", "max\n", 8 * MIB),
            ("cgroup/a/memory.max", "7340032\n", 7 * MIB),
            // Version 1, with a path that is not to be seen from inside.
            ("proc/self/cgroup", "12:cpu,cpuacct:/x\n5:memory:/outside\n", 8 * MIB),
            ("cgroup/memory/memory.limit_in_bytes", "6291456\n", 6 * MIB),
            ("proc/self/status", "Name:\tx\nVmSize:\t    1024 kB\nVmData:\t     512 kB\n", 6 * MIB),
            ("proc/self/limits", &limits("unlimited", "unlimited"), 6 * MIB),
            ("proc/self/limits", &limits("6291456", "unlimited"), 5 * MIB),
            ("proc/self/limits", &limits("6291456", "3145728"), 5 * MIB / 2),
            // The limit is below what is in use.
            ("proc/self/limits", &limits("1024", "3145728"), 0),
        ] {
            write(&scratch, file, text.as_bytes());
            assert_eq!(found(&scratch), Some(expected), "{file}: {text}");
        }
    }

    #[test]
    fn a_quarter_and_no_more_than_two_gigabytes() {
        assert_eq!(share_of(Some(400 * MIB)), 100 * MIB);
        assert_eq!(share_of(Some(1 << 40)), 2_000_000_000);
        assert_eq!(share_of(None), 500_000_000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn linux_says_how_much_is_free() {
        assert!(free(Path::new("/proc"), Path::new("/sys/fs/cgroup")).is_some_and(|free| free > 0));
    }
}
