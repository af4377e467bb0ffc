//! Holds the code against what `ARCHITECTURE.md` says about layers, and against the house rules that a compiler does
//! not know.

#![allow(
    clippy::unwrap_used,
    reason = "clippy knows tests by their attribute, not what they call"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `src`, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    assert!(found.len() > 50, "only {} files were found", found.len());
    found
}

/// The top-level module that a file belongs to; none for `lib.rs` and `main.rs`.
fn module(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    let name = first.trim_end_matches(".rs");
    (!["lib", "main"].contains(&name)).then(|| name.to_owned())
}

/// The table of layers in `ARCHITECTURE.md`.
fn layers() -> BTreeMap<String, u32> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text
        .split("```layers\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let layer: u32 = words.next().unwrap().parse().unwrap();
        words
            .map(move |module| (module.to_owned(), layer))
            .collect::<Vec<_>>()
    };
    table.lines().flat_map(line).collect()
}

/// The top-level modules that a text names by `crate::`, in paths and in braces.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (position, _) in text.match_indices("crate::") {
        let rest = &text[position + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut name, mut at_start) = (0, String::new(), true);
            for character in group.chars() {
                match character {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => at_start = true,
                    _ if depth == 0 && at_start && (character.is_ascii_lowercase() || character == '_') => {
                        name.push(character);
                        continue;
                    }
                    _ => {}
                }
                if !name.is_empty() {
                    found.push(std::mem::take(&mut name));
                    at_start = false;
                }
            }
        } else {
            let name: String = rest
                .chars()
                .take_while(|character| character.is_ascii_lowercase() || *character == '_')
                .collect();
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn imports_point_downwards_and_never_sideways() {
    let layers = layers();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(module) = module(&path) else { continue };
        let own = layers
            .get(&module)
            .unwrap_or_else(|| panic!("{module} is in no layer of ARCHITECTURE.md"));
        for import in imports(&text) {
            if import == module {
                continue;
            }
            let layer = layers
                .get(&import)
                .unwrap_or_else(|| panic!("{import} is in no layer of ARCHITECTURE.md"));
            if layer >= own {
                wrong.push(format!(
                    "{}: {module} ({own}) imports {import} ({layer})",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_layers_names_every_module_and_no_other() {
    let text = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut modules: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    modules.sort_unstable();
    assert_eq!(layers().keys().collect::<Vec<_>>(), modules);
}

#[test]
fn imports_are_found_in_paths_and_in_nested_braces() {
    let text = "use crate::{\n    app::{App, AppConfig},\n    hub::registry,\n    types::UserId,\n};\nlet x = crate::tasks::y();";
    assert_eq!(imports(text), ["app", "hub", "types", "tasks"]);
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{} does not begin with its purpose",
            path.display()
        );
    }
}

#[test]
fn nothing_is_left_for_later() {
    for (path, text) in sources() {
        for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!("] {
            assert!(!text.contains(word), "{} has a {word}", path.display());
        }
    }
}

#[test]
fn every_path_that_the_documents_name_exists() {
    for document in ["ARCHITECTURE.md", "README.md", "PROTOCOL.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let named = ["src/", "sql/", "tests/", "benches/", "script/", "deploy/"];
            if named.iter().any(|folder| quoted.starts_with(folder)) && !quoted.contains([' ', '*', '<']) {
                assert!(
                    root().join(quoted).exists(),
                    "{document} names {quoted}, which does not exist"
                );
            }
        }
    }
}

/// The versions of each package in a `Cargo.lock`.
fn locked(lock: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(root().join(lock)).unwrap();
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for package in text.split("[[package]]").skip(1) {
        let value = |key: &str| {
            package
                .split(&format!("\n{key} = \""))
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned()
        };
        found.entry(value("name")).or_default().push(value("version"));
    }
    found
}

#[test]
fn what_is_fuzzed_is_built_of_the_versions_that_are_shipped() {
    let shipped = locked("Cargo.lock");
    for (name, versions) in locked("fuzz/Cargo.lock") {
        if let Some(shipped) = shipped.get(&name) {
            assert!(
                versions.iter().all(|version| shipped.contains(version)),
                "fuzz/Cargo.lock has {name} {versions:?}, and Cargo.lock {shipped:?}: copy Cargo.lock to fuzz/ and run `cargo metadata` there"
            );
        }
    }
}
