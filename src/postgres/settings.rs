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
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio_postgres::{
    Config,
    config::{Host, SslMode as DriverSslMode, SslNegotiation},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{parameters::Taken, tls};

/// libpq's default port.
const DEFAULT_PORT: u16 = 5432;
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
    /// An `@` that does not end the credentials is nearly always a piece of a password that was not percent-encoded.
    #[error("it contains an `@` too many; where it does not end the credentials, write it as %40")]
    AtSign,
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
        return Err(SettingsError::AtSign);
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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse_with_home(text, None)
    }

    fn error(text: &str) -> SettingsError {
        parse(text).unwrap_err()
    }

    #[test]
    fn both_forms_say_the_same_and_neither_shows_the_password() {
        for text in [
            "postgres://ann:s3cret%20word@db.example:6432/app?sslmode=require&connect_timeout=7",
            "postgresql://ann:s3cret%20word@db.example:6432/app?connect_timeout=7&sslmode=require&ssl=true",
            r"host=db.example port = 6432 user=ann password='s3cret word' dbname=app sslmode=require connect_timeout=7",
            r"host=db.example port=6432 user=ann password=s3cret\ word dbname=app connect_timeout=7 sslmode='require'",
        ] {
            let settings = parse(text).unwrap();
            assert_eq!(settings.describe(), "ann@db.example:6432/app", "{text}");
            assert_eq!(settings.ssl_mode(), SslMode::Require);
            assert_eq!(settings.config().get_password(), Some(b"s3cret word".as_slice()));
            assert_eq!(
                settings.config().get_connect_timeout(),
                Some(&Duration::from_secs(7))
            );
            assert_eq!(settings.config().get_ssl_mode(), DriverSslMode::Require);
            let shown = format!("{settings:?} {settings}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    #[test]
    fn every_mode_of_libpq_is_known_and_allow_is_refused_with_the_reason() {
        let mode = |word: &str| parse(&format!("host=h sslmode={word}")).map(|settings| settings.ssl_mode());
        assert_eq!(parse("host=h").unwrap().ssl_mode(), SslMode::Prefer);
        assert_eq!(mode("disable"), Ok(SslMode::Disable));
        assert_eq!(mode("prefer"), Ok(SslMode::Prefer));
        assert_eq!(mode("require"), Ok(SslMode::Require));
        assert_eq!(mode("allow"), Err(SettingsError::AllowIsNotSupported));
        assert_eq!(mode("VERIFY-FULL"), Err(SettingsError::UnknownSslMode));
        assert_eq!(mode("''"), Ok(SslMode::Prefer));
    }

    #[test]
    fn a_mode_that_verifies_without_a_root_says_to_set_sslrootcert() {
        let home = tempfile::tempdir().unwrap();
        for mode in ["verify-ca", "verify-full"] {
            let text = format!("host=h sslmode={mode}");
            let told = Settings::parse_with_home(&text, Some(home.path()))
                .unwrap_err()
                .to_string();
            assert!(
                told.contains("set sslrootcert") && told.contains(".postgresql/root.crt does not exist"),
                "{told}"
            );
            assert!(error(&text).to_string().contains("set sslrootcert"));
        }
    }

    #[test]
    fn the_default_root_file_counts_for_every_mode_from_require_on() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".postgresql")).unwrap();
        fs::write(home.path().join(".postgresql/root.crt"), "no certificate").unwrap();
        for mode in ["require", "verify-ca", "verify-full"] {
            let told =
                Settings::parse_with_home(&format!("host=h sslmode={mode}"), Some(home.path())).unwrap_err();
            assert!(told.to_string().contains("holds no certificate"), "{told}");
        }
        for mode in ["disable", "prefer"] {
            Settings::parse_with_home(&format!("host=h sslmode={mode}"), Some(home.path())).unwrap();
        }
    }

    #[test]
    fn a_root_file_that_cannot_be_used_is_named() {
        let told = error("host=h sslmode=verify-full sslrootcert=/nowhere/ca.crt").to_string();
        assert!(told.contains("/nowhere/ca.crt"), "{told}");
    }

    #[test]
    fn the_systems_roots_demand_verify_full() {
        assert_eq!(
            error("host=h sslmode=require sslrootcert=system"),
            SettingsError::SystemNeedsVerifyFull
        );
        match parse("host=h sslrootcert=system") {
            Ok(settings) => assert_eq!(settings.ssl_mode(), SslMode::VerifyFull),
            // A machine without root certificates is told so.
            Err(told) => assert!(told.to_string().contains("the system's store"), "{told}"),
        }
    }

    #[test]
    fn an_unknown_parameter_is_named_unless_it_may_be_part_of_a_password() {
        assert_eq!(
            error("host=h gssencmode=disable").to_string(),
            "Herald does not know the parameter `gssencmode`; remove it"
        );
        assert_eq!(
            error("postgres://u@h/d?pgbouncer=true"),
            SettingsError::UnknownParameter("pgbouncer".to_owned())
        );
        for text in [
            "password=my secret=word host=h",
            "host=h password=my secret",
            "postgres://u@h/d?password=my&secret=word",
        ] {
            let told = error(text);
            assert_eq!(told, SettingsError::UnknownAfterPassword);
            assert!(!told.to_string().contains("secret"));
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused_at_once() {
        assert_eq!(error("user=u"), SettingsError::NoHost);
        assert_eq!(error("postgres:///db"), SettingsError::NoHost);
        assert_eq!(error("postgres://u:p@ss@h/d"), SettingsError::AtSign);
        assert_eq!(error("postgres://u:p@s?s=@h/d"), SettingsError::AtSign);
        assert_eq!(error("host=a,b,c port=1,2"), SettingsError::Counts);
        assert_eq!(error("host=a,b hostaddr=127.0.0.1"), SettingsError::Counts);
        assert_eq!(
            error("host=h port=http"),
            SettingsError::InvalidValue("port".to_owned())
        );
        assert_eq!(
            error("host=h sslmode=prefer sslnegotiation=direct"),
            SettingsError::DirectNeedsTls
        );
        assert_eq!(
            error("host=h,/run/postgresql sslmode=require"),
            SettingsError::MixedHosts(SslMode::Require)
        );
        assert!(matches!(error(""), SettingsError::Malformed(_)));
        assert!(matches!(error("mysql://u@h/d"), SettingsError::Malformed(_)));
        assert!(matches!(
            error("host=h password='open"),
            SettingsError::Malformed(_)
        ));
    }

    #[test]
    fn sockets_addresses_and_several_hosts_are_described() {
        for (text, described) in [
            ("host=/run/postgresql user=u dbname=d", "u@/run/postgresql:5432/d"),
            ("postgres://u@[::1]:6000/d", "u@[::1]:6000/d"),
            ("hostaddr=10.0.0.7 user=u", "u@10.0.0.7:5432/u"),
            ("postgres://u@a:1,b:2/d", "u@a:1,b:2/d"),
            ("host=a,b port=7 dbname=d", "a:7,b:7/d"),
        ] {
            assert_eq!(parse(text).unwrap().describe(), described);
        }
    }

    #[test]
    fn a_unix_socket_is_never_encrypted_whatever_the_mode() {
        let settings = parse("host=/run/postgresql sslmode=require").unwrap();
        assert_eq!(settings.config().get_ssl_mode(), DriverSslMode::Disable);
    }

    #[test]
    fn dead_connections_are_found_unless_the_string_says_otherwise() {
        let config = parse("host=h").unwrap().config().clone();
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(15));
        assert_eq!(config.get_keepalives_interval(), Some(Duration::from_secs(5)));
        assert_eq!(config.get_keepalives_retries(), Some(3));
        assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_secs(10)));
        let text = "host=h keepalives_idle=60 keepalives_interval=7 keepalives_count=9 tcp_user_timeout=2500";
        let config = parse(text).unwrap().config().clone();
        assert_eq!(config.get_keepalives_idle(), Duration::from_secs(60));
        assert_eq!(config.get_keepalives_interval(), Some(Duration::from_secs(7)));
        assert_eq!(config.get_keepalives_retries(), Some(9));
        assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_millis(2500)));
        assert_eq!(
            parse("host=h tcp_user_timeout=0")
                .unwrap()
                .config()
                .get_tcp_user_timeout(),
            None
        );
        assert_eq!(
            error("host=h tcp_user_timeout=10s"),
            SettingsError::InvalidValue("tcp_user_timeout".to_owned())
        );
    }

    proptest! {
        #[test]
        fn any_password_survives_quoting_in_both_forms(password in "[^\0]{1,40}") {
            let quoted = password.replace('\\', r"\\").replace('\'', r"\'");
            let settings = parse(&format!("host=h password='{quoted}' sslmode=require user=u")).unwrap();
            prop_assert_eq!(settings.config().get_password(), Some(password.as_bytes()));
            let encoded = percent_encoding::percent_encode(password.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
            let settings = parse(&format!("postgres://u:{encoded}@h/d?sslmode=require")).unwrap();
            prop_assert_eq!(settings.config().get_password(), Some(password.as_bytes()));
        }

        #[test]
        fn no_error_shows_a_password_however_badly_it_is_quoted(
            before in "[ '\\\\=/:?&#@,]{0,3}", after in "[ '\\\\=/:?&#@,]{0,3}", form in 0usize..4,
        ) {
            let password = format!("{before}hunter2{after}hunter2");
            let text = match form {
                0 => format!("postgres://u:{password}@h/d?sslmode=wrong"),
                1 => format!("postgres://u@h/d?password={password}&sslmode=wrong"),
                2 => format!("host=h password={password} sslmode=wrong"),
                _ => format!("password='{password}' host=h sslmode=wrong"),
            };
            if let Err(told) = parse(&text) {
                prop_assert!(!format!("{told} {told:?}").contains("hunter2"), "{}: {}", text, told);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*", url in "postgres://[^\\s]{0,60}") {
            let _parsed = parse(&text);
            let _parsed = parse(&url);
        }
    }
}
