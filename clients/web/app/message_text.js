// The text of a message as elements: Markdown, with a head above each block of code, and marks on
// those who are called by name.

import { copyText } from "./actions.js";
import { useApp } from "./context.js";
import { tables } from "./i18n.js";
import { MarkdownView } from "./markdown.js";
import { cutAtMentions, EVERYONE } from "./mentions.js";
import { html, useLayoutEffect, useRef } from "./ui.js";

/**
 * `x`: of the message, if it has any: whom it mentions, and whether it is Markdown; `view`: where
 * it stands; `done`: no more of the text will come.
 */
export function MessageText({ text, x, view, done }) {
  const app = useApp();
  const plain = x?.fmt === 0;
  const called = calledBy(app.model, view, x?.mentions ?? []);
  const element = useRef(null);
  const shown = useRef(null);
  useLayoutEffect(() => {
    if (plain) return;
    shown.current ??= new MarkdownView(element.current, {
      imageLabel: app.say("chat.image"),
      frameCode: (block, language, code) => frameCode(app, block, language, code),
    });
    shown.current.render(text, { done, called });
  }, [text, done, plain, JSON.stringify(called)]);
  if (plain) return html`<div class="message-text md-plain" dir="auto">${marked(text, called)}</div>`;
  return html`<div class="message-text" ref=${element} dir="auto"></div>`;
}

/** The names of those who are mentioned, and whether it is the reader. */
function calledBy(model, view, ids) {
  return ids.flatMap((id) => {
    const own = id === EVERYONE || id === model.me;
    // The writer's language may be another one.
    const everyone = () => Object.values(tables).map((words) => words["mention.everyone"]);
    const names = id === EVERYONE ? everyone() : model.namesOf(id, view);
    return names.map((name) => ({ name, own }));
  });
}

function marked(text, called) {
  return cutAtMentions(text, called).map(({ text: piece, call }) => {
    return call ? html`<span class=${call.own ? "mention own" : "mention"}>${piece}</span>` : piece;
  });
}

/** Put the language's name and a button for copying above a block of code. */
function frameCode(app, block, language, code) {
  const head = document.createElement("div");
  head.className = "code-head";
  const name = document.createElement("span");
  name.className = "ellipsis";
  name.append(language);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "code-copy";
  button.append(app.say("chat.copy_code"));
  button.addEventListener("click", () => copyText(app, code().replace(/\n$/, "")));
  head.append(name, button);
  const frame = document.createElement("div");
  frame.className = "code-frame";
  frame.append(head, block);
  return frame;
}
