//! A position that a client comes back with: it has one text, so that what is read is printed as it came.

#![no_main]

use herald_fuzz::protocol::{cursor::Cursor, snapshot::Snapshot};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else {
        return Corpus::Reject;
    };
    if let Ok(cursor) = text.parse::<Cursor>() {
        assert_eq!(cursor.to_string(), text);
        let snapshot = &cursor.snapshot;
        // The form of Postgres says the same.
        let running: Vec<String> = snapshot.in_progress().iter().map(u64::to_string).collect();
        let written = format!("{}:{}:{}", snapshot.xmin(), snapshot.xmax(), running.join(","));
        assert_eq!(
            Snapshot::read(snapshot.life(), &written).as_ref(),
            Ok(&**snapshot)
        );
        assert!(snapshot.covers(snapshot));
    }
    Corpus::Keep
});
