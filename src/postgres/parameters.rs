//! Takes the parameters that the driver does not understand out of a connection string, in both of its forms.
//!
//! The text that is left goes to the driver unchanged, so there is one reader of hosts, users and passwords. It
//! deliberately copies no value into an error: in a string whose quoting is wrong, anything may be part of the password.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;

use super::{
    settings::{SettingsError, SslMode},
    tls::{Roots, Verification},
};

/// After this much silence the kernel asks whether the other side is still there. With the two values below a peer that
/// has vanished is given up after 15 + 3 * 5 = 30 s; the feed's own deadlines find it sooner, this is for idle ones.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// The time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How many of them may go unanswered.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged before the connection is given up (`TCP_USER_TIMEOUT`, Linux).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// libpq's root certificate file, below the home directory.
const DEFAULT_ROOT_CERTIFICATE: &str = ".postgresql/root.crt";

/// What the driver reads by itself. Everything else but the parameters in [`Taken`] is refused by name.
const DRIVER_PARAMETERS: [&str; 15] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "target_session_attrs",
    "channel_binding",
];

/// The parameters that the driver does not know, does not know under this name, or reads in another unit.
#[derive(Debug, Default)]
pub(super) struct Taken {
    ssl_mode: Option<String>,
    root_certificate: Option<String>,
    keepalives_count: Option<String>,
    tcp_user_timeout: Option<String>,
    names_idle: bool,
    names_interval: bool,
}

