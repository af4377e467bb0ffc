/** The part of Supabase's client that the guide uses. */

import { GoTrueClient } from '@supabase/auth-js';

export const supabase = { auth: new GoTrueClient({ url: 'https://project.example/auth/v1' }) };
