// The list that opens behind an @: who may be meant, to be chosen by keys, mouse or finger.

import { ConvKind } from "../sdk/client.js";
import { Avatar } from "./avatar_view.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { EVERYONE, matching, mentionedIn, notePick, queryAt, withMention } from "./mentions.js";
import { html, useEffect, useId, useRef, useSignal } from "./ui.js";

/** Who can be mentioned in a conversation: in rooms, the others and the personas. */
export function candidatesOf({ model, say }, view) {
  if (view?.row.kind !== ConvKind.GROUP) return [];
  const people = view
    .present()
    .filter(({ user }) => user !== model.me)
    .map(({ user }) => candidate(model, view, user, "person"));
  const personas = (view.row.personas ?? []).map((id) => candidate(model, view, id, "persona"));
  const everyone = { id: EVERYONE, kind: "everyone", name: say("mention.everyone"), avatar: 0 };
  const all = [...(model.isManager(view) ? [everyone] : []), ...personas, ...people];
  return all.filter(({ name }) => name !== "");
}

function candidate(model, view, id, kind) {
  const name = model.nameOf(id, view);
  const also = kind === "person" ? model.directory.people.value.get(id)?.name : "";
  return { id, kind, name, also: also ?? "", avatar: model.avatarOf(id, view) };
}

/**
 * Mentioning in a field of a conversation. `field`: ref of the textarea; `write(text)` takes the
 * text that a choice leads to. Returns:
 *
 *   follow()        look again at what is being written: after input and moves of the caret
 *   pressed(event)  whether a key was for the list
 *   idsIn(text)     the ids of those whom a text mentions
 *   forget()        the text was sent
 *   aria            attributes of the field
 *   box             the list, or null
 */
export function useMentions(field, view, write) {
  const app = useApp();
  const at = useSignal(null);
  const active = useSignal(0);
  const picked = useRef(new Map());
  const left = useRef(-1);
  const id = useId();
  const found = at.value === null ? [] : matching(candidatesOf(app, view), at.value.query);
  const current = Math.min(active.value, found.length - 1);

  const follow = () => {
    const { value, selectionStart, selectionEnd } = field.current;
    const next = selectionStart === selectionEnd ? queryAt(value, selectionStart) : null;
    if (next?.begin !== left.current) left.current = -1;
    if (next?.query !== at.peek()?.query) active.value = 0;
    at.value = next !== null && left.current < 0 ? next : null;
  };
  const shut = () => {
    left.current = at.peek()?.begin ?? -1;
    at.value = null;
  };
  const choose = (candidate) => {
    const { text, caret } = withMention(field.current.value, at.peek(), candidate.name);
    notePick(picked.current, candidate);
    field.current.value = text;
    field.current.setSelectionRange(caret, caret);
    write(text);
    at.value = null;
  };
  const keys = {
    ArrowDown: () => (active.value = (current + 1) % found.length),
    ArrowUp: () => (active.value = (current + found.length - 1) % found.length),
    Enter: () => choose(found[current]),
    Tab: () => choose(found[current]),
    Escape: shut,
  };
  const pressed = (event) => {
    const plain = !event.shiftKey && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (found.length === 0 || !plain || !Object.hasOwn(keys, event.key)) return false;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
    return true;
  };
  const isOpen = found.length > 0;
  return {
    follow,
    pressed,
    shut,
    idsIn: (text) => (/[@＠]/.test(text) ? mentionedIn(text, candidatesOf(app, view), picked.current) : []),
    forget: () => picked.current.clear(),
    aria: isOpen
      ? {
          role: "combobox",
          "aria-expanded": "true",
          "aria-autocomplete": "list",
          "aria-controls": id,
          "aria-activedescendant": `${id}-${current}`,
        }
      : {},
    box: isOpen && html`<${MentionBox} id=${id} found=${found} current=${current} choose=${choose} />`,
  };
}

function MentionBox({ id, found, current, choose }) {
  const { say } = useApp();
  const list = useRef(null);
  useEffect(() => {
    list.current.children[current]?.scrollIntoView({ block: "nearest" });
  }, [current, found]);
  return html`
    <ul class="mention-box" role="listbox" id=${id} aria-label=${say("mention.list")} ref=${list}>
      ${found.map(
        (candidate, index) => html`
          <li
            key=${candidate.id}
            id=${`${id}-${index}`}
            role="option"
            class="mention-option"
            aria-selected=${index === current ? "true" : "false"}
            onPointerDown=${(event) => event.preventDefault()}
            onClick=${() => choose(candidate)}
          >
            ${candidate.kind === "everyone"
              ? html`<${Icon} name="group" />`
              : html`<${Avatar} id=${candidate.id} name=${candidate.name} avatar=${candidate.avatar} size="small" />`}
            <span class="ellipsis">${candidate.name}</span>
            ${candidate.kind === "persona" && html`<span class="quiet">${say("mention.persona")}</span>`}
          </li>
        `,
      )}
    </ul>
  `;
}
