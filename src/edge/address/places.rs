//! How many connections there are from each address, and the bound on that.

use std::{net::IpAddr, sync::Arc};

use dashmap::{DashMap, Entry};

/// The bits of an IPv6 address that one customer of a provider shares (RFC 6177): whoever has one address has all of them.
const IPV6_PREFIX_BITS: u32 = 64;

/// What is open from each address. An address with nothing open is forgotten, so that there are never more of them than connections.
/// Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<Crowds>);

#[derive(Debug)]
struct Crowds {
    by_address: DashMap<IpAddr, Crowd>,
    each_max: usize,
}

/// What is open from one address.
#[derive(Debug)]
struct Crowd {
    open: usize,
    /// Whether it was told that there are too many, which is told once.
    is_told: bool,
}

/// One place among those of an address, for as long as it lives.
#[derive(Debug)]
pub(in crate::edge) struct Place {
    places: Places,
    address: IpAddr,
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::edge) struct Full;

impl Places {
    /// Nothing is open yet, and so much may be from each address.
    pub(super) fn new(each_max: usize) -> Self {
        Self(Arc::new(Crowds {
            by_address: DashMap::new(),
            each_max,
        }))
    }

    /// Takes a place of an address. All addresses of one IPv6 network of 64 bits are one.
    ///
    /// # Errors
    /// [`Full`].
    pub(super) fn take(&self, address: IpAddr) -> Result<Place, Full> {
        let address = shared_by_customer(address);
        let mut crowd = self.0.by_address.entry(address).or_insert(Crowd {
            open: 0,
            is_told: false,
        });
        if crowd.open >= self.0.each_max {
            if !std::mem::replace(&mut crowd.is_told, true) {
                tracing::warn!(
                    %address,
                    open = crowd.open,
                    "more connections are refused from this address; if it is a proxy's, name it in HERALD_TRUSTED_PROXIES, \
                     and if many people share it, raise HERALD_CONNECTIONS_PER_ADDRESS"
                );
            }
            return Err(Full);
        }
        crowd.open += 1;
        drop(crowd);
        Ok(Place {
            places: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut crowd) = self.places.0.by_address.entry(self.address) {
            crowd.get_mut().open -= 1;
            if crowd.get().open == 0 {
                crowd.remove();
            }
        }
    }
}

/// The address that stands for whoever has this one.
pub(super) fn shared_by_customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << (u128::BITS - IPV6_PREFIX_BITS));
            IpAddr::V6(network.into())
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_places_and_an_empty_one_is_forgotten() {
        let places = Places::new(2);
        let take = |address: &str| places.take(address.parse().unwrap());
        let first = take("203.0.113.9").unwrap();
        let second = take("::ffff:203.0.113.9").unwrap();
        assert_eq!(take("203.0.113.9").unwrap_err(), Full);
        let _other = take("203.0.113.10").unwrap();
        drop(first);
        let again = take("203.0.113.9").unwrap();
        assert_eq!(take("203.0.113.9").unwrap_err(), Full);
        assert_eq!(places.0.by_address.len(), 2);
        drop((again, second));
        assert_eq!(places.0.by_address.len(), 1);
    }

    #[test]
    fn an_ipv6_customer_is_one_address() {
        let places = Places::new(1);
        let take = |address: &str| places.take(address.parse().unwrap());
        let _place = take("2001:db8:1:2::1").unwrap();
        assert_eq!(take("2001:db8:1:2:ffff::9").unwrap_err(), Full);
        let _neighbour = take("2001:db8:1:3::1").unwrap();
    }
}
