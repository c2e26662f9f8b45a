// The text of a message as elements: Markdown, with a head above each block of code.

import { copyText } from "./actions.js";
import { useApp } from "./context.js";
import { MarkdownView } from "./markdown.js";
import { html, useLayoutEffect, useRef } from "./ui.js";

/** `done`: no more of the text will come. `plain`: it is not Markdown. */
export function MessageText({ text, done, plain = false }) {
  const app = useApp();
  const element = useRef(null);
  const view = useRef(null);
  useLayoutEffect(() => {
    if (plain) return;
    view.current ??= new MarkdownView(element.current, {
      imageLabel: app.say("chat.image"),
      frameCode: (block, language, code) => frameCode(app, block, language, code),
    });
    view.current.render(text, { done });
  }, [text, done, plain]);
  if (plain) return html`<div class="message-text md-plain" dir="auto">${text}</div>`;
  return html`<div class="message-text" ref=${element} dir="auto"></div>`;
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
