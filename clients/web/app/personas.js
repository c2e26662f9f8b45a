import { ConvKind } from "../sdk/client.js";
import { useApp } from "./context.js";
import { html, useEffect } from "./ui.js";
export function Personas() {
  const { model, client, route } = useApp();
  useEffect(() => { model.loadPersonas(); }, []);
  const start = async (id) => { const { row } = await client.createConversation(ConvKind.AI, { persona: id }); route.chat(row.id); };
  return html`<div class="pane-body">${[...model.personas.value.values()].map((p) => html`<button class="button" key=${p.id} onClick=${() => start(p.id)}>${p.name}</button>`)}</div>`;
}
