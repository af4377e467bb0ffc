//! Connection strings, as libpq reads them.
//!
//! The driver knows neither `verify-ca`, `verify-full` nor `sslrootcert`, so these are taken out here and the rest is
//! handed on. Source: PostgreSQL's documentation, "Connection Strings" (34.1.1), "Parameter Key Words" (34.1.2) and "SSL
//! Support" (34.19). Where Herald differs from libpq it is stricter: `prefer` does not fall back to an unencrypted
//! connection when a TLS handshake fails, and a root certificate named beside `prefer` is used, not forgotten.
//!
//! It reads no environment (`PGPASSWORD`, `PGHOST`), no password file and no service file. Root certificates are read
//! once, so a new file counts from the next start.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode as DriverSslMode, SslNegotiation},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, Roots, Verification};

/// After this much silence the kernel asks whether the other side is still there. With the two values below a peer that
/// has vanished is given up after 15 + 3 * 5 = 30 s; the feed's own deadlines find it sooner, this is for idle ones.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// The time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How many of them may go unanswered.
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent data may stay unacknowledged before the connection is given up (`TCP_USER_TIMEOUT`, Linux).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// libpq's default port.
const DEFAULT_PORT: u16 = 5432;
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

/// How much a connection is protected; the words and their meaning are libpq's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it. The default, and no protection against anyone who can alter the traffic.
    Prefer,
    /// Always encrypted. The server's certificate is verified only if there is a root certificate file.
    Require,
    /// Encrypted, with a certificate that leads to a trusted root, whatever name it bears.
    VerifyCa,
    /// Encrypted, with a certificate that leads to a trusted root and bears the host's name.
    VerifyFull,
}

/// Why a connection string cannot be used. No text of it holds a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    /// It has neither of the two forms.
    #[error(
        "this is not a connection string ({0}); write postgres://user:password@host:5432/database, with special \
         characters percent-encoded, or host=… port=… user=… password='…' dbname=…"
    )]
    Malformed(&'static str),
    /// A parameter that nobody would read.
    #[error("Herald does not know the parameter `{0}`; remove it")]
    UnknownParameter(String),
    /// A word after an unquoted password, which may be a part of it and is not repeated here.
    #[error(
        "what follows the password is no known parameter; if the password has spaces, write password='…'"
    )]
    UnknownAfterPassword,
    /// A parameter's value is not one that it can have.
    #[error("the value of `{0}` cannot be used; see the PostgreSQL documentation of connection parameters")]
    InvalidValue(String),
    /// `sslmode` is none of libpq's words.
    #[error("sslmode must be disable, prefer, require, verify-ca or verify-full")]
    UnknownSslMode,
    /// `sslmode=allow` asks for an unencrypted connection first.
    #[error(
        "sslmode=allow is not supported, because it tries without encryption first; write prefer or require"
    )]
    AllowIsNotSupported,
    /// The mode verifies, and there is nothing to verify with.
    #[error(
        "sslmode={mode} needs a root certificate: set sslrootcert to a PEM file, or to `system` for the operating \
         system's certificates{}", looked_for(.default.as_deref())
    )]
    NoRootCertificate {
        /// The mode asked for.
        mode: SslMode,
        /// libpq's default file, which does not exist; `None` if there is no home directory.
        default: Option<PathBuf>,
    },
    /// The root certificate cannot be used.
    #[error("sslrootcert {which}: {problem}")]
    RootCertificate {
        /// The file, or `system`.
        which: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system's roots sign for everyone, so without the name they prove nothing.
    #[error(
        "sslrootcert=system needs sslmode=verify-full, because anyone can get a certificate from these authorities"
    )]
    SystemNeedsVerifyFull,
    /// There is nowhere to connect to.
    #[error("it names no host; write host=… (a name, an address, or the folder of a Unix socket)")]
    NoHost,
    /// An `@` in the host is nearly always a piece of a password that was not percent-encoded.
    #[error("the host contains an `@`; if it belongs to the password, write it as %40")]
    AtSignInHost,
    /// Lists of different lengths.
    #[error("the numbers of hosts, hostaddrs and ports differ; give one port, or as many as there are hosts")]
    Counts,
    /// A Unix socket is never encrypted, and a TCP host is to be.
    #[error("Unix sockets and TCP hosts cannot be mixed with sslmode={0}; name hosts of one kind")]
    MixedHosts(SslMode),
    /// Direct TLS cannot fall back, so it does not go with a mode that may.
    #[error("sslnegotiation=direct needs sslmode=require, verify-ca or verify-full")]
    DirectNeedsTls,
}

