/** Loads more when somebody comes near the end of what there is. */

import type { Attachment } from 'svelte/attachments';

/** How near, as a share of what can be seen: far enough that whoever scrolls seldom meets the end. */
const MARGIN = '150%';

/**
 * Attached to an element at the end of a scrolled list: calls `load` again and again while the element is near what can be seen and
 * `hasMore`. The list is the element's ancestor with `data-scroller`.
 */
export function whileNear(load: () => Promise<void>, hasMore: () => boolean): Attachment {
  return (element) => {
    let isNear = false;
    let isLoading = false;
    const fill = async (): Promise<void> => {
      if (isLoading) return;
      isLoading = true;
      while (isNear && hasMore()) {
        await load();
        await nextLook();
      }
      isLoading = false;
    };
    const observer = new IntersectionObserver(
      (entries) => {
        isNear = entries.at(-1)?.isIntersecting ?? false;
        void fill();
      },
      { root: element.closest('[data-scroller]'), rootMargin: `${MARGIN} 0px` },
    );
    observer.observe(element);
    return () => {
      observer.disconnect();
      isNear = false;
    };
  };
}

/** Until an observer has looked at what has just been shown: it does so once a frame, after the frame's own callbacks. */
function nextLook(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve())));
}
