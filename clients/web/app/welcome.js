// What there is to see while no conversation is open: a word of welcome, and whom to talk to.

import { UserKind } from "../sdk/messages.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { suggested } from "./persona_search.js";
import { openPersona, PersonaCard } from "./personas.js";
import { html, useComputed, useEffect } from "./ui.js";

const SUGGESTIONS = 4;

/**
 * `compact`: for the side bar, which on a phone is all there is to see; for somebody who has no
 * conversation yet.
 */
export function Welcome({ compact = false }) {
  const app = useApp();
  const { model, route, say, words } = app;
  useEffect(() => {
    // The list of personas tells again whatever goes wrong.
    model.loadPersonas().catch(() => {});
  }, [model]);
  const personas = useComputed(() =>
    suggested(model.personas.value.values(), model.me, words.language, SUGGESTIONS),
  );
  const { nick, name, kind } = model.profile.value;
  // The name of a guest is made up by the server.
  const shown = nick || (kind === UserKind.GUEST ? "" : name);
  const isNewcomer = model.convs.value.length === 0;
  return html`
    <section class=${compact ? "welcome compact" : "welcome pane-body"} aria-labelledby=${compact ? "first-steps" : "welcome"}>
      <div class="welcome-box">
        <${compact ? "h2" : "h1"} class="welcome-title" id=${compact ? "first-steps" : "welcome"}>
          ${shown ? say("welcome.title", { name: shown }) : say("welcome.title_plain")}
        <//>
        <p class="quiet">${say(isNewcomer ? "welcome.first" : "welcome.again")}</p>
        <ul class="persona-cards">
          ${personas.value.map((persona) => html`<${PersonaCard} key=${persona.id} persona=${persona} compact />`)}
        </ul>
        <div class="welcome-actions">
          <button type="button" class="button" onClick=${() => route.go("/personas")}>
            <${Icon} name="persona" />${say("welcome.all_personas")}
          </button>
          <button type="button" class="button" onClick=${() => openPersona(app)}>
            <${Icon} name="add" />${say("persona.add")}
          </button>
        </div>
      </div>
    </section>
  `;
}
