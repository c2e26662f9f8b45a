// What personas remember of one: to be seen, corrected, erased, or switched off.

import { ClientError } from "../sdk/client.js";
import { saveFile } from "./api.js";
import { useApp } from "./context.js";
import { HAS_KEYS, lengthOf, TextField } from "./field.js";
import { MenuButton, Dialog } from "./overlay.js";
import { explain } from "./problem.js";
import { Section, useReading, Waiting } from "./settings_section.js";
import { html, useSignal } from "./ui.js";

const PATH = "/api/v1/memories";
const PAGE = 50;
const TEXT_MAX = 300;

export function MemorySettings() {
  const app = useApp();
  const { api, say } = app;
  const { reading, again } = useReading(() => firstPage(api), [api]);
  const { value, error } = reading.value;
  const change = (fields) => (reading.value = { value: { ...reading.peek().value, ...fields }, error: null });
  return html`
    <${Section} title=${say("memory.title")} hint=${say("memory.hint")}>
      ${value === undefined
        ? html`<${Waiting} error=${error} again=${again} />`
        : html`
            <${Switch} off=${value.off} change=${change} />
            <${Memories} value=${value} change=${change} again=${again} />
          `}
    <//>
  `;
}

async function firstPage(api) {
  const [{ off }, { memories, cursor }] = await Promise.all([
    api.get(`${PATH}/settings`),
    api.get(`${PATH}?limit=${PAGE}`),
  ]);
  return { off, memories, cursor };
}

/** Do `work`; what is refused is told. Resolves with whether it was done. */
async function attempt({ overlay }, work) {
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof ClientError)) throw error;
    overlay.complain(error);
    return false;
  }
}

function Switch({ off, change }) {
  const app = useApp();
  const { api, say } = app;
  const turn = async (event) => {
    const isOn = event.target.checked;
    const isDone = await attempt(app, () => api.put(`${PATH}/settings`, { off: !isOn }));
    if (isDone) change({ off: !isOn });
    else event.target.checked = !isOn;
  };
  return html`
    <label class="switch-line">
      <input type="checkbox" checked=${!off} onChange=${turn} />
      <span class="label">${say("memory.on")}</span>
    </label>
  `;
}

function Memories({ value, change, again }) {
  const app = useApp();
  const { api, overlay, say } = app;
  const { memories, cursor } = value;
  if (memories.length === 0) return html`<p class="quiet">${say("memory.none")}</p>`;
  const more = () =>
    attempt(app, async () => {
      const page = await api.get(`${PATH}?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
      change({ memories: [...memories, ...page.memories], cursor: page.cursor });
    });
  const eraseAll = async () => {
    const isSure = await overlay.confirm({
      title: say("memory.erase_all_title"),
      text: say("memory.erase_all_text"),
      yes: say("memory.erase_all"),
      no: say("action.cancel"),
      danger: true,
    });
    if (isSure && (await attempt(app, () => api.delete(`${PATH}?all=1`)))) await again();
  };
  const save = () => attempt(app, async () => saveFile(await api.file(`${PATH}/export`)));
  const replace = (memory) => change({ memories: memories.map((one) => (one.id === memory.id ? memory : one)) });
  const drop = (id) => change({ memories: memories.filter((one) => one.id !== id) });
  return html`
    <ul class="settings-list">
      ${memories.map((memory) => html`<${Memory} key=${memory.id} memory=${memory} replace=${replace} drop=${drop} />`)}
    </ul>
    <div class="settings-row">
      ${cursor && html`<button type="button" class="button small" onClick=${more}>${say("action.more")}</button>`}
      <button type="button" class="button small" onClick=${save}>${say("memory.export")}</button>
      <button type="button" class="button small plain danger-text" onClick=${eraseAll}>${say("memory.erase_all")}</button>
    </div>
  `;
}

function Memory({ memory, replace, drop }) {
  const app = useApp();
  const { api, model, overlay, say } = app;
  const name = model.nameOf(memory.persona);
  const edit = () => overlay.open((close) => html`<${MemoryDialog} memory=${memory} replace=${replace} close=${close} />`);
  const pin = () =>
    attempt(app, async () => replace(await api.put(`${PATH}/${memory.id}`, { pinned: !memory.pinned })));
  const erase = () =>
    attempt(app, async () => {
      await api.delete(`${PATH}/${memory.id}`);
      drop(memory.id);
    });
  const items = [
    { id: "edit", label: say("action.edit"), icon: "edit", run: edit },
    { id: "pin", label: say(memory.pinned ? "memory.unpin" : "memory.pin"), icon: "pin", run: pin },
    { id: "erase", label: say("memory.erase"), icon: "delete", danger: true, run: erase },
  ];
  return html`
    <li>
      <div class="grow">
        <p class="memory-text">${memory.text}</p>
        <p class="hint quiet">
          ${[name, say(`memory.kind_${memory.kind}`), memory.pinned && say("memory.pinned")].filter(Boolean).join(" · ")}
        </p>
      </div>
      <${MenuButton} label=${say("memory.more")} items=${items} />
    </li>
  `;
}

function MemoryDialog({ memory, replace, close }) {
  const { api, say, words } = useApp();
  const text = useSignal(memory.text);
  const problem = useSignal("");
  const isBusy = useSignal(false);
  const save = async (event) => {
    event.preventDefault();
    const wanted = text.peek().trim();
    if (isBusy.peek() || wanted === "" || lengthOf(wanted) > TEXT_MAX) return;
    isBusy.value = true;
    try {
      replace(await api.put(`${PATH}/${memory.id}`, { text: wanted }));
      close();
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      problem.value = explain(words, error);
    }
    isBusy.value = false;
  };
  return html`
    <${Dialog} title=${say("memory.edit")} close=${close}>
      <form class="form" onSubmit=${save} novalidate>
        <${TextField}
          label=${say("memory.text")}
          value=${text.value}
          max=${TEXT_MAX}
          rows=${3}
          problem=${problem.value}
          autofocus=${HAS_KEYS}
          onInput=${(value) => {
            text.value = value;
            problem.value = "";
          }}
        />
        <div class="dialog-actions">
          <button type="button" class="button" onClick=${() => close()}>${say("action.cancel")}</button>
          <button class="button primary" disabled=${isBusy.value}>${say("action.save")}</button>
        </div>
      </form>
    <//>
  `;
}