impl Taken {
    /// Takes its parameters out of a connection string, and answers what is left of it for the driver.
    pub(super) fn out_of(text: &str) -> Result<(Self, String), SettingsError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(SettingsError::Malformed("it is empty"));
        }
        let mut taken = Self::default();
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        let rest = if is_url {
            taken.out_of_url(text)?
        } else {
            taken.out_of_keywords(text)?
        };
        Ok((taken, rest))
    }

    fn out_of_url(&mut self, text: &str) -> Result<String, SettingsError> {
        let after_credentials = text.find('@').map_or(0, |at| at + 1);
        if text[after_credentials..].contains('@') {
            return Err(SettingsError::AtSign);
        }
        let Some(mark) = text[after_credentials..]
            .find('?')
            .map(|mark| after_credentials + mark)
        else {
            return Ok(text.to_owned());
        };
        let mut kept = Vec::new();
        let mut follows_password = false;
        for pair in text[mark + 1..].split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or(SettingsError::Malformed("a parameter after `?` has no `=`"))?;
            let (name, value) = match (decode(name)?, decode(value)?) {
                // libpq reads JDBC's spelling too, in URLs only.
                (name, value) if name == "ssl" && value == "true" => ("sslmode".into(), "require".into()),
                other => other,
            };
            if !self.take(&name, &value, follows_password)? {
                kept.push(pair);
            }
            follows_password = name == "password";
        }
        let separator = if kept.is_empty() { "" } else { "?" };
        Ok(format!("{}{separator}{}", &text[..mark], kept.join("&")))
    }

    fn out_of_keywords(&mut self, text: &str) -> Result<String, SettingsError> {
        let mut kept = Vec::new();
        let mut left = text;
        let mut follows_password = false;
        while !left.trim_start().is_empty() {
            let Some((pair, after)) = Keyword::read(left) else {
                return Err(if follows_password {
                    SettingsError::UnknownAfterPassword
                } else {
                    SettingsError::Malformed("it is no list of name=value")
                });
            };
            let taken = self.take(&pair.name, &pair.value, follows_password)?;
            if !taken {
                kept.push(pair.text);
            }
            follows_password = pair.name == "password";
            left = after;
        }
        Ok(kept.join(" "))
    }

    /// Keeps a parameter (`true`), leaves it to the driver (`false`), or refuses it.
    ///
    /// What follows a password may be a part of it whose quoting went wrong, and is refused without being named.
    fn take(&mut self, name: &str, value: &str, follows_password: bool) -> Result<bool, SettingsError> {
        let place = match name {
            "sslmode" => &mut self.ssl_mode,
            "sslrootcert" => &mut self.root_certificate,
            "keepalives_count" | "keepalives_retries" => &mut self.keepalives_count,
            "tcp_user_timeout" => &mut self.tcp_user_timeout,
            "keepalives_idle" => {
                self.names_idle = true;
                return Ok(false);
            }
            "keepalives_interval" => {
                self.names_interval = true;
                return Ok(false);
            }
            "load_balance_hosts" => return Ok(false),
            known if DRIVER_PARAMETERS.contains(&known) => return Ok(false),
            _ if follows_password => return Err(SettingsError::UnknownAfterPassword),
            unknown => return Err(SettingsError::UnknownParameter(unknown.to_owned())),
        };
        // libpq takes an empty value for none.
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        Ok(true)
    }

    pub(super) fn ssl_mode(&self) -> Result<SslMode, SettingsError> {
        let system = self.root_certificate.as_deref() == Some("system");
        let mode = match self.ssl_mode.as_deref() {
            None if system => SslMode::VerifyFull,
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some("allow") => return Err(SettingsError::AllowIsNotSupported),
            Some(_) => return Err(SettingsError::UnknownSslMode),
        };
        if system && mode != SslMode::VerifyFull {
            Err(SettingsError::SystemNeedsVerifyFull)
        } else {
            Ok(mode)
        }
    }

    /// What the server's certificate has to prove, with the roots read.
    pub(super) fn verification(
        &self,
        mode: SslMode,
        home: Option<&Path>,
    ) -> Result<Verification, SettingsError> {
        let default = home.map(|home| home.join(DEFAULT_ROOT_CERTIFICATE));
        let file = match (self.root_certificate.as_deref(), mode) {
            (_, SslMode::Disable) => return Ok(Verification::Nothing),
            (Some("system"), _) => {
                let roots = Roots::from_system().map_err(|problem| self.about_root(problem.to_string()))?;
                return Ok(Verification::ChainAndName(roots));
            }
            (Some(file), _) => Some(PathBuf::from(file)),
            (None, SslMode::Prefer) => None,
            (None, _) => default.clone().filter(|file| file.exists()),
        };
        let Some(file) = file else {
            return match mode {
                SslMode::VerifyCa | SslMode::VerifyFull => {
                    Err(SettingsError::NoRootCertificate { mode, default })
                }
                SslMode::Disable | SslMode::Prefer | SslMode::Require => Ok(Verification::Nothing),
            };
        };
        let roots = Roots::from_file(&file).map_err(|problem| SettingsError::RootCertificate {
            which: file.display().to_string(),
            problem: problem.to_string(),
        })?;
        Ok(match mode {
            SslMode::VerifyFull => Verification::ChainAndName(roots),
            SslMode::Disable | SslMode::Prefer | SslMode::Require | SslMode::VerifyCa => {
                Verification::Chain(roots)
            }
        })
    }

    pub(super) fn about_root(&self, problem: String) -> SettingsError {
        let which = self
            .root_certificate
            .clone()
            .unwrap_or_else(|| format!("~/{DEFAULT_ROOT_CERTIFICATE}"));
        SettingsError::RootCertificate { which, problem }
    }

    /// Sets what the string says about dead connections, and Herald's own values where it is silent.
    pub(super) fn apply(&self, config: &mut Config) -> Result<(), SettingsError> {
        let number = |name: &str, value: &Option<String>| {
            value
                .as_deref()
                .map(|value| {
                    value
                        .parse::<u32>()
                        .map_err(|_| SettingsError::InvalidValue(name.to_owned()))
                })
                .transpose()
        };
        if !self.names_idle {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if !self.names_interval {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        config.keepalives_retries(
            number("keepalives_count", &self.keepalives_count)?.unwrap_or(KEEPALIVE_RETRIES),
        );
        // libpq counts milliseconds here, and zero is the system's own value.
        match number("tcp_user_timeout", &self.tcp_user_timeout)? {
            None => config.tcp_user_timeout(TCP_USER_TIMEOUT),
            Some(0) => config,
            Some(milliseconds) => config.tcp_user_timeout(Duration::from_millis(u64::from(milliseconds))),
        };
        Ok(())
    }
}

/// One `name = value` of the keyword form.
struct Keyword<'text> {
    name: Cow<'text, str>,
    value: String,
    text: &'text str,
}

impl<'text> Keyword<'text> {
    /// Reads the first pair of a text that is not blank, and answers it with what follows. The rules are libpq's:
    /// white space around `=` is allowed, `\` takes the next character as it is, `'` encloses white space.
    fn read(text: &'text str) -> Option<(Self, &'text str)> {
        let text = text.trim_start();
        let (name, after) = text.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut characters = after.char_indices().skip(usize::from(quoted));
        let mut value = String::new();
        let mut end = after.len();
        let mut closed = !quoted;
        while let Some((index, character)) = characters.next() {
            match character {
                '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
                '\'' if quoted => {
                    (end, closed) = (index + 1, true);
                    break;
                }
                blank if !quoted && blank.is_whitespace() => {
                    end = index;
                    break;
                }
                other => value.push(other),
            }
        }
        let whole = &text[..text.len() - after.len() + end];
        // The driver refuses an empty value without quotes, as does libpq at the end of the text.
        (closed && (quoted || !value.is_empty())).then(|| {
            (
                Self {
                    name: Cow::Borrowed(name),
                    value,
                    text: whole,
                },
                &after[end..],
            )
        })
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, SettingsError> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| SettingsError::Malformed("a parameter is not UTF-8"))
}