/// Where and as whom to connect, and how the connection is protected.
#[derive(Clone)]
pub struct Settings {
    config: Config,
    ssl_mode: SslMode,
    tls: MakeRustlsConnect,
    variable: &'static str,
}

impl Settings {
    /// Reads a libpq connection string, in its URL or its keyword form, and the root certificates it names.
    ///
    /// # Errors
    /// [`SettingsError`], whose text is fit for the operator and holds no password.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        Self::parse_with_home(text, std::env::home_dir().as_deref())
    }

    /// The same settings, remembered as those of another variable than `DATABASE_URL`. [`super::Failure`] names it.
    #[must_use]
    pub const fn of_variable(mut self, variable: &'static str) -> Self {
        self.variable = variable;
        self
    }

    /// `user@host:port/database`, for logs: no password, no parameters.
    pub fn describe(&self) -> String {
        let ports = self.config.get_ports();
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let port = ports
                    .get(index)
                    .or_else(|| ports.first())
                    .copied()
                    .unwrap_or(DEFAULT_PORT);
                match host {
                    Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                    Host::Tcp(name) => format!("{name}:{port}"),
                    Host::Unix(folder) => format!("{}:{port}", folder.display()),
                }
            })
            .collect();
        let user = self
            .config
            .get_user()
            .map(|user| format!("{user}@"))
            .unwrap_or_default();
        let database = self
            .config
            .get_dbname()
            .or_else(|| self.config.get_user())
            .unwrap_or_default();
        format!("{user}{}/{database}", hosts.join(","))
    }

    /// How connections are protected.
    pub const fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The user to connect as, if the string names one; otherwise it is the user who runs the process.
    pub fn user(&self) -> Option<&str> {
        self.config.get_user()
    }

    /// The variable these settings came from.
    pub const fn variable(&self) -> &'static str {
        self.variable
    }

    /// The TLS side of a connection; a cancel request to the server needs it too.
    pub fn tls(&self) -> MakeRustlsConnect {
        self.tls.clone()
    }

    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    fn parse_with_home(text: &str, home: Option<&Path>) -> Result<Self, SettingsError> {
        let (taken, rest) = Taken::out_of(text)?;
        let mut config = Config::from_str(&rest).map_err(|error| invalid(&error))?;
        let ssl_mode = taken.ssl_mode()?;
        complete_hosts(&mut config)?;
        taken.apply(&mut config)?;
        config.ssl_mode(driver_mode(&config, ssl_mode)?);
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && matches!(ssl_mode, SslMode::Disable | SslMode::Prefer) {
            return Err(SettingsError::DirectNeedsTls);
        }
        let tls = tls::connector(taken.verification(ssl_mode, home)?, direct)
            .map_err(|problem| taken.about_root(problem.to_string()))?;
        Ok(Self {
            config,
            ssl_mode,
            tls,
            variable: "DATABASE_URL",
        })
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("address", &self.describe())
            .field("ssl_mode", &self.ssl_mode)
            .field("variable", &self.variable)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.describe())
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        })
    }
}

/// The parameters that the driver does not know, does not know under this name, or reads in another unit.
#[derive(Debug, Default)]
struct Taken {
    ssl_mode: Option<String>,
    root_certificate: Option<String>,
    keepalives_count: Option<String>,
    tcp_user_timeout: Option<String>,
    names_idle: bool,
    names_interval: bool,
}

