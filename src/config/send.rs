//! What `herald send` is told.

use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::{Mistakes, caller, quantity, token::JwtFlags};
use crate::{
    client::{Credentials, GatewayUrl},
    protocol::conversation::Conversation,
};

/// The longest patience. Nobody looks at a terminal for longer, and a script had better be told.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// `herald send` as typed.
#[derive(Args)]
pub struct SendFlags {
    /// What the message says; `-` reads it from standard input, without the line end at its end.
    #[arg(value_name = "TEXT")]
    text: Option<String>,
    /// Who sends: the id of a row in `profiles`. Not needed with a token, which says it itself.
    #[arg(long = "as", value_name = "UUID")]
    user: Option<String>,
    /// Who receives: the id of a row in `profiles`.
    #[arg(long, value_name = "UUID")]
    to: Option<String>,
    /// The product that it is about, if any: the id of a row in `products`.
    #[arg(long, value_name = "UUID")]
    product: Option<String>,
    /// The message's id, by default a random one. Sent again with the same id, a message is stored once.
    #[arg(long, value_name = "UUID")]
    id: Option<String>,
    /// Where the gateway is.
    #[arg(
        long,
        env = "HERALD_URL",
        default_value = "http://127.0.0.1:4000",
        value_name = "URL"
    )]
    url: String,
    /// How long to try if the gateway cannot be reached or asks to come back: a number with ms, s, m, h or d.
    #[arg(long, default_value = "30s", value_name = "DURATION")]
    patience: String,
    /// Print the stored row as a JSON object instead of its id.
    #[arg(long)]
    json: bool,
    /// A token to send with, instead of signing its own. Prefer the variable: a flag is seen by everyone on the machine.
    #[arg(long, env = "HERALD_TOKEN", hide_env_values = true, value_name = "JWT")]
    token: Option<String>,
    #[command(flatten)]
    jwt: JwtFlags,
}

impl std::fmt::Debug for SendFlags {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token and the secret must not be shown, and the text is nobody's business.
        formatter
            .debug_struct("SendFlags")
            .field("user", &self.user)
            .field("to", &self.to)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Where the text of a message is.
#[derive(Clone, PartialEq, Eq)]
pub enum Text {
    /// On the command line.
    Typed(String),
    /// On standard input.
    StandardInput,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Typed(_) => "Typed",
            Self::StandardInput => "StandardInput",
        })
    }
}

/// `herald send`, checked.
#[derive(Clone, Debug)]
pub struct SendSettings {
    /// Where the gateway is.
    pub url: GatewayUrl,
    /// Who sends.
    pub credentials: Credentials,
    /// Where to, as the sender names it.
    pub conversation: Conversation,
    /// The message's id.
    pub id: Uuid,
    /// What it says.
    pub text: Text,
    /// How long it is tried.
    pub patience: Duration,
    /// Whether the row is printed.
    pub json: bool,
}

impl SendFlags {
    /// Checks everything.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn check(self) -> Result<SendSettings, Mistakes> {
        let mut mistakes = Mistakes::none();
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        let url = mistakes.check("--url", self.url.parse::<GatewayUrl>());
        let patience = mistakes.check("--patience", patience(&self.patience));
        let to = set(self.to);
        if to.is_none() {
            mistakes.note("--to", "not given; say who receives the message");
        }
        let other = to.and_then(|text| mistakes.check("--to", caller::user(&text)));
        let product = set(self.product)
            .and_then(|text| mistakes.check("--product", uuid(&text, "give the id of a row in `products`")));
        let id = match set(self.id) {
            Some(text) => mistakes.check("--id", uuid(&text, "leave it away, and a new one is made")),
            None => Some(Uuid::new_v4()),
        };
        let text = match self.text {
            Some(text) if text == "-" => Some(Text::StandardInput),
            Some(text) => Some(Text::Typed(text)),
            None => {
                mistakes.note(
                    "TEXT",
                    "not given; write the message, or - to read it from standard input",
                );
                None
            }
        };
        let (user, credentials) = caller::check(self.user, self.token, self.jwt, "who sends", &mut mistakes);
        if let (Some(user), Some(found)) = (user, credentials.as_ref().and_then(Credentials::speaks_for))
            && user != found
        {
            let what = format_args!("the token speaks for {found}; leave --as away, or give the right token");
            mistakes.note("--as", what);
        }
        mistakes.into_result()?;
        let (Some(url), Some(patience), Some(other), Some(id), Some(text), Some(credentials)) =
            (url, patience, other, id, text, credentials)
        else {
            return Err(Mistakes::none());
        };
        Ok(SendSettings {
            url,
            credentials,
            conversation: Conversation { other, product },
            id,
            text,
            patience,
            json: self.json,
        })
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    match quantity::duration(text)? {
        long if long > PATIENCE_MAX => Err(format!("`{text}` is more than a day; give 24h or less")),
        patience => Ok(patience),
    }
}

