//! How much memory the process has, and how much it may have. On Linux; elsewhere nothing is known.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the kernel tells of control groups (cgroups(7)), which containers and systemd's units are.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The memory that the process has, in bytes (`VmRSS` of `proc_pid_status(5)`).
pub fn resident() -> Option<u64> {
    resident_by("/proc/self/status")
}

/// The memory that another process has, in bytes.
pub fn resident_of(process: u32) -> Option<u64> {
    resident_by(&format!("/proc/{process}/status"))
}

fn resident_by(status: &str) -> Option<u64> {
    kibibytes(&fs::read_to_string(status).ok()?, "VmRSS:")
}

/// The memory that the process may have, in bytes: the least that its control group, those around it, and the machine have.
pub fn limit() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kibibytes(&text, "MemTotal:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limits_of_groups(&groups, Path::new(CONTROL_GROUPS))
        .chain(machine)
        .min()
}

/// The number in a line such as `VmRSS:     10316 kB`.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

/// The limits of the control groups that a process is in, and of those around them. `groups` is its `/proc/self/cgroup`: lines of a number,
/// controllers and a path (cgroups(7)). In a container the path may be one of the outside, so that the root is looked at in any case.
fn limits_of_groups(groups: &str, root: &Path) -> impl Iterator<Item = u64> {
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, file) = match controllers {
            // The second version has one hierarchy for all controllers.
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        Some((root, path.trim_start_matches('/').to_owned(), file))
    });
    let files: Vec<PathBuf> = files
        .flat_map(|(root, path, file)| {
            let inside = root.join(path);
            let around: Vec<PathBuf> = inside
                .ancestors()
                .take_while(|folder| folder.starts_with(&root))
                .map(|folder| folder.join(file))
                .collect();
            around
        })
        .collect();
    // `max` is no number, and no limit.
    files
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_has_some_and_may_have_more() {
        let (resident, limit) = (resident().unwrap(), limit().unwrap());
        assert!(resident > 1 << 20 && resident < limit, "{resident} of {limit}");
    }

    #[test]
    fn a_line_of_proc_is_read() {
        let text = "Name:\therald\nVmHWM:\t   20000 kB\nVmRSS:\t   10316 kB\n";
        assert_eq!(kibibytes(text, "VmRSS:"), Some(10_316 * 1024));
        assert_eq!(kibibytes(text, "VmSwap:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }

    #[test]
    fn the_limits_of_all_groups_around_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("system.slice/memory.max", "2147483648\n");
        write("system.slice/herald.service/memory.max", "max\n");
        write("memory/docker/abc/memory.limit_in_bytes", "536870912\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let limits = |groups: &str| -> Vec<u64> { limits_of_groups(groups, folder.path()).collect() };
        assert_eq!(limits("0::/system.slice/herald.service\n"), [2_147_483_648]);
        assert_eq!(
            limits("12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n"),
            [536_870_912, 9_223_372_036_854_771_712]
        );
        assert_eq!(limits("5:memory:/elsewhere\n"), [9_223_372_036_854_771_712]);
        assert!(limits("nonsense\n\n3:\n").is_empty());
    }
}
