// The personas as cards: found by name or tag as one types, and talked to with one click.

import { ClientError } from "../sdk/client.js";
import { saveFile } from "./api.js";
import { Avatar } from "./avatar_view.js";
import { BackHome } from "./back_home.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { lazy } from "./lazy.js";
import { MenuButton } from "./overlay.js";
import { grouped } from "./persona_search.js";
import { startTalk } from "./start_talk.js";
import { html, useComputed, useEffect, useRef, useSignal } from "./ui.js";

/** Cards that are drawn at once; more are drawn when the last of them comes near. */
const STEP = 60;
const NEAR = "600px";

const PersonaDialog = lazy(() => import("./persona_dialog.js").then((module) => module.PersonaDialog));

/** Open the form for a persona: its row, or {name} of one that is to be added. */
export function openPersona(app, persona = {}) {
  return app.overlay.open((close) => html`<${PersonaDialog} persona=${persona} close=${close} />`);
}

/** Remove a persona after a yes; resolves with whether it was. */
export async function removePersona({ client, model, overlay, say }, persona) {
  const isSure = await overlay.confirm({
    title: say("persona.remove_title", { name: persona.name }),
    text: say("persona.remove_text"),
    yes: say("action.delete"),
    no: say("action.cancel"),
    danger: true,
  });
  if (!isSure) return false;
  try {
    await client.dropPersona(persona.id);
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    overlay.complain(error);
    return false;
  }
  model.directory.meetPersonas([{ ...persona, deleted: true }]);
  return true;
}

/** Save a persona as a character card: a picture with the card inside, or JSON. */
export async function exportCard({ api, overlay }, persona, format) {
  try {
    saveFile(await api.file(`/api/v1/personas/${persona.id}/card?format=${format}`));
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    overlay.complain(error);
  }
}

export function Personas() {
  const app = useApp();
  const { model, say } = app;
  const query = useSignal("");
  const loading = useSignal("loading");
  const load = () => {
    loading.value = "loading";
    model.directory.loadPersonas().then(
      () => (loading.value = ""),
      () => (loading.value = "failed"),
    );
  };
  useEffect(load, [model]);
  const groups = useComputed(() => grouped(model.directory.personas.value.values(), model.me, query.value));
  const body = useRef(null);
  const isEmpty = groups.value.length === 0;
  return html`
    <header class="pane-head personas-head">
      <${BackHome} />
      <h1 class="grow">${say("persona.list")}</h1>
      <${SearchField} query=${query} body=${body} />
      <button
        type="button"
        class="button primary"
        aria-label=${say("persona.add")}
        onClick=${() => openPersona(app)}
      >
        <${Icon} name="add" /><span class="personas-add">${say("persona.add")}</span>
      </button>
    </header>
    <div class="pane-body personas" ref=${body}>
      ${groups.value.map(({ id, personas }) => html`<${Group} key=${id} id=${id} personas=${personas} query=${query.value} />`)}
      ${isEmpty && html`<${Nobody} query=${query.value} loading=${loading.value} load=${load} />`}
    </div>
  `;
}

function SearchField({ query, body }) {
  const { say } = useApp();
  const typed = (event) => {
    // What a Chinese keyboard shows while it is typed on is no word yet.
    if (!event.isComposing) query.value = event.target.value;
  };
  const pressed = (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown") {
      event.preventDefault();
      body.current.querySelector(".persona-talk")?.focus();
    } else if (event.key === "Escape" && query.peek() !== "") {
      event.preventDefault();
      query.value = "";
      event.target.value = "";
    }
  };
  return html`
    <label class="search-field">
      <span class="only-read">${say("persona.search")}</span>
      <${Icon} name="search" />
      <input
        class="input"
        type="search"
        placeholder=${say("persona.search")}
        value=${query.value}
        onInput=${typed}
        onCompositionEnd=${(event) => (query.value = event.target.value)}
        onKeyDown=${pressed}
      />
    </label>
  `;
}

