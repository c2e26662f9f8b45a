// The icons: strokes on a grid of 24, in the colour of the text around them.

import { html } from "./ui.js";

const PATHS = {
  add: "M12 5v14M5 12h14",
  archive: "M3 4h18v4H3zM5 8v12h14V8M10 12h4",
  back: "M15 5l-7 7 7 7",
  before: "M15 5l-7 7 7 7",
  bell: "M6 16V11a6 6 0 0112 0v5l2 2H4zM10 21h4",
  block: "M5.6 5.6l12.8 12.8M12 3a9 9 0 100 18 9 9 0 000-18z",
  check: "M4 12.5l5 5L20 6.5",
  clock: "M12 3a9 9 0 100 18 9 9 0 000-18zM12 7v5l3 2",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  delete: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  down: "M12 5v14M6 13l6 6 6-6",
  download: "M12 4v12M7 11l5 5 5-5M4 16v4h16v-4",
  edit: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  error: "M12 3a9 9 0 100 18 9 9 0 000-18zM12 7v6M12 16.5v.5",
  eye: "M2 12c2.5-4.5 6-7 10-7s7.5 2.5 10 7c-2.5 4.5-6 7-10 7s-7.5-2.5-10-7zM12 9a3 3 0 100 6 3 3 0 000-6z",
  eye_off: "M4 4l16 16M9.5 5.3A9.5 9.5 0 0112 5c4 0 7.5 2.5 10 7-.8 1.5-1.8 2.8-2.9 3.9M6 7.2C4.5 8.3 3.1 10 2 12c2.5 4.5 6 7 10 7 1.8 0 3.5-.5 5-1.4M10 10a3 3 0 004.2 4.2",
  group: "M9 11a3.5 3.5 0 100-7 3.5 3.5 0 000 7zM2.5 20c.5-4 3-6 6.5-6s6 2 6.5 6M16 4.5a3.5 3.5 0 010 6M18 14.5c2 .8 3.2 2.7 3.5 5.5",
  info: "M12 3a9 9 0 100 18 9 9 0 000-18zM12 11v6M12 7v.5",
  link: "M10 14a4 4 0 006 0l3-3a4 4 0 00-6-6l-1 1M14 10a4 4 0 00-6 0l-3 3a4 4 0 006 6l1-1",
  more: "M5 11.5a.5.5 0 100 1 .5.5 0 000-1zM12 11.5a.5.5 0 100 1 .5.5 0 000-1zM19 11.5a.5.5 0 100 1 .5.5 0 000-1z",
  next: "M9 5l7 7-7 7",
  person: "M12 12a4 4 0 100-8 4 4 0 000 8zM4 21c.6-4.5 3.5-7 8-7s7.4 2.5 8 7",
  persona: "M12 3l1.8 5.2L19 10l-5.2 1.8L12 17l-1.8-5.2L5 10l5.2-1.8zM19 16l.8 2.2L22 19l-2.2.8L19 22l-.8-2.2L16 19l2.2-.8z",
  pin: "M9 3h6l-1 6 4 4H6l4-4zM12 13v8",
  quote: "M9 7L4 12l5 5M4 12h9c4 0 7 2 7 7",
  refresh: "M20 11a8 8 0 10-2.3 6M20 4v7h-7",
  search: "M10.5 4a6.5 6.5 0 100 13 6.5 6.5 0 000-13zM15.5 15.5L21 21",
  send: "M4 12l16-8-5 16-3.5-6.5zM11.5 13.5L20 4",
  settings: "M12 9a3 3 0 100 6 3 3 0 000-6zM12 2.5l1 2.6 2.3 1 2.6-1 1.5 2.6-1.8 2.1.3 2.5 2.1 1.7-1.5 2.6-2.7-.6-2.1 1.3-.7 2.7h-3l-.7-2.7-2.1-1.3-2.7.6L3 15.7l2.1-1.7.3-2.5-1.8-2.1L5.1 6.8l2.6 1 2.3-1 1-2.6z",
  sign_out: "M14 4H5v16h9M10 12h11M17 8l4 4-4 4",
  stop: "M7 7h10v10H7z",
  tool: "M14.5 6.5a4 4 0 015-2l-2.8 2.8 1.9 1.9L21.4 6.400a4 4 0 01-5.4 5L8 19.500a2 2 0 01-3-3l8-8a4 4 0 011.500-2z",
  thought: "M9 18h6M10 21h4M12 3a6 6 0 00-3.6 10.8c.7.6 1.1 1.3 1.1 2.2h5c0-.9.4-1.6 1.1-2.2A6 6 0 0012 3z",
  undo: "M8 5L4 9l4 4M4 9h10a5 5 0 010 10H9",
  upload: "M12 16V4M7 9l5-5 5 5M4 16v4h16v-4",
  volume_off: "M4 9v6h4l5 4V5L8 9zM17 9l5 6M22 9l-5 6",
};

/** One icon; it says nothing to screen readers: the button around it has the words. */
export function Icon({ name }) {
  return html`
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d=${PATHS[name]} />
    </svg>
  `;
}
