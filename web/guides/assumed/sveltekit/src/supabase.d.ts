/** What Supabase's guide for SvelteKit puts into `locals`. */

import type { Session, User } from '@supabase/auth-js';

declare global {
  namespace App {
    interface Locals {
      safeGetSession: () => Promise<{ session: Session | null; user: User | null }>;
    }
  }
}
