/** Names of conversations: the one place that knows about `general`. */

import type { Conversation, Message } from './types.js';

/** What stands in a name where there is no product. It exists in names only; in rows `product_id` is `null`. */
const NO_PRODUCT = 'general';

/** With whom a conversation is, and about which product. */
export interface ConversationParts {
  readonly userId: string;
  readonly productId: string | null;
}

/** Names the conversation with this person, about this product or about none. */
export function conversationName(userId: string, productId: string | null): string {
  return `${userId}__${productId ?? NO_PRODUCT}`;
}

/** Takes a conversation's name apart. */
export function parseConversation(name: string): ConversationParts {
  const [userId = '', product] = name.split('__');
  return { userId, productId: !product || product === NO_PRODUCT ? null : product };
}

/** With whom a conversation is and about what, as far as its name and one of its messages tell. */
export function aboutConversation(name: string, message?: Message) {
  const { userId, productId } = parseConversation(name);
  const side = message?.sender_id === userId ? 'sender' : 'receiver';
  return {
    other_user_id: userId,
    other_username: message?.[`${side}_username`] ?? null,
    other_avatar: message?.[`${side}_avatar`] ?? null,
    product_id: productId,
    product_title: message?.product_title ?? null,
  } satisfies Partial<Conversation>;
}