function Nobody({ query, loading, load }) {
  const app = useApp();
  const { say } = app;
  if (query === "" && loading === "loading") {
    return html`<p class="loading quiet" role="status">${say("state.loading")}</p>`;
  }
  if (query === "" && loading === "failed") {
    return html`
      <div class="loading">
        <p role="alert">${say("problem.unanswered")}</p>
        <button type="button" class="button" onClick=${load}>${say("action.try_again")}</button>
      </div>
    `;
  }
  return html`
    <div class="loading">
      <p role="status">${query === "" ? say("persona.empty") : say("persona.not_found", { query })}</p>
      <button type="button" class="button" onClick=${() => openPersona(app, { name: query.trim() })}>
        ${query.trim() === "" ? say("persona.add") : say("persona.add_named", { name: query.trim() })}
      </button>
    </div>
  `;
}

function Group({ id, personas, query }) {
  const { say } = useApp();
  const shown = useSignal(STEP);
  const end = useRef(null);
  const isMore = shown.value < personas.length;
  useEffect(() => {
    shown.value = STEP;
  }, [query]);
  useEffect(() => {
    if (!isMore) return undefined;
    const root = end.current.closest(".pane-body");
    const watcher = new IntersectionObserver(
      ([{ isIntersecting }]) => {
        if (isIntersecting) shown.value += STEP;
      },
      { root, rootMargin: NEAR },
    );
    watcher.observe(end.current);
    return () => watcher.disconnect();
  }, [isMore, shown.value]);
  return html`
    <section class="persona-group" aria-labelledby=${`personas-${id}`}>
      <h2 id=${`personas-${id}`}>
        ${say(`persona.group_${id}`)} <span class="quiet">${personas.length}</span>
      </h2>
      <ul class="persona-cards">
        ${personas.slice(0, shown.value).map((persona) => html`<${PersonaCard} key=${persona.id} persona=${persona} />`)}
      </ul>
      ${isMore && html`<div ref=${end} class="persona-end"></div>`}
    </section>
  `;
}

/** One card. `compact`: as in a list of suggestions, without the menu. */
export function PersonaCard({ persona, compact = false }) {
  const app = useApp();
  const { say } = app;
  const isBusy = useSignal(false);
  const talk = async (fresh) => {
    if (isBusy.peek()) return;
    isBusy.value = true;
    await startTalk(app, persona.id, { fresh });
    isBusy.value = false;
  };
  const tags = persona.tags ?? [];
  return html`
    <li class="persona-card">
      <button
        type="button"
        class="persona-talk"
        aria-label=${say("persona.talk_to", { name: persona.name })}
        aria-busy=${isBusy.value ? "true" : "false"}
        onClick=${() => talk(false)}
      ></button>
      <div class="persona-top">
        <${Avatar} id=${persona.id} name=${persona.name} avatar=${persona.avatar ?? 0} />
        <div class="grow">
          <p class="persona-name ellipsis">${persona.name}</p>
          ${tags.length > 0 && html`<p class="persona-tags quiet ellipsis">${tags.join(" · ")}</p>`}
        </div>
        ${!compact && html`<${CardMenu} persona=${persona} talk=${talk} />`}
      </div>
      ${persona.greeting && html`<p class="persona-greeting quiet">${persona.greeting}</p>`}
    </li>
  `;
}

function CardMenu({ persona, talk }) {
  const app = useApp();
  const { model, say } = app;
  const isOwn = persona.owner === model.me;
  const items = [
    { id: "new", label: say("conversation.new"), icon: "add", run: () => talk(true) },
    isOwn && { id: "edit", label: say("action.edit"), icon: "edit", run: () => openPersona(app, persona) },
    isOwn && {
      id: "png",
      label: say("persona.export_picture"),
      icon: "download",
      run: () => exportCard(app, persona, "png"),
    },
    isOwn && {
      id: "json",
      label: say("persona.export_json"),
      icon: "download",
      run: () => exportCard(app, persona, "json"),
    },
    isOwn && {
      id: "delete",
      label: say("action.delete"),
      icon: "delete",
      danger: true,
      run: () => removePersona(app, persona),
    },
  ].filter(Boolean);
  return html`<${MenuButton} label=${say("persona.more", { name: persona.name })} items=${items} />`;
}
