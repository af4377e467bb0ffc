//! What `herald tail` is told.

use clap::Args;

use super::{Mistakes, caller, token::JwtFlags};
use crate::{
    client::GatewayUrl,
    protocol::cursor::CURSOR_BYTES_MAX,
    tail::{Carrier, TailConfig},
};

/// `herald tail` as typed.
#[derive(Args)]
pub struct TailFlags {
    /// Whose messages to follow: the id of a row in `profiles`. Not needed with a token, which says it itself.
    #[arg(long = "as", value_name = "UUID")]
    user: Option<String>,
    /// Where the gateway is.
    #[arg(
        long,
        env = "HERALD_URL",
        default_value = "http://127.0.0.1:4000",
        value_name = "URL"
    )]
    url: String,
    /// Print each event as the JSON object it came as, one on each line.
    #[arg(long)]
    json: bool,
    /// Connect by Server-Sent Events instead of a WebSocket, for places where WebSockets do not pass.
    #[arg(long)]
    sse: bool,
    /// Continue after this cursor, as a former `herald tail` printed it when it ended.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// A token to connect with, instead of signing its own. Prefer the variable: a flag is seen by everyone on the
    /// machine.
    #[arg(long, env = "HERALD_TOKEN", hide_env_values = true, value_name = "JWT")]
    token: Option<String>,
    #[command(flatten)]
    jwt: JwtFlags,
    /// Never use colours; the variable counts if it is set to anything (<https://no-color.org>).
    #[arg(
        long = "no-color",
        env = "NO_COLOR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        hide_env_values = true,
        value_name = "ANYTHING"
    )]
    no_colour: Option<String>,
}

impl std::fmt::Debug for TailFlags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token and the secret must not be shown.
        formatter
            .debug_struct("TailFlags")
            .field("user", &self.user)
            .field("url", &self.url)
            .field("json", &self.json)
            .field("sse", &self.sse)
            .finish_non_exhaustive()
    }
}

/// `herald tail`, checked.
#[derive(Clone, Debug)]
pub struct TailSettings {
    /// What the client is told.
    pub client: TailConfig,
    /// Whether events are printed as JSON.
    pub json: bool,
    /// Whether colours are wanted, if standard output is a terminal.
    pub wants_colours: bool,
}

impl TailFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<TailSettings, Mistakes> {
        let mut mistakes = Mistakes::none();
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        let url = mistakes.check("--url", self.url.parse::<GatewayUrl>());
        let cursor = set(self.cursor).and_then(|text| mistakes.check("--cursor", cursor(text)));
        let (user, credentials) = caller::check(
            self.user,
            self.token,
            self.jwt,
            "whose messages to follow",
            &mut mistakes,
        );
        mistakes.into_result()?;
        let (Some(url), Some(credentials)) = (url, credentials) else {
            return Err(Mistakes::none());
        };
        Ok(TailSettings {
            client: TailConfig {
                url,
                carrier: if self.sse {
                    Carrier::ServerSentEvents
                } else {
                    Carrier::WebSocket
                },
                user,
                credentials,
                cursor,
            },
            json: self.json,
            wants_colours: set(self.no_colour).is_none(),
        })
    }
}

fn cursor(text: String) -> Result<String, String> {
    if text.len() > CURSOR_BYTES_MAX {
        Err(format!(
            "it has {} bytes, and no cursor has more than {CURSOR_BYTES_MAX}; give one as it was printed",
            text.len()
        ))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::client::Credentials;

    const USER: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        tail: TailFlags,
    }

    fn check(arguments: &[&str]) -> Result<TailSettings, Mistakes> {
        // What the environment of the tests may hold is set to nothing first.
        let unset = ["--token=", "--jwt-audience=", "--jwt-issuer=", "--no-color="];
        let unset = unset.iter().filter(|flag| {
            !arguments
                .iter()
                .any(|given| given.starts_with(flag.trim_end_matches('=')))
        });
        Typed::parse_from(["herald"].iter().chain(unset).chain(arguments))
            .tail
            .check()
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let told = check(&["--as=alice", "--url=here", "--jwt-secret=short"])
            .unwrap_err()
            .to_string();
        for part in [
            "--as: `alice` is not a UUID",
            "--url: is not a gateway's address",
            "HERALD_JWT_SECRET: the secret has 5 bytes",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let told = check(&["--jwt-secret="]).unwrap_err().to_string();
        assert!(
            told.contains("--as: not given") && told.contains("HERALD_JWT_SECRET: not set"),
            "{told}"
        );
    }

    #[test]
    fn a_token_is_preferred_and_makes_the_rest_unnecessary() {
        let settings = check(&["--token=a.b.c", "--jwt-secret="]).unwrap();
        assert!(matches!(settings.client.credentials, Credentials::Given(_)));
        assert!(settings.client.user.is_none() && settings.client.cursor.is_none());
        assert_eq!(settings.client.carrier, Carrier::WebSocket);
        let settings = check(&["--token=a.b.c", "--jwt-secret=", "--sse"]).unwrap();
        assert_eq!(settings.client.carrier, Carrier::ServerSentEvents);
    }

    #[test]
    fn own_tokens_are_signed_as_the_gateway_checks_them() {
        let secret = format!("--jwt-secret={}", "s".repeat(32));
        let user = format!("--as={USER}");
        let settings = check(&[&user, &secret, "--jwt-audience=app", "--cursor=e.1", "--no-color"]).unwrap();
        let Credentials::Signed(signer) = &settings.client.credentials else {
            panic!("{settings:?}");
        };
        assert_eq!(signer.user.to_string(), USER);
        assert_eq!((signer.audience.as_deref(), &signer.issuer), (Some("app"), &None));
        assert_eq!(settings.client.cursor.as_deref(), Some("e.1"));
        assert!(!settings.wants_colours);
    }

    #[test]
    fn no_secret_and_no_token_is_shown() {
        let secret = "s".repeat(32);
        let settings = check(&[&format!("--as={USER}"), &format!("--jwt-secret={secret}")]);
        let given = check(&["--token=very.secret.token"]);
        let text = format!("{settings:?} {given:?}");
        assert!(!text.contains(&secret) && !text.contains("very.secret"), "{text}");
    }
}
