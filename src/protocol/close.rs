//! Every code with which the gateway closes a WebSocket, its reason, and whether the client should come back.
//!
//! Codes below 3000 are RFC 6455 §7.4.1's; 4000 and above are Herald's own (RFC 6455 §7.4.2, private use).

/// Why a session ends from the gateway's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The gateway is shutting down, lost its own continuity, could not ask its database what the client missed, or has
    /// heard nothing from the client for too long. Come back after a random 0–5 s, with the cursor.
    GoingAway,
    /// Bytes that are no frames of RFC 6455, or frames in an order that it does not allow.
    InvalidFrame,
    /// A binary frame on a protocol of text.
    UnsupportedData,
    /// A text frame whose bytes are no UTF-8.
    InvalidText,
    /// A frame above 64 KiB from a client.
    MessageTooBig,
    /// The token expired. Come back with a new one, and the cursor.
    TokenExpired,
    /// A refresh with somebody else's token, or with one that is not accepted.
    Forbidden,
    /// The outbox was full: the client reads more slowly than messages arrive. Come back at once, with the cursor.
    Slow,
    /// The user opened more sessions than allowed; the oldest goes.
    Replaced,
    /// Too many frames that are not of the protocol that is spoken in them.
    ProtocolError,
    /// Frames arrived faster than allowed. Come back after a minute.
    TooManyFrames,
}

impl CloseCode {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 11] = [
        Self::GoingAway,
        Self::InvalidFrame,
        Self::UnsupportedData,
        Self::InvalidText,
        Self::MessageTooBig,
        Self::TokenExpired,
        Self::Forbidden,
        Self::Slow,
        Self::Replaced,
        Self::ProtocolError,
        Self::TooManyFrames,
    ];

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::GoingAway => 1001,
            Self::InvalidFrame => 1002,
            Self::UnsupportedData => 1003,
            Self::InvalidText => 1007,
            Self::MessageTooBig => 1009,
            Self::TokenExpired => 4001,
            Self::Forbidden => 4003,
            Self::Slow => 4008,
            Self::Replaced => 4009,
            Self::ProtocolError => 4010,
            Self::TooManyFrames => 4029,
        }
    }

    /// The reason on the wire, for a person who reads the browser's console.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::GoingAway => "going away: come back with the cursor after 0-5 s",
            Self::InvalidFrame => "invalid frame: not as RFC 6455 has it",
            Self::UnsupportedData => "unsupported data: send text frames",
            Self::InvalidText => "invalid text: a text frame is UTF-8",
            Self::MessageTooBig => "message too big: 64 KiB at most",
            Self::TokenExpired => "token expired: come back with a new token and the cursor",
            Self::Forbidden => "forbidden: the token is not accepted for this session",
            Self::Slow => "slow: the outbox was full, come back with the cursor",
            Self::Replaced => "replaced: this user opened more sessions than allowed",
            Self::ProtocolError => "protocol error: too many frames that are not understood",
            Self::TooManyFrames => "too many frames: come back after a minute",
        }
    }

    /// The name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::GoingAway => "going_away",
            Self::InvalidFrame => "invalid_frame",
            Self::UnsupportedData => "unsupported_data",
            Self::InvalidText => "invalid_text",
            Self::MessageTooBig => "message_too_big",
            Self::TokenExpired => "token_expired",
            Self::Forbidden => "forbidden",
            Self::Slow => "slow",
            Self::Replaced => "replaced",
            Self::ProtocolError => "protocol_error",
            Self::TooManyFrames => "too_many_frames",
        }
    }

    /// The code behind a number, for clients.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// Whether a client that keeps its cursor should connect again.
    pub const fn comes_back(self) -> bool {
        matches!(
            self,
            Self::GoingAway | Self::TokenExpired | Self::Slow | Self::TooManyFrames
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_a_control_frame() {
        for code in CloseCode::ALL {
            // RFC 6455 §5.5 allows a control frame 125 bytes, of which the code takes two.
            assert!(code.reason().len() <= 123, "{code:?}");
        }
    }

    #[test]
    fn numbers_are_distinct_and_lead_back_to_their_code() {
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_number(code.number()), Some(code));
        }
        assert_eq!(CloseCode::from_number(1000), None);
    }
}
