// What there is to see while no conversation is open: a word of welcome, and whom to talk to.

import { UserKind } from "../sdk/messages.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { suggested } from "./persona_search.js";
import { openPersona, PersonaCard } from "./personas.js";
import { html, useComputed, useEffect, useSignal } from "./ui.js";

const SUGGESTIONS = 4;
/** Suggestions may be as old as this. */
const FRESH_MS = 300_000;
/** Where the side bar and the view take turns, as app.css has it. */
const narrow = matchMedia("(max-width: 760px)");

/** The same in the side bar of somebody who has no conversation yet: on a phone it is all there is. */
export function FirstSteps() {
  const isNarrow = useSignal(narrow.matches);
  useEffect(() => {
    const follow = () => (isNarrow.value = narrow.matches);
    narrow.addEventListener("change", follow);
    return () => narrow.removeEventListener("change", follow);
  }, []);
  return isNarrow.value && html`<div class="conv-first"><${Welcome} compact /></div>`;
}

export function Welcome({ compact = false }) {
  const app = useApp();
  const { model, route, say, words } = app;
  useEffect(() => {
    // The list of personas tells again whatever goes wrong.
    model.directory.loadPersonas({ fresh: FRESH_MS }).catch(() => {});
  }, [model]);
  const personas = useComputed(() =>
    suggested(model.directory.personas.value.values(), model.me, words.language, SUGGESTIONS),
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
