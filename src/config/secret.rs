//! Settings that hold a secret: given as they are, or as the file that holds them.
//!
//! A variable is seen by whoever may look into the process and by all that it starts, and turns up in the reports of orchestrators. Docker's and
//! Kubernetes's secrets and systemd's credentials are files.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    path::Path,
};

use super::Mistakes;

/// The most bytes of a file with a secret. A connection string with all its parameters has a few hundred.
const FILE_BYTES_MAX: u64 = 64 * 1024;

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

/// Whether something was given, be it of use or not.
pub(super) fn is_given(value: Option<&String>, file: Option<&OsString>) -> bool {
    value.is_some_and(|value| !value.is_empty()) || file.is_some_and(|file| !file.is_empty())
}

/// Takes a secret as it was typed, or reads the file that was named in its place by the variable of the same name with `_FILE`
/// behind it. One line's end behind the secret is not part of it. Notes what is wrong.
pub(super) fn read(
    setting: &str,
    value: Option<String>,
    file: Option<OsString>,
    mistakes: &mut Mistakes,
) -> Given {
    let (value, file) = (
        value.filter(|value| !value.is_empty()),
        file.filter(|file| !file.is_empty()),
    );
    let file_setting = format!("{setting}_FILE");
    match (value, file) {
        (None, None) => Given::Nothing,
        (Some(secret), None) => Given::Secret(secret),
        (Some(_), Some(_)) => {
            mistakes.note(
                &file_setting,
                format_args!("set, and {setting} is, too; give one of them"),
            );
            Given::Wrong
        }
        (None, Some(file)) => mistakes
            .check(&file_setting, content(Path::new(&file)))
            .map_or(Given::Wrong, Given::Secret),
    }
}

fn content(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| format!("{shown} cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > FILE_BYTES_MAX) {
        return Err(format!(
            "{shown} is larger than {FILE_BYTES_MAX} bytes; it should hold the secret alone"
        ));
    }
    let mut text =
        String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8; it should hold text alone"))?;
    if text.ends_with('\n') {
        text.truncate(text.len() - 1);
        if text.ends_with('\r') {
            text.truncate(text.len() - 1);
        }
    }
    if text.is_empty() {
        return Err(format!("{shown} is empty; write the secret into it"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
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
