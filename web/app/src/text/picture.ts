/** Pictures of people. Pure. */

/**
 * The address of somebody's picture, if a page may load it: by https, from the page's own host, or a picture that is its own
 * address. Others would be refused by the Content-Security-Policy, or be no picture.
 */
export function pictureAddress(avatar: string | null, page: string): string | null {
  if (!avatar || !URL.canParse(avatar, page)) return null;
  const { protocol, origin, href } = new URL(avatar, page);
  const isOwn = origin === new URL(page).origin;
  return protocol === 'https:' || isOwn || /^data:image\//iu.test(href) ? href : null;
}
