//! From which address a client comes when a proxy stands in between, by what the proxy says of it.
//!
//! Each proxy adds the address that it sees at the end of a list, so that the list is read from its end: as long as an address is a
//! trusted proxy's, what that proxy added before it counts, and the first other address is the client's. What stands further left
//! was said by the client, who may say anything. So a client cannot choose its address, whatever it sends.
//!
//! Pure, and of nothing but the standard library and `ipnet`, so that it is fuzzed alone.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

/// The most networks of proxies that can be named. Each is looked at for each address.
const NETWORKS_MAX: usize = 256;

/// The most addresses of a list that are read. No request passes as many proxies.
const HOPS_MAX: usize = 64;

/// The proxy on the same machine.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];

/// What `private` stands for: networks that are not routed on the internet (RFC 1918, RFC 4193, RFC 3927, RFC 4291 §2.5.6), and loopback.
const PRIVATE: [&str; 7] = [
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "fc00::/7",
    "fe80::/10",
];

/// In which header proxies say whom they speak for. Only one is believed: a proxy that writes the one lets the other through as
/// the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`, addresses separated by commas; what nearly every proxy writes.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), whose `for` is the address.
    Forwarded,
}

impl ForwardedHeader {
    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl FromStr for ForwardedHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::XForwardedFor, Self::Forwarded]
            .into_iter()
            .find(|header| header.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                format!("`{text}` is not a header that is read; write X-Forwarded-For or Forwarded")
            })
    }
}

/// The networks whose word about their clients is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl Default for TrustedProxies {
    /// Loopback: a gateway that runs beside its proxy needs to be told nothing.
    fn default() -> Self {
        Self(all(&LOOPBACK).collect())
    }
}

impl FromStr for TrustedProxies {
    type Err = String;

    /// Reads addresses and networks, separated by commas. `loopback` and `private` stand for what their names say, `none` for none.
    ///
    /// # Errors
    /// What cannot be read, and what can.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut networks = Vec::new();
        for part in text.split(',').map(str::trim) {
            match part {
                "none" if text.trim() == "none" => {}
                "loopback" => networks.extend(all(&LOOPBACK)),
                "private" => networks.extend(all(&PRIVATE)),
                _ => networks.push(network(part)?),
            }
        }
        if networks.len() > NETWORKS_MAX {
            return Err(format!("more than {NETWORKS_MAX} networks; name larger ones"));
        }
        Ok(Self(networks))
    }
}

fn all(named: &[&str]) -> impl Iterator<Item = IpNet> {
    named.iter().filter_map(|network| network.parse().ok())
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok(),
    };
    network.ok_or_else(|| {
        format!("`{text}` is no address and no network; write 10.0.0.7, 10.0.0.0/8, fd00::/8, loopback, private or none")
    })
}

impl TrustedProxies {
    /// Whether the address is a proxy's.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client for whom a request was sent: `peer` sent it, and `values` are those of the header in the order in which they came.
    /// `None` if the request is a trusted proxy's own, or the proxy does not tell the address.
    pub fn client<'a>(
        &self,
        peer: IpAddr,
        header: ForwardedHeader,
        values: impl DoubleEndedIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        if !self.contains(peer) {
            return Some(peer.to_canonical());
        }
        // No address holds a comma, so that a quotation mark that a client left open hides nothing of what a proxy added.
        let elements = values.rev().flat_map(|value| value.rsplit(|byte| *byte == b','));
        for element in elements.take(HOPS_MAX) {
            let address = read_element(element, header)?;
            if !self.contains(address) {
                return Some(address);
            }
        }
        None
    }
}

