//! What `herald healthcheck` is told.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::Args;
use http::Uri;

use super::{Mistakes, tls::CERTIFICATE_VARIABLE};

/// `herald healthcheck` as typed.
#[derive(Args, Clone, Debug)]
pub struct HealthcheckFlags {
    /// The gateway to ask. By default the one that `HERALD_BIND` makes listen on this machine.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Where the gateway on this machine listens.
    #[arg(
        long,
        env = "HERALD_BIND",
        default_value = "127.0.0.1:4000",
        value_name = "ADDRESS:PORT"
    )]
    bind: String,
    /// Set as for the gateway on this machine, which is asked by TLS then. Its certificate need not name this machine, and is not
    /// checked: nothing secret is said. That of another gateway (`--url https://…`) is.
    #[arg(long = "tls-cert", env = CERTIFICATE_VARIABLE, value_name = "FILE")]
    tls_certificate: Option<OsString>,
    /// Ask whether it takes sessions (`/readyz`), not only whether it lives (`/healthz`).
    #[arg(long)]
    ready: bool,
}

/// How a gateway is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Without TLS.
    None,
    /// By TLS, with whoever listens there: the gateway of this machine, whose certificate names the host that others know it by.
    Unchecked,
    /// By TLS, with a certificate that leads to a root of the system's and names the host.
    Checked,
}

/// `herald healthcheck`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthcheckSettings {
    /// Host and port, as they are connected to and named in the request.
    pub authority: String,
    /// The host alone, as its certificate names it.
    pub host: String,
    /// Whether it is asked by TLS.
    pub security: Security,
    /// What is asked.
    pub path: String,
}

impl HealthcheckFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<HealthcheckSettings, Mistakes> {
        let mut mistakes = Mistakes::none();
        let question = if self.ready { "/readyz" } else { "/healthz" };
        let place = match self.url.filter(|url| !url.is_empty()) {
            Some(url) => mistakes.check("--url", place(&url)),
            None => mistakes.check(
                "HERALD_BIND",
                local(
                    &self.bind,
                    self.tls_certificate.is_some_and(|file| !file.is_empty()),
                ),
            ),
        };
        mistakes.into_result()?;
        let mut settings = place.ok_or_else(Mistakes::none)?;
        settings.path.push_str(question);
        Ok(settings)
    }
}

/// The gateway of a URL, and its own path.
fn place(url: &str) -> Result<HealthcheckSettings, String> {
    let wrong = || {
        format!("`{url}` is not the plain address of a gateway; write something like http://127.0.0.1:4000")
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    let (security, port) = match uri.scheme_str() {
        Some("http") => (Security::None, 80),
        Some("https") => (Security::Checked, 443),
        _ => return Err(wrong()),
    };
    if uri.query().is_some() {
        return Err(wrong());
    }
    Ok(HealthcheckSettings {
        authority: format!("{host}:{}", uri.port_u16().unwrap_or(port)),
        host: host.trim_matches(['[', ']']).to_owned(),
        security,
        path: uri.path().trim_end_matches('/').to_owned(),
    })
}

/// Where a gateway that listens there can be reached from this machine: one that listens on every address, on loopback.
fn local(bind: &str, by_tls: bool) -> Result<HealthcheckSettings, String> {
    let mut address: SocketAddr = if bind.is_empty() { "127.0.0.1:4000" } else { bind }
        .parse()
        .map_err(|_| format!("`{bind}` is not an address with a port; write 127.0.0.1:4000 or [::]:4000"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(HealthcheckSettings {
        authority: address.to_string(),
        host: address.ip().to_string(),
        security: if by_tls {
            Security::Unchecked
        } else {
            Security::None
        },
        path: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: Option<&str>, bind: &str, ready: bool) -> Result<String, String> {
        let flags = HealthcheckFlags {
            url: url.map(str::to_owned),
            bind: bind.to_owned(),
            tls_certificate: None,
            ready,
        };
        flags
            .check()
            .map(|settings| format!("{} {}", settings.authority, settings.path))
            .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn the_gateway_of_this_machine_is_asked_where_it_listens() {
        assert_eq!(check(None, "", false).unwrap(), "127.0.0.1:4000 /healthz");
        assert_eq!(check(None, "0.0.0.0:80", true).unwrap(), "127.0.0.1:80 /readyz");
        assert_eq!(check(None, "[::]:4000", false).unwrap(), "[::1]:4000 /healthz");
        assert_eq!(check(None, "10.0.0.1:1", false).unwrap(), "10.0.0.1:1 /healthz");
    }

    #[test]
    fn another_gateway_is_asked_below_its_own_path() {
        let url = Some("http://gateway/herald/");
        assert_eq!(check(url, "x", true).unwrap(), "gateway:80 /herald/readyz");
    }

    #[test]
    fn the_gateway_of_this_machine_is_asked_by_tls_if_it_has_a_certificate_and_another_by_its_url() {
        let flags = |url: Option<&str>, certificate: &str| {
            let flags = HealthcheckFlags {
                url: url.map(str::to_owned),
                bind: "[::]:4000".to_owned(),
                tls_certificate: Some(certificate.into()),
                ready: false,
            };
            let settings = flags.check().unwrap();
            (settings.security, settings.authority, settings.host)
        };
        let own = |security| (security, "[::1]:4000".to_owned(), "::1".to_owned());
        assert_eq!(flags(None, "cert.pem"), own(Security::Unchecked));
        assert_eq!(flags(None, ""), own(Security::None));
        let other = |security, port| (security, format!("gateway:{port}"), "gateway".to_owned());
        assert_eq!(flags(Some("https://gateway"), ""), other(Security::Checked, 443));
        assert_eq!(
            flags(Some("http://gateway"), "cert.pem"),
            other(Security::None, 80)
        );
    }

    #[test]
    fn what_cannot_be_asked_says_what_could() {
        for url in [
            "gateway:4000",
            "ftp://gateway",
            "http://",
            "http://h?x",
            "https://h?x",
        ] {
            assert!(
                check(Some(url), "", false)
                    .unwrap_err()
                    .contains("http://127.0.0.1:4000"),
                "{url}"
            );
        }
        assert!(check(None, "4000", false).unwrap_err().contains("HERALD_BIND"));
    }
}
