// The panel beside a conversation: its members and its settings.

import { html } from "./ui.js";

export function RoomPanel() {
  return html`<aside class="panel"></aside>`;
}