/// The address in one element of the list.
fn read_element(element: &[u8], header: ForwardedHeader) -> Option<IpAddr> {
    let text = str::from_utf8(element).ok()?;
    match header {
        ForwardedHeader::XForwardedFor => read_node(text.trim()),
        ForwardedHeader::Forwarded => {
            // RFC 7239 §4: pairs separated by semicolons; a value with a colon or a bracket is quoted.
            let pairs = text.split(';').filter_map(|pair| pair.trim().split_once('='));
            let mut values = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for"));
            let (_, value) = values.next()?;
            // The parameter stands once; an element that has it twice was put together by somebody else than a proxy.
            if values.next().is_some() {
                return None;
            }
            let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            read_node(unquoted.unwrap_or(value))
        }
    }
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn read_node(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    };
    bare()
        .or_else(with_port)
        .or_else(in_brackets)
        .map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use ForwardedHeader::{Forwarded, XForwardedFor};

    use super::*;

    fn client(proxies: &str, peer: &str, header: ForwardedHeader, values: &[&str]) -> Option<String> {
        let proxies: TrustedProxies = proxies.parse().unwrap();
        let values = values.iter().map(|value| value.as_bytes());
        let found = proxies.client(peer.parse().unwrap(), header, values);
        found.map(|address| address.to_string())
    }

    #[test]
    fn who_is_no_proxy_speaks_for_itself_whatever_it_says() {
        let said = client("10.0.0.0/8", "203.0.113.9", XForwardedFor, &["198.51.100.1"]);
        assert_eq!(said.as_deref(), Some("203.0.113.9"));
        let mapped = client("loopback", "::ffff:203.0.113.9", XForwardedFor, &[]);
        assert_eq!(mapped.as_deref(), Some("203.0.113.9"));
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        let through = |values: &[&str]| client("loopback,10.0.0.0/8", "127.0.0.1", XForwardedFor, values);
        assert_eq!(through(&["203.0.113.9"]).as_deref(), Some("203.0.113.9"));
        assert_eq!(
            through(&["198.51.100.1, 203.0.113.9, 10.1.2.3"]).as_deref(),
            Some("203.0.113.9")
        );
        assert_eq!(
            through(&["198.51.100.1", "203.0.113.9:4711 ,10.1.2.3"]).as_deref(),
            Some("203.0.113.9")
        );
        // What a client sends stands before what a proxy adds.
        for sent in ["nonsense", "\"", "127.0.0.1", ",,,", "10.0.0.1,10.0.0.2"] {
            assert_eq!(
                through(&[sent, "203.0.113.9"]).as_deref(),
                Some("203.0.113.9"),
                "{sent}"
            );
        }
    }

    #[test]
    fn a_proxy_that_tells_no_address_speaks_for_nobody() {
        for values in [
            &[][..],
            &[""],
            &["unknown"],
            &["203.0.113.9, _hidden"],
            &["127.0.0.1"],
            &["203.0.113.9,"],
        ] {
            assert_eq!(
                client("loopback", "::1", XForwardedFor, values),
                None,
                "{values:?}"
            );
        }
        let endless = vec!["127.0.0.1"; 1000].join(",");
        assert_eq!(
            client("loopback", "::1", XForwardedFor, &["203.0.113.9", &endless]),
            None
        );
    }

    #[test]
    fn every_form_of_rfc_7239_is_read() {
        for (value, expected) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("For=\"203.0.113.9:4711\";proto=https", "203.0.113.9"),
            (
                "proto=https; for=\"[2001:db8::17]\";by=203.0.113.43",
                "2001:db8::17",
            ),
            ("for=\"[2001:db8::17]:4711\"", "2001:db8::17"),
            ("for=198.51.100.1, for=\"203.0.113.9\"", "203.0.113.9"),
            ("for=\"198.51.100.1, for=203.0.113.9", "203.0.113.9"),
            ("for=\"[::ffff:203.0.113.9]\"", "203.0.113.9"),
        ] {
            let found = client("loopback", "127.0.0.1", Forwarded, &[value]);
            assert_eq!(found.as_deref(), Some(expected), "{value}");
        }
        for value in [
            "for=unknown",
            "for=_gazonk",
            "by=203.0.113.9",
            "for",
            "for=198.51.100.1;for=203.0.113.9",
        ] {
            assert_eq!(
                client("loopback", "127.0.0.1", Forwarded, &[value]),
                None,
                "{value}"
            );
        }
    }

    #[test]
    fn the_list_of_proxies_is_read_and_mistakes_are_told() {
        let proxies: TrustedProxies = "10.0.0.7, fd00::/8,loopback".parse().unwrap();
        for trusted in ["10.0.0.7", "fd12::1", "127.8.8.8", "::1", "::ffff:10.0.0.7"] {
            assert!(proxies.contains(trusted.parse().unwrap()), "{trusted}");
        }
        assert!(!proxies.contains("10.0.0.8".parse().unwrap()));
        let private: TrustedProxies = "private".parse().unwrap();
        assert!(private.contains("172.31.255.255".parse().unwrap()));
        assert!(!private.contains("172.32.0.0".parse().unwrap()));
        let none: TrustedProxies = "none".parse().unwrap();
        assert!(!none.contains("127.0.0.1".parse().unwrap()));
        assert!(TrustedProxies::default().contains("127.0.0.1".parse().unwrap()));
        for wrong in [
            "10.0.0.0/33",
            "proxy.example",
            "none,loopback",
            "10.0.0.1,,10.0.0.2",
            "",
        ] {
            let told = wrong.parse::<TrustedProxies>().unwrap_err();
            assert!(told.contains("write 10.0.0.7"), "{wrong}: {told}");
        }
        let many = vec!["10.0.0.1"; NETWORKS_MAX + 1].join(",");
        assert!(
            many.parse::<TrustedProxies>()
                .unwrap_err()
                .contains("name larger")
        );
        assert_eq!("forwarded".parse(), Ok(Forwarded));
        assert!(
            "Via"
                .parse::<ForwardedHeader>()
                .unwrap_err()
                .contains("X-Forwarded-For")
        );
    }
}
