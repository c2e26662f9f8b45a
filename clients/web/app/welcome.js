import { html } from "./ui.js";
export function Welcome() {
  return html`<p>Welcome</p>`;
}
