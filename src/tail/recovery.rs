//! What a client does when its connection ended or did not come about: come back, when, or stop.
//!
//! It follows the section "Close codes" of `PROTOCOL.md`. Pure: the random source is an argument.

use std::{fmt, time::Duration};

use rand::{Rng, RngExt};

use crate::{backoff::Backoff, client::Escaped, protocol::close::CloseCode};

/// Clients of a gateway that shuts down come back spread over this time.
const GOING_AWAY_SPREAD: Duration = Duration::from_secs(5);

/// After too many frames.
const COOL_DOWN: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The first ceiling of the backoff.
const BACKOFF_BASE: Duration = Duration::from_millis(250);

/// The last ceiling of the backoff: somebody who looks at a terminal waits for the gateway to be back.
const BACKOFF_CAP: Duration = Duration::from_secs(15);

/// Close codes that proxies and load balancers use for what passes: service restart, try again later, bad gateway (IANA,
/// "WebSocket Close Code Number Registry").
const PASSING: [u16; 3] = [1012, 1013, 1014];

/// How a connection ended, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// No connection came about.
    Unreachable(String),
    /// The connection broke without a word.
    Broken(String),
    /// Nothing came for this long, although the gateway sends pings.
    Silent(Duration),
    /// A close frame.
    Closed {
        /// Its code.
        code: u16,
        /// Its text.
        reason: String,
    },
    /// An HTTP answer other than the one that opens a session.
    Refused {
        /// Its status.
        status: u16,
        /// The problem's `detail`, if it could be read.
        detail: Option<String>,
        /// The header `Retry-After`, if it holds seconds.
        retry_after: Option<Duration>,
    },
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(formatter, "the gateway cannot be reached: {}", Escaped(why)),
            Self::Broken(why) => write!(formatter, "the connection was lost: {}", Escaped(why)),
            Self::Silent(long) => write!(
                formatter,
                "the connection is dead: nothing came for {} s",
                long.as_secs()
            ),
            Self::Closed { code, reason } if reason.is_empty() => {
                write!(formatter, "the connection was closed with code {code}")
            }
            Self::Closed { code, reason } => {
                write!(
                    formatter,
                    "the gateway closed the connection with code {code}: {}",
                    Escaped(reason)
                )
            }
            Self::Refused { status, detail, .. } => {
                write!(formatter, "the gateway answered {status}")?;
                match detail {
                    Some(detail) => write!(formatter, ": {}", Escaped(detail)),
                    None if *status < 400 => {
                        formatter.write_str(", which opens no session; is this the address of a gateway?")
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

/// When to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Return {
    /// Without waiting.
    AtOnce,
    /// At a random moment within this time.
    Within(Duration),
    /// Not before this time has passed.
    After(Duration),
    /// After the next delay of the backoff.
    Backoff,
}

/// Decides when to come back, or `None` if that is of no use.
pub(super) fn decide(loss: &Loss, can_renew_token: bool) -> Option<Return> {
    match loss {
        Loss::Unreachable(_) | Loss::Broken(_) | Loss::Silent(_) => Some(Return::Backoff),
        Loss::Closed { code, .. } => match CloseCode::from_number(*code) {
            Some(known) => after_close(known, can_renew_token),
            None => PASSING.contains(code).then_some(Return::Backoff),
        },
        Loss::Refused {
            status, retry_after, ..
        } => match status {
            429 | 500.. => Some(match retry_after {
                Some(delay) if *delay > BACKOFF_CAP => Return::After((*delay).min(RETRY_AFTER_MAX)),
                _ => Return::Backoff,
            }),
            _ => None,
        },
    }
}

fn after_close(code: CloseCode, can_renew_token: bool) -> Option<Return> {
    if !code.comes_back() {
        return None;
    }
    match code {
        CloseCode::GoingAway => Some(Return::Within(GOING_AWAY_SPREAD)),
        CloseCode::TooManyFrames => Some(Return::After(COOL_DOWN)),
        CloseCode::TokenExpired => can_renew_token.then_some(Return::AtOnce),
        _ => Some(Return::AtOnce),
    }
}

/// The delays between a client's connections.
#[derive(Debug)]
pub(super) struct Delays(Backoff);

impl Delays {
    pub(super) const fn new() -> Self {
        Self(Backoff::new(BACKOFF_BASE, BACKOFF_CAP))
    }

    /// A connection has proved itself by events, or by lasting.
    pub(super) const fn proved(&mut self) {
        self.0.reset();
    }

    /// How long to wait. A client that came back at once and got nowhere backs off, so that it never spins.
    pub(super) fn draw(&mut self, coming_back: Return, has_proved: bool, random: &mut impl Rng) -> Duration {
        match coming_back {
            Return::AtOnce if has_proved => Duration::ZERO,
            Return::AtOnce | Return::Backoff => self.0.next_delay(random),
            Return::Within(spread) => spread.mul_f64(random.random::<f64>()),
            Return::After(least) => least,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn closed(code: CloseCode) -> Loss {
        Loss::Closed {
            code: code.number(),
            reason: code.reason().to_owned(),
        }
    }

    fn refused(status: u16, retry_after: Option<u64>) -> Loss {
        Loss::Refused {
            status,
            detail: None,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn each_close_code_is_obeyed() {
        for code in CloseCode::ALL {
            let expected = match code.number() {
                1001 => Some(Return::Within(Duration::from_secs(5))),
                4001 | 4008 => Some(Return::AtOnce),
                4029 => Some(Return::After(Duration::from_secs(60))),
                _ => None,
            };
            assert_eq!(decide(&closed(code), true), expected, "{code:?}");
            assert_eq!(
                decide(&closed(code), true).is_some(),
                code.comes_back(),
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_token_that_cannot_be_renewed_ends_it() {
        assert_eq!(decide(&closed(CloseCode::TokenExpired), false), None);
        assert_eq!(decide(&closed(CloseCode::Slow), false), Some(Return::AtOnce));
    }

    #[test]
    fn what_passes_is_told_from_what_does_not() {
        let close = |code| Loss::Closed {
            code,
            reason: String::new(),
        };
        assert_eq!(decide(&close(1012), true), Some(Return::Backoff));
        assert_eq!(decide(&close(1000), true), None);
        assert_eq!(decide(&close(4999), true), None);
        assert_eq!(
            decide(&Loss::Unreachable("refused".to_owned()), false),
            Some(Return::Backoff)
        );
        for status in [200, 302, 400, 401, 403, 404, 426] {
            assert_eq!(decide(&refused(status, Some(1)), true), None, "{status}");
        }
        for status in [429, 500, 502, 503, 504] {
            assert_eq!(
                decide(&refused(status, Some(1)), true),
                Some(Return::Backoff),
                "{status}"
            );
        }
        assert_eq!(
            decide(&refused(503, Some(86_400)), true),
            Some(Return::After(RETRY_AFTER_MAX))
        );
    }

    #[test]
    fn coming_back_at_once_again_and_again_without_getting_anywhere_backs_off() {
        let (mut delays, mut random) = (Delays::new(), StdRng::seed_from_u64(1));
        assert_eq!(delays.draw(Return::AtOnce, true, &mut random), Duration::ZERO);
        let longest = (0..40)
            .map(|_| delays.draw(Return::AtOnce, false, &mut random))
            .max()
            .unwrap();
        assert!(
            longest > Duration::from_secs(5) && longest <= BACKOFF_CAP,
            "{longest:?}"
        );
        delays.proved();
        assert!(delays.draw(Return::Backoff, true, &mut random) <= BACKOFF_BASE);
    }

    #[test]
    fn what_strangers_say_cannot_act_on_the_terminal() {
        let told = Loss::Closed {
            code: 4999,
            reason: "\u{1b}[2J".to_owned(),
        }
        .to_string();
        assert!(told.ends_with(r"4999: \u{1b}[2J"), "{told}");
    }
}
