//! What a process of this machine has taken of its processors, by `proc_pid_stat(5)`. Elsewhere than on Linux nothing is known.

use std::{fs, time::Duration};

use rustix::param::clock_ticks_per_second;

/// The processor time that a process has taken so far, in user mode and in the kernel. The kernel tells it in ticks, mostly of 10 ms.
pub fn processor_time(process: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the process is in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    // `utime` and `stime` are the fields 14 and 15, of which two stand before the closing parenthesis.
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>().ok()?;
    Some(Duration::from_micros(
        ticks * 1_000_000 / clock_ticks_per_second(),
    ))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_time() {
        let process = std::process::id();
        let before = processor_time(process).unwrap();
        let mut sum = 0_u64;
        while processor_time(process).unwrap() == before {
            sum = (0..1_000_000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
        }
        assert_eq!(processor_time(u32::MAX), None);
    }
}
