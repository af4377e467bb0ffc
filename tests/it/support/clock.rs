//! A clock on the wall that a test sets, for programs that it starts.

use std::{fs, os::unix::fs::FileExt, path::PathBuf, process::Command};

use tempfile::TempDir;

/// What makes it, in C because it has to stand in for a function of the C library.
const SOURCE: &str = include_str!("clock.c");

/// Programs that were started with its variables see its time.
pub(crate) struct Clock {
    folder: TempDir,
    file: fs::File,
}

impl Clock {
    /// One that goes right.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("clock.c");
        fs::write(&source, SOURCE).unwrap();
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(folder.path().join("clock.so"))
            .arg(&source)
            .arg("-ldl")
            .status()
            .unwrap();
        assert!(compiled.success());
        let file = fs::File::create(folder.path().join("seconds")).unwrap();
        let clock = Self { folder, file };
        clock.set(0);
        clock
    }

    /// Puts it so many seconds ahead of the right time, or behind it.
    pub(crate) fn set(&self, seconds: i64) {
        self.file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// The variables of a program that is to see its time.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        [
            ("LD_PRELOAD", self.path("clock.so")),
            ("HERALD_TEST_CLOCK", self.path("seconds")),
        ]
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.display().to_string()
    }
}
