//! What a request says of the addresses that it passed, as a client wrote it and a proxy completed it. Each line of the input is one of
//! the header's values; the last one is a setting of trusted proxies as well.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use herald_fuzz::forwarded::{ForwardedHeader, TrustedProxies};
use libfuzzer_sys::fuzz_target;

/// A proxy that is trusted by default.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Addresses that the proxy sees, with what it writes in each header.
const CLIENTS: [(IpAddr, &str, &str); 2] = [
    (
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
        "203.0.113.9",
        "for=203.0.113.9;proto=https",
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
        "2001:db8::9",
        "proto=https;for=\"[2001:db8::9]:4711\"",
    ),
];

fuzz_target!(|data: &[u8]| {
    let values: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let last = values.last().and_then(|value| str::from_utf8(value).ok());
    if let Some(Ok(proxies)) = last.map(str::parse::<TrustedProxies>) {
        let found = proxies.client(PROXY, ForwardedHeader::XForwardedFor, values.iter().copied());
        assert!(found.is_none_or(|client| client == PROXY || !proxies.contains(client)));
    }
    let proxies = TrustedProxies::default();
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let found = proxies.client(PROXY, header, values.iter().copied());
        assert!(found.is_none_or(|client| !proxies.contains(client)));
        for (client, plain, pairs) in CLIENTS {
            // Whoever is no proxy is believed nothing.
            assert_eq!(
                proxies.client(client, header, values.iter().copied()),
                Some(client)
            );
            // A proxy adds to the last line, or a line of its own; what the client wrote must not count.
            let added = if header == ForwardedHeader::Forwarded {
                pairs
            } else {
                plain
            };
            let completed = [values[values.len() - 1], b", ", added.as_bytes()].concat();
            let before = &values[..values.len() - 1];
            let same_line = before.iter().copied().chain([completed.as_slice()]);
            let own_line = values.iter().copied().chain([added.as_bytes()]);
            assert_eq!(proxies.client(PROXY, header, same_line), Some(client));
            assert_eq!(proxies.client(PROXY, header, own_line), Some(client));
        }
    }
});
