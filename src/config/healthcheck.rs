//! What `herald healthcheck` is told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;
use http::Uri;

use super::Mistakes;

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
    /// Ask whether it takes sessions (`/readyz`), not only whether it lives (`/healthz`).
    #[arg(long)]
    ready: bool,
}

/// `herald healthcheck`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthcheckSettings {
    /// Host and port, as they are connected to and named in the request.
    pub authority: String,
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
                local(&self.bind).map(|authority| (authority, String::new())),
            ),
        };
        mistakes.into_result()?;
        let (authority, path) = place.ok_or_else(Mistakes::none)?;
        Ok(HealthcheckSettings {
            authority,
            path: format!("{path}{question}"),
        })
    }
}

/// Authority, with a port, and path of a gateway's URL.
fn place(url: &str) -> Result<(String, String), String> {
    let wrong = || {
        format!("`{url}` is not the plain address of a gateway; write something like http://127.0.0.1:4000")
    };
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    if uri.scheme_str() != Some("http") || uri.query().is_some() {
        return Err(wrong());
    }
    let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    Ok((authority, uri.path().trim_end_matches('/').to_owned()))
}

/// Where a gateway that listens there can be reached from this machine: one that listens on every address, on loopback.
fn local(bind: &str) -> Result<String, String> {
    let mut address: SocketAddr = if bind.is_empty() { "127.0.0.1:4000" } else { bind }
        .parse()
        .map_err(|_| format!("`{bind}` is not an address with a port; write 127.0.0.1:4000 or [::]:4000"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: Option<&str>, bind: &str, ready: bool) -> Result<String, String> {
        let flags = HealthcheckFlags {
            url: url.map(str::to_owned),
            bind: bind.to_owned(),
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
    fn what_cannot_be_asked_says_what_could() {
        for url in ["gateway:4000", "https://gateway", "http://", "http://h?x"] {
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
