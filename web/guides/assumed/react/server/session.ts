/** Tells who is signed in, as an application of one's own does. */
export async function userIdOf(request: Request): Promise<string | null> {
  return /(?:^|; )person=([\w-]+)/.exec(request.headers.get('cookie') ?? '')?.[1] ?? null;
}
