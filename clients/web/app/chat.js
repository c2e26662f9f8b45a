import { useApp } from "./context.js";
import { html, useEffect } from "./ui.js";
export function Chat({ conv }) {
  const { model, client } = useApp();
  useEffect(() => { model.load(conv); model.watch(conv); client.history(conv, 0); }, [conv]);
  const view = model.view(conv);
  return html`<div class="pane-body">${view?.list().map((m) => html`<p key=${m.seq}>${model.nameOf(m.sender)}: ${m.text}</p>`)}</div><input class="input" onChange=${(e) => client.post(conv, e.target.value)} />`;
}