fn uuid(text: &str, what_to_do: &str) -> Result<Uuid, String> {
    Uuid::try_parse(text).map_err(|_| format!("`{text}` is not a UUID; {what_to_do}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const ALICE: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const BOB: &str = "aaaaaaaa-0000-4000-8000-000000000002";

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        send: SendFlags,
    }

    fn check(arguments: &[&str]) -> Result<SendSettings, Mistakes> {
        // What the environment of the tests may hold is set to nothing first.
        let unset = ["--token=", "--jwt-audience=", "--jwt-issuer=", "--jwt-secret="];
        let unset = unset.iter().filter(|flag| {
            !arguments
                .iter()
                .any(|given| given.starts_with(flag.trim_end_matches('=')))
        });
        Typed::parse_from(["herald"].iter().chain(unset).chain(arguments))
            .send
            .check()
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let told = check(&[
            "--as=alice",
            "--to=bob",
            "--product=desk",
            "--id=1",
            "--url=here",
            "--patience=long",
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "--as: `alice` is not a UUID",
            "--to: `bob` is not a UUID",
            "--product: `desk` is not a UUID",
            "--id: `1` is not a UUID",
            "--url: is not a gateway's address",
            "--patience: `long`",
            "TEXT: not given",
            "HERALD_JWT_SECRET: not set",
        ] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
        let told = check(&["text"]).unwrap_err().to_string();
        assert!(
            told.contains("--to: not given") && told.contains("--as: not given; say who sends"),
            "{told}"
        );
    }

    #[test]
    fn a_conversation_is_named_by_the_receiver_and_the_product() {
        let secret = format!("--jwt-secret={}", "s".repeat(32));
        let (sender, receiver) = (format!("--as={ALICE}"), format!("--to={BOB}"));
        let settings = check(&[&sender, &receiver, &secret, "Hello"]).unwrap();
        assert_eq!(settings.conversation.to_string(), format!("{BOB}__general"));
        assert_eq!(settings.text, Text::Typed("Hello".to_owned()));
        assert_eq!(settings.patience, Duration::from_secs(30));
        let again = check(&[&sender, &receiver, &secret, "Hello"]).unwrap();
        assert_ne!(settings.id, again.id);
        let product = format!("--product={ALICE}");
        let id = format!("--id={ALICE}");
        let settings = check(&[&sender, &receiver, &secret, &product, &id, "-"]).unwrap();
        assert_eq!(settings.conversation.to_string(), format!("{BOB}__{ALICE}"));
        assert_eq!(
            (settings.id.to_string().as_str(), settings.text),
            (ALICE, Text::StandardInput)
        );
    }

    #[test]
    fn a_token_of_somebody_else_is_a_mistake_before_anything_is_sent() {
        let secret = format!("--jwt-secret={}", "s".repeat(32));
        let signed = check(&[&format!("--as={ALICE}"), &format!("--to={BOB}"), &secret, "Hello"]).unwrap();
        let token = format!("--token={}", signed.credentials.token().unwrap().expose());
        let receiver = format!("--to={BOB}");
        assert!(check(&[&token, &receiver, "Hello"]).is_ok());
        assert!(check(&[&token, &receiver, &format!("--as={ALICE}"), "Hello"]).is_ok());
        let told = check(&[&token, &receiver, &format!("--as={BOB}"), "Hello"])
            .unwrap_err()
            .to_string();
        assert!(
            told.contains(&format!("--as: the token speaks for {ALICE}")),
            "{told}"
        );
    }
}
