//! Where the page lies that a gateway serves beside its protocols.

use std::{ffi::OsString, path::Path};

use clap::Args;

use super::Mistakes;
use crate::edge::WebRoot;

/// The page, as typed. Every command that runs a gateway has this.
#[derive(Args, Clone, Debug)]
pub struct WebFlags {
    /// A folder with a built page, which is served at `/` beside the protocols; by default none is.
    #[arg(long, env = "HERALD_WEB_ROOT", value_name = "FOLDER")]
    web_root: Option<OsString>,
}

impl WebFlags {
    /// Notes what is wrong, and answers the page, if one is to be served.
    pub fn check(self, mistakes: &mut Mistakes) -> Option<WebRoot> {
        let folder = self.web_root.filter(|folder| !folder.is_empty())?;
        mistakes.check("HERALD_WEB_ROOT", WebRoot::open(Path::new(&folder)))
    }
}