impl Taken {
    /// Takes its parameters out of a connection string, and answers what is left of it for the driver.
    fn out_of(text: &str) -> Result<(Self, String), SettingsError> {
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
        let Some(mark) = text[after_credentials..]
            .find('?')
            .map(|mark| after_credentials + mark)
        else {
            return Ok(text.to_owned());
        };
        let mut kept = Vec::new();
        for pair in text[mark + 1..].split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or(SettingsError::Malformed("a parameter after `?` has no `=`"))?;
            let (name, value) = match (decode(name)?, decode(value)?) {
                // libpq reads JDBC's spelling too, in URLs only.
                (name, value) if name == "ssl" && value == "true" => ("sslmode".into(), "require".into()),
                other => other,
            };
            if !self.take(&name, &value)? {
                kept.push(pair);
            }
        }
        let separator = if kept.is_empty() { "" } else { "?" };
        Ok(format!("{}{separator}{}", &text[..mark], kept.join("&")))
    }

    fn out_of_keywords(&mut self, text: &str) -> Result<String, SettingsError> {
        let mut kept = Vec::new();
        let mut left = text;
        let mut follows_bare_password = false;
        while !left.trim_start().is_empty() {
            let Some((pair, after)) = Keyword::read(left) else {
                return Err(if follows_bare_password {
                    SettingsError::UnknownAfterPassword
                } else {
                    SettingsError::Malformed("it is no list of name=value")
                });
            };
            let taken = self.take(&pair.name, &pair.value).map_err(|error| match error {
                SettingsError::UnknownParameter(_) if follows_bare_password => {
                    SettingsError::UnknownAfterPassword
                }
                other => other,
            })?;
            if !taken {
                kept.push(pair.text);
            }
            follows_bare_password = pair.name == "password" && !pair.quoted;
            left = after;
        }
        Ok(kept.join(" "))
    }

    /// Keeps a parameter (`true`), leaves it to the driver (`false`), or refuses it.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, SettingsError> {
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
            unknown => return Err(SettingsError::UnknownParameter(unknown.to_owned())),
        };
        // libpq takes an empty value for none.
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
        Ok(true)
    }

    fn ssl_mode(&self) -> Result<SslMode, SettingsError> {
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
    fn verification(&self, mode: SslMode, home: Option<&Path>) -> Result<Verification, SettingsError> {
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

    fn about_root(&self, problem: String) -> SettingsError {
        let which = self
            .root_certificate
            .clone()
            .unwrap_or_else(|| format!("~/{DEFAULT_ROOT_CERTIFICATE}"));
        SettingsError::RootCertificate { which, problem }
    }

    /// Sets what the string says about dead connections, and Herald's own values where it is silent.
    fn apply(&self, config: &mut Config) -> Result<(), SettingsError> {
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
    quoted: bool,
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
                    quoted,
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

/// Gives every address a host, as the driver takes the name for TLS from there, and checks that the lists agree.
fn complete_hosts(config: &mut Config) -> Result<(), SettingsError> {
    let addresses: Vec<String> = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    if config.get_hosts().is_empty() {
        for address in &addresses {
            config.host(address);
        }
    }
    let hosts = config.get_hosts();
    let names: Vec<&str> = hosts
        .iter()
        .filter_map(|host| {
            if let Host::Tcp(name) = host {
                Some(name.as_str())
            } else {
                None
            }
        })
        .collect();
    if hosts.is_empty() || names.contains(&"") {
        return Err(SettingsError::NoHost);
    }
    if names.iter().any(|name| name.contains('@')) {
        return Err(SettingsError::AtSignInHost);
    }
    let ports = config.get_ports().len();
    if (!addresses.is_empty() && addresses.len() != hosts.len()) || (ports > 1 && ports != hosts.len()) {
        return Err(SettingsError::Counts);
    }
    Ok(())
}

/// What the driver has to do for a mode. Over a Unix socket there is no TLS and libpq ignores the mode.
fn driver_mode(config: &Config, mode: SslMode) -> Result<DriverSslMode, SettingsError> {
    let sockets = config
        .get_hosts()
        .iter()
        .filter(|host| matches!(host, Host::Unix(_)))
        .count();
    if sockets == config.get_hosts().len() {
        return Ok(DriverSslMode::Disable);
    }
    match mode {
        SslMode::Disable => Ok(DriverSslMode::Disable),
        SslMode::Prefer => Ok(DriverSslMode::Prefer),
        _ if sockets > 0 => Err(SettingsError::MixedHosts(mode)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Ok(DriverSslMode::Require),
    }
}

/// Repeats of the driver's complaint only the name of a parameter: the rest may quote a piece of the password.
fn invalid(error: &tokio_postgres::Error) -> SettingsError {
    let complaint = std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default();
    complaint
        .strip_prefix("invalid value for option `")
        .and_then(|name| name.strip_suffix('`'))
        .map_or(
            SettingsError::Malformed("its parts cannot be told from each other"),
            |name| SettingsError::InvalidValue(name.to_owned()),
        )
}

fn looked_for(default: Option<&Path>) -> String {
    default
        .map(|file| format!(" ({} does not exist)", file.display()))
        .unwrap_or_default()
}
