//! Tokens: whose a channel is, from its join on, and when that changes.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::SystemTime,
};

use futures::{FutureExt, future::BoxFuture};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    KeyHolder, TokenPrint,
    channel::{Person, Subscription},
    dialogue::Phoenix,
    joining::UNAUTHORIZED,
    leaving::Leaving,
};
use crate::{
    auth::{AuthError, Identity, Token},
    metrics::ByReason,
    protocol::phoenix::{
        join::{self, Join},
        message::{Message, Payload},
    },
    session::dialogue::expiry,
    store::parking::Key,
    types::ChannelNumber,
};

/// Keys that look like this are the application's own, and tell nothing of a person.
const APPLICATION_KEY_PREFIX: &str = "sb_";

/// What a token is judged for.
pub(super) enum Purpose {
    /// A join.
    Join(Box<(Message, Join)>),
    /// A channel that has another token from now on.
    Refresh(ChannelNumber),
}

/// Whom a token speaks for; nobody, if it is the application's own.
type Judged = Result<Option<Identity>, AuthError>;

/// A token that is being judged. Nothing more is heard from the client meanwhile.
pub(super) struct Judging<'a> {
    purpose: Purpose,
    token: TokenPrint,
    judged: BoxFuture<'a, Judged>,
}

impl Phoenix<'_> {
    pub(super) fn refresh(&mut self, number: ChannelNumber, message: &Message) {
        let Payload::Json(payload) = &message.payload else {
            return;
        };
        let Some(token) = join::read_token(payload) else {
            return;
        };
        let known = self.channels.get(&number).map(|channel| channel.token);
        if token.starts_with(APPLICATION_KEY_PREFIX) || known == Some(TokenPrint::of(&token)) {
            return;
        }
        self.judge(Purpose::Refresh(number), Some(token));
    }

    /// Has a token judged, at once where that can be. Where there is none, the connection's key stands for it.
    pub(super) fn judge(&mut self, purpose: Purpose, token: Option<String>) {
        let key = &self.opening.key;
        let own = token
            .filter(|token| !token.starts_with(APPLICATION_KEY_PREFIX) && TokenPrint::of(token) != key.print);
        let Some(token) = own.map(Token::new) else {
            let judged = match &key.holder {
                KeyHolder::Nobody => Ok(None),
                KeyHolder::Person(identity) if identity.expires_at > SystemTime::now() => {
                    Ok(Some(identity.clone()))
                }
                KeyHolder::Person(_) | KeyHolder::Expired => Err(AuthError::Expired),
            };
            return self.judged(purpose, key.print, judged);
        };
        let print = TokenPrint::of(token.expose());
        let verifier = &self.sessions.verifier;
        match verifier.recognise(&token) {
            // The key may be on its way.
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {
                self.judging = Some(Judging {
                    purpose,
                    token: print,
                    judged: async move { verifier.recognise_patiently(&token).await }.boxed(),
                });
            }
            judged => self.judged(purpose, print, judged),
        }
    }

    pub(super) fn poll_judging(&mut self, context: &mut Context<'_>) {
        let Some(judging) = &mut self.judging else { return };
        if let Poll::Ready(judged) = judging.judged.as_mut().poll(context)
            && let Some(Judging { purpose, token, .. }) = self.judging.take()
        {
            self.judged(purpose, token, judged);
        }
    }

    fn judged(&mut self, purpose: Purpose, token: TokenPrint, judged: Judged) {
        if let Err(error) = &judged {
            let reason = error.reason();
            self.sessions
                .metrics
                .auth_failures
                .get_or_create(&ByReason { reason })
                .inc();
            self.opening
                .log
                .within(|| tracing::info!(reason, "a token was refused"));
        }
        match purpose {
            Purpose::Join(join) => {
                let (message, join) = *join;
                match judged {
                    Ok(identity) => self.admit(&message, &join, token, identity),
                    Err(error) => self.refuse(&message, &refusal(error)),
                }
            }
            Purpose::Refresh(number) => match judged {
                Ok(identity) => self.hand_over_channel(number, token, identity),
                Err(error) => self.fail(number, &refusal(error)),
            },
        }
    }

    pub(super) fn person(&self, topic: &str, identity: &Identity) -> Person {
        let session = claim_of_session(identity);
        let device = self.opening.device.as_deref().or(session.as_deref());
        Person {
            user: identity.user,
            expires: expiry(Instant::now(), identity.expires_at),
            key: Arc::new(Key::new(identity.user, topic, device.unwrap_or_default())),
        }
    }

    /// A channel has another token from now on, of the same person, of another, or of nobody.
    fn hand_over_channel(&mut self, number: ChannelNumber, token: TokenPrint, identity: Option<Identity>) {
        let Some(channel) = self.channels.get(&number) else {
            return;
        };
        let topic = channel.topic.clone();
        let (was, is_private) = (channel.user(), channel.is_private);
        let person = identity.map(|identity| self.person(&topic, &identity));
        if person.as_ref().map(|person| person.user) == was {
            let id = self.id(number);
            if let Some(channel) = self.channels.get_mut(&number) {
                channel.person = person;
                channel.token = token;
                // A new sign-in may be another device as far as its key goes, and is looked for as that.
                if let (Some(person), Subscription::Live(place)) = (&channel.person, &channel.subscription)
                    && place.is_proved
                {
                    let key = Arc::clone(&person.key);
                    self.sessions.parking.live(id, key, self.reference);
                }
            }
            return self.set_alarm();
        }
        // What the one before has parked is found by the channel's number, so that the other gets a new one.
        let number = if was.is_some() {
            self.renumber(number)
        } else {
            number
        };
        let key = person
            .as_ref()
            .and_then(|person| self.topic_key(&topic, is_private, person));
        if self
            .channels
            .get(&number)
            .is_some_and(|channel| !channel.bindings.is_empty())
        {
            self.note_joined(&topic);
        }
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let needs_topic = channel.bindings.is_empty() || is_private;
        let is_refused = person.is_some() && key.is_none() && needs_topic;
        channel.token = token;
        channel.asked_by = self.reference;
        channel.asked_again_at = None;
        channel.subscription = if person.is_some() && !channel.bindings.is_empty() {
            Subscription::Fresh
        } else {
            Subscription::Silent
        };
        channel.person = person;
        if is_refused {
            self.outgoing.system(channel, "system", "error", UNAUTHORIZED);
            self.outgoing.end(channel, "phx_close");
            return self.remove(number, Leaving::Left);
        }
        if let Some(key) = key {
            self.enter_topic(number, key);
        }
        self.set_alarm();
    }

    /// Parts a channel from its person, and answers with its new number.
    fn renumber(&mut self, number: ChannelNumber) -> ChannelNumber {
        self.part(number, Leaving::Fails);
        self.last_channel.0 += 1;
        let renumbered = self.last_channel;
        if let Some(channel) = self.channels.remove(&number) {
            self.by_topic.insert(channel.topic.clone(), renumbered);
            self.channels.insert(renumbered, channel);
        }
        renumbered
    }
}

/// A refusal in the words that Supabase's server has for it, and a sentence of what to do.
fn refusal(error: AuthError) -> String {
    let code = match error {
        AuthError::Expired => return "InvalidJWTToken: Token has expired 0 seconds ago".to_owned(),
        AuthError::Malformed | AuthError::TooLong => "MalformedJWT",
        AuthError::UnsupportedAlgorithm | AuthError::KeysUnavailable => "JwtSignerError",
        AuthError::UnknownKey | AuthError::BadSignature => "JwtSignatureError",
        _ => "InvalidJWTToken",
    };
    format!("{code}: {}", error.detail())
}

/// The claim `session_id`, which Supabase's identity provider gives each sign-in, and so each browser.
fn claim_of_session(identity: &Identity) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        session_id: Option<String>,
    }
    serde_json::from_str::<Claims>(&identity.claims).ok()?.session_id
}
