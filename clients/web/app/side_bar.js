import { useApp } from "./context.js";
import { html } from "./ui.js";
export function SideBar() {
  const { model, route } = useApp();
  return html`<nav class="side"><button class="button" onClick=${() => route.go("/personas")}>P</button>${model.convs.value.map((v) => html`<button key=${v.conv} class="button" onClick=${() => route.chat(v.conv)}>${model.titleOf(v)} ${v.unread}</button>`)}</nav>`;
}
