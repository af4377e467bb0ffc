//! Settings that hold a secret: given as they are, or as the file that holds them.
//!
//! A variable is seen by whoever may look into the process and by all that it starts, and turns up in the reports of orchestrators. Docker's and
//! Kubernetes's secrets and systemd's credentials are files.

use std::{ffi::OsString, path::PathBuf};

use super::Mistakes;
use crate::secret_file;

/// What was given for a setting that holds a secret.
#[derive(PartialEq, Eq)]
pub(super) enum Given {
    /// Nothing.
    Nothing,
    /// Something that cannot be used, which has been noted.
    Wrong,
    /// The secret.
    Secret(String),
}

/// Where a secret stands.
pub(super) enum Place {
    /// Nowhere.
    Nowhere,
    /// In two places at once, which has been noted.
    Both,
    /// In the setting itself.
    Typed(String),
    /// In a file, whose setting's name is given, too.
    File(String, PathBuf),
}

/// Whether something was given, be it of use or not.
pub(super) fn is_given(value: Option<&String>, file: Option<&OsString>) -> bool {
    value.is_some_and(|value| !value.is_empty()) || file.is_some_and(|file| !file.is_empty())
}

/// Finds a secret: as it was typed, or in the file that was named in its place by the variable of the same name with `_FILE` behind
/// it. Notes if it is both.
pub(super) fn place(
    setting: &str,
    value: Option<String>,
    file: Option<OsString>,
    mistakes: &mut Mistakes,
) -> Place {
    let (value, file) = (
        value.filter(|value| !value.is_empty()),
        file.filter(|file| !file.is_empty()),
    );
    let file_setting = format!("{setting}_FILE");
    match (value, file) {
        (None, None) => Place::Nowhere,
        (Some(secret), None) => Place::Typed(secret),
        (None, Some(file)) => Place::File(file_setting, file.into()),
        (Some(_), Some(_)) => {
            mistakes.note(
                &file_setting,
                format_args!("set, and {setting} is, too; give one of them"),
            );
            Place::Both
        }
    }
}

/// Takes a secret as it was typed, or reads its file. One line's end behind the secret is not part of it. Notes what is wrong.
pub(super) fn read(
    setting: &str,
    value: Option<String>,
    file: Option<OsString>,
    mistakes: &mut Mistakes,
) -> Given {
    match place(setting, value, file, mistakes) {
        Place::Nowhere => Given::Nothing,
        Place::Both => Given::Wrong,
        Place::Typed(secret) => Given::Secret(secret),
        Place::File(setting, file) => mistakes
            .check(&setting, secret_file::read(&file))
            .map_or(Given::Wrong, Given::Secret),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn told(value: Option<&str>, file: Option<&Path>) -> Result<Option<String>, String> {
        let mut mistakes = Mistakes::none();
        let given = read(
            "HERALD_JWT_SECRET",
            value.map(str::to_owned),
            file.map(OsString::from),
            &mut mistakes,
        );
        let told = mistakes.into_result().map_err(|mistakes| mistakes.to_string());
        match given {
            Given::Nothing => told.map(|()| None),
            Given::Secret(secret) => told.map(|()| Some(secret)),
            Given::Wrong => Err(told.unwrap_err()),
        }
    }

    #[test]
    fn a_secret_comes_by_itself_or_by_a_file_without_its_lines_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        for (content, secret) in [
            ("kept", "kept"),
            ("kept\n", "kept"),
            ("kept\r\n", "kept"),
            ("kept\n\n", "kept\n"),
            (" kept ", " kept "),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(told(None, Some(&file)), Ok(Some(secret.to_owned())));
            assert_eq!(told(Some(""), Some(&file)), Ok(Some(secret.to_owned())));
        }
        assert_eq!(told(Some("typed"), None), Ok(Some("typed".to_owned())));
        assert_eq!(told(None, None), Ok(None));
        assert_eq!(told(Some(""), Some(Path::new(""))), Ok(None));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_variable_and_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        assert!(told(None, Some(&file)).unwrap_err().contains("cannot be read"));
        let too_much = vec![b'x'; 64 * 1024 + 1];
        for (content, problem) in [
            (&b"\n"[..], "is empty"),
            (b"", "is empty"),
            (b"caf\xe9 secret", "is not UTF-8"),
            (&too_much, "is larger than"),
        ] {
            std::fs::write(&file, content).unwrap();
            let told = told(None, Some(&file)).unwrap_err();
            assert!(told.contains("HERALD_JWT_SECRET_FILE: "), "{told}");
            assert!(told.contains(problem), "{told}");
            assert!(!told.contains("caf") && !told.contains("xx"), "{told}");
        }
        std::fs::write(&file, "kept").unwrap();
        let told = told(Some("typed"), Some(&file)).unwrap_err();
        assert!(told.contains("give one of them"), "{told}");
        assert!(!told.contains("kept") && !told.contains("typed"), "{told}");
    }
}
