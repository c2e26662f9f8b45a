import { useApp } from "./context.js";
import { html } from "./ui.js";
export function SignIn() {
  const { session, say, overlay } = useApp();
  return html`<div class="sign-in"><button class="button primary" onClick=${() => session.guest("").catch((e) => overlay.complain(e))}>${say("account.demo")}</button></div>`;
}
