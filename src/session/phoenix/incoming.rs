//! What a client's messages ask for.

use super::{dialogue::Phoenix, leaving::Leaving};
use crate::protocol::phoenix::message::{Message, Reference, Status};

/// The topic of the socket itself.
const SOCKET_TOPIC: &str = "phoenix";

impl Phoenix<'_> {
    /// Takes in a message.
    pub(super) fn take(&mut self, message: Message) {
        // Before the reference of the join counts: what is parked here has to be older than it.
        if &*message.event == "phx_join" {
            self.give_up_earlier_join(&message.topic);
        }
        let number = message.reference.as_ref().and_then(Reference::number);
        self.reference = self.reference.max(number);
        match (&*message.topic, &*message.event) {
            (SOCKET_TOPIC, "heartbeat") => self.reply(&message, Status::Ok, "{}"),
            (_, "phx_join") => self.join(message),
            _ => self.take_for_channel(&message),
        }
    }

    fn take_for_channel(&mut self, message: &Message) {
        let number = self.by_topic.get(&message.topic).copied().filter(|number| {
            // What was meant for an earlier join of the topic is not taken for this one's.
            let current = self.channels.get(number).map(|channel| &channel.join_reference);
            message.join_reference.is_none() || current == Some(&message.join_reference)
        });
        match (&*message.event, number) {
            ("phx_leave", None) => self.reply(message, Status::Ok, "{}"),
            ("phx_leave", Some(number)) => {
                self.reply(message, Status::Ok, "{}");
                if let Some(channel) = self.channels.get(&number) {
                    self.outgoing.end(channel, "phx_close");
                }
                self.remove(number, Leaving::Left);
            }
            (_, None) => self.refuse(message, "unmatched topic"),
            ("access_token", Some(number)) => self.refresh(number, message),
            ("broadcast", Some(number)) => self.broadcast(number, message),
            ("presence", Some(number)) => self.be_present(number, message),
            (_, Some(_)) => self.refuse(message, "unknown event"),
        }
    }

    pub(super) fn reply(&mut self, message: &Message, status: Status, response: &str) {
        let (join_reference, reference) = (message.join_reference.as_ref(), message.reference.as_ref());
        self.outgoing
            .reply(join_reference, reference, &message.topic, status, response);
    }

    pub(super) fn refuse(&mut self, message: &Message, reason: &str) {
        let (join_reference, reference) = (message.join_reference.as_ref(), message.reference.as_ref());
        self.outgoing
            .refuse(join_reference, reference, &message.topic, reason);
    }
}
