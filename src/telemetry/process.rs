//! What the system says about this process, under the names that Prometheus's client libraries
//! share, and its version. It is read when somebody asks; where a system says nothing, nothing is told.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// Declares the metrics.
pub fn register(metrics: &mut Registry) {
    metrics.register(
        "llavero_build",
        "The version that runs",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    metrics.register_collector(Box::new(Process));
}

#[derive(Debug)]
struct Process;

/// One look at the process.
struct Sample {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    start_seconds: Option<f64>,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(sample) = sample() else {
            return Ok(());
        };
        let mut tell =
            |name: &str, help: &str, metric: &dyn Tell| metric.tell(&mut encoder, name, help);
        tell(
            "process_cpu_seconds",
            "Processor time of this process",
            &ConstCounter::new(sample.cpu_seconds),
        )?;
        tell(
            "process_resident_memory_bytes",
            "Memory that it holds",
            &whole(sample.resident_bytes),
        )?;
        tell(
            "process_virtual_memory_bytes",
            "Addresses that it has",
            &whole(sample.virtual_bytes),
        )?;
        tell("process_threads", "Its threads", &whole(sample.threads))?;
        if let Some(open) = sample.open_fds {
            tell(
                "process_open_fds",
                "Files and sockets that it has open",
                &whole(open),
            )?;
        }
        if let Some(most) = sample.max_fds {
            tell("process_max_fds", "How many it may have open", &whole(most))?;
        }
        if let Some(start) = sample.start_seconds {
            let start = ConstGauge::new(start);
            tell(
                "process_start_time_seconds",
                "When it began, in seconds since 1970",
                &start,
            )?;
        }
        Ok(())
    }
}

/// A metric that is told as it is now.
trait Tell {
    fn tell(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> Tell for M {
    fn tell(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        let metric = encoder.encode_descriptor(name, help, None, self.metric_type())?;
        self.encode(metric)
    }
}

fn whole(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// What `/proc` says (proc(5)).
#[cfg(target_os = "linux")]
fn sample() -> Option<Sample> {
    use procfs::{CurrentSI as _, WithCurrentSystemInfo as _, process};

    let process = process::Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    let seconds = |count: u64| count as f64 / ticks as f64;
    let limits = process.limits().ok();
    let max_fds = limits.and_then(|limits| match limits.max_open_files.soft_limit {
        process::LimitValue::Value(most) => Some(most),
        process::LimitValue::Unlimited => None,
    });
    let booted = procfs::KernelStats::current()
        .ok()
        .map(|kernel| kernel.btime);
    Some(Sample {
        cpu_seconds: seconds(stat.utime + stat.stime),
        resident_bytes: stat.rss_bytes().get(),
        virtual_bytes: stat.vsize,
        threads: u64::try_from(stat.num_threads).unwrap_or_default(),
        open_fds: process.fd_count().ok().map(|count| count as u64),
        max_fds,
        start_seconds: booted.map(|booted| booted as f64 + seconds(stat.starttime)),
    })
}

#[cfg(not(target_os = "linux"))]
fn sample() -> Option<Sample> {
    None
}
