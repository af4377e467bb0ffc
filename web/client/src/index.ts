/** Live messages from a Herald gateway. */

export { HeraldClient } from './client.js';
export { conversationName, parseConversation, type ConversationParts } from './conversation.js';
export { createConversationStore } from './store.js';
export * from './types.js';
