//! How much memory the process may have: beside it, what it holds says how near its end is.
//!
//! A control group bounds all who are in it or below it, so the least limit on the way from the
//! process's own group to the root counts, or what the machine has
//! (<https://docs.kernel.org/admin-guide/cgroup-v2.html>, `memory.max`;
//! <https://docs.kernel.org/admin-guide/cgroup-v1/memory.html>, `memory.limit_in_bytes`).

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

/// Looks at each scrape, since a limit can be moved while the process runs.
#[derive(Debug)]
pub struct MemoryLimit {
    root: PathBuf,
}

impl MemoryLimit {
    /// Of this process, by `/proc` and `/sys`.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// In bytes; none where the system tells of none.
    fn bytes(&self) -> Option<u64> {
        let groups = fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
        let of_groups = groups.lines().filter_map(|line| self.of_group(line));
        of_groups.chain(self.of_machine()).min()
    }

    /// The least on the way of a line `hierarchy:controllers:path` (cgroups(7)). A container may see
    /// only its own group, as the root, under a path that isn't there: the root is looked at too.
    fn of_group(&self, line: &str) -> Option<u64> {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|it| it == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        let mount = self.root.join(mount);
        let own = mount.join(path.trim_start_matches('/'));
        let on_the_way = own.ancestors().take_while(|it| it.starts_with(&mount));
        on_the_way
            .filter_map(|group| fs::read_to_string(group.join(file)).ok())
            // `max` is no number, and no limit.
            .filter_map(|limit| limit.trim().parse().ok())
            .min()
    }

    fn of_machine(&self) -> Option<u64> {
        let known = fs::read_to_string(self.root.join("proc/meminfo")).ok()?;
        let total = known.lines().find_map(|it| it.strip_prefix("MemTotal:"))?;
        let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    }
}

impl Collector for MemoryLimit {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let Some(bytes) = self.bytes() else {
            return Ok(());
        };
        let limit = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
        limit.encode(encoder.encode_descriptor(
            "llavero_memory_limit_bytes",
            "What memory the process may have: the least limit of its control groups, or what the machine has",
            None,
            MetricType::Gauge,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The limit where those files are.
    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().expect("there is room");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("it is below the root")).expect("is made");
            fs::write(path, text).expect("is written");
        }
        MemoryLimit::below(root.path()).bytes()
    }

    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:        2097152 kB\nMemFree: 1 kB\n",
    );

    #[test]
    fn the_least_limit_on_the_way_counts() {
        let own = ("proc/self/cgroup", "0::/pods/one/main\n");
        let pod = ("sys/fs/cgroup/pods/one/memory.max", "268435456\n");
        let main = ("sys/fs/cgroup/pods/one/main/memory.max", "536870912\n");
        let other = ("sys/fs/cgroup/pods/two/memory.max", "1048576\n");
        assert_eq!(limit(&[MACHINE, own, pod, main, other]), Some(256 * MIB));
        let main = ("sys/fs/cgroup/pods/one/main/memory.max", "max\n");
        assert_eq!(limit(&[MACHINE, own, pod, main]), Some(256 * MIB));
        assert_eq!(limit(&[MACHINE, own, main]), Some(2048 * MIB));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let own = ("proc/self/cgroup", "0::/\n");
        let root = ("sys/fs/cgroup/memory.max", "134217728\n");
        assert_eq!(limit(&[MACHINE, own, root]), Some(128 * MIB));
        let outside = ("proc/self/cgroup", "0::/kubepods/pod1/abc\n");
        assert_eq!(limit(&[MACHINE, outside, root]), Some(128 * MIB));
    }

    #[test]
    fn version_one_has_a_hierarchy_of_its_own() {
        let own = (
            "proc/self/cgroup",
            "9:name=systemd:/\n4:cpu,memory:/docker/abc\n2:cpuset:/tiny\n0::/\n",
        );
        let of_memory = (
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            "67108864\n",
        );
        let none = (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        let of_another = ("sys/fs/cgroup/memory/tiny/memory.limit_in_bytes", "4096\n");
        assert_eq!(
            limit(&[MACHINE, own, of_memory, none, of_another]),
            Some(64 * MIB)
        );
        assert_eq!(limit(&[MACHINE, own, none]), Some(2048 * MIB));
        assert_eq!(limit(&[]), None);
    }
}
