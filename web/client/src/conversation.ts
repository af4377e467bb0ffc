/** Names of conversations: the one place that knows about `general`. */

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
  return { userId, productId: product === undefined || product === NO_PRODUCT ? null : product };
}
