// Who writes, and which persona thinks or waits for its turn; and telling others that one writes.

import { ConvKind, StreamPart, StreamState, TypingState } from "../sdk/client.js";
import { useApp } from "./context.js";
import { html, useEffect, useRef } from "./ui.js";

/** Others forget it after 6 s; the server drops what comes within 4 s. */
const AGAIN_MS = 4_200;

/** One line of fixed height between the list and the composer. */
export function TypingLine({ conv }) {
  const app = useApp();
  const { model } = app;
  const view = model.view(conv);
  const writing = typingWords(app, view, model.typing(conv));
  const said = [...model.streams(conv).map((stream) => streamWords(app, view, stream)), writing].filter(Boolean);
  return html`
    <div class="typing-line" role="status">
      ${writing !== "" && html`<span class="typing-dots" aria-hidden="true"><i></i><i></i><i></i></span>`}
      <span class="ellipsis">${said.join(" · ")}</span>
    </div>
  `;
}

/** What a running answer does, as long as there is no text of it to be seen. */
function streamWords({ model, say }, view, stream) {
  const name = model.nameOf(stream.persona, view);
  if (name === "" || stream.text() !== "") return "";
  // Without a place it has hardly begun: most answers do not wait.
  if (stream.state === StreamState.QUEUED && stream.place > 0) {
    return say("typing.place", { name, place: stream.place });
  }
  const uses = stream.text(StreamPart.TOOLS).trimEnd().split("\n").at(-1).startsWith("running ");
  return say(uses ? "typing.uses_tool" : "typing.thinks", { name });
}

function typingWords({ model, say }, view, users) {
  const names = users.map((user) => model.nameOf(user, view)).filter(Boolean);
  if (names.length === 0) return "";
  if (names.length === 1) return say("chat.typing", { name: names[0] });
  if (names.length === 2) return say("typing.two", { first: names[0], second: names[1] });
  return say("typing.many", { count: names.length });
}

/**
 * Tells the others of a conversation that one writes. Returns {wrote(text), sent()}: call them when
 * the text has changed, and when it was sent.
 */
export function useTypingSignal(conv, view) {
  const { client } = useApp();
  const told = useRef({ at: 0, isTold: false, timer: null });
  const stop = () => {
    if (told.current.isTold) client.typing(conv, TypingState.STOP);
    forget();
  };
  const forget = () => {
    clearTimeout(told.current.timer);
    told.current = { at: told.current.at, isTold: false, timer: null };
  };
  const tell = () => {
    told.current = { at: Date.now(), isTold: true, timer: null };
    client.typing(conv, TypingState.TEXT);
  };
  useEffect(() => stop, [conv]);
  const isHeard = view?.row.kind !== ConvKind.AI || view.present().length > 1;
  return {
    wrote(text) {
      if (!isHeard) return;
      if (text.trim() === "") {
        stop();
        return;
      }
      if (told.current.timer !== null) return;
      const wait = told.current.at + AGAIN_MS - Date.now();
      if (wait <= 0) tell();
      else told.current.timer = setTimeout(tell, wait);
    },
    // The message itself says that the writing is over.
    sent: forget,
  };
}
