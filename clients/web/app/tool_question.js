// The question whether a tool may run: its name and what it is given are words of a model, shown
// as they are and never followed.

import { ClientError } from "../sdk/client.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html, useEffect, useId, useSignal } from "./ui.js";

/** The server asks for so long; a clock that says more is wrong. */
const ASKED_MS = 60_000;

/** What is being asked of one's own answers; those of conversation `conv` first. */
export function ToolQuestions({ conv }) {
  const { model } = useApp();
  const open = [...model.questions.value].sort((a, b) => (b.conv === conv) - (a.conv === conv));
  return open.map((question) => html`<${Question} key=${question.call} question=${question} conv=${conv} />`);
}

function Question({ question, conv }) {
  const app = useApp();
  const { say, model, client, route } = app;
  const busy = useSignal(false);
  const title = useId();
  const { sid, call, name, args, left } = question;
  const view = model.view(question.conv);
  const persona = client.streams.running.get(sid)?.persona ?? view?.row.persona ?? 0;
  const answer = async (yes) => {
    busy.value = true;
    try {
      await client.confirm(sid, call, yes);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      app.overlay.complain(error);
      busy.value = false;
    }
  };
  return html`
    <section class="tool-question" aria-labelledby=${title}>
      <div role="alert" id=${title} class="tool-title">
        <${Icon} name="tool" />
        <span>${say("tool.ask", { name: model.nameOf(persona, view) || say("mention.persona"), tool: name })}</span>
      </div>
      <p class="quiet">${say("tool.why")}</p>
      <pre class="tool-args" tabindex="0" aria-label=${say("tool.given")}>${args}${left > 0 && "…"}</pre>
      ${left > 0 && html`<p class="quiet">${say("tool.left", { count: left })}</p>`}
      <div class="tool-buttons">
        <${Countdown} until=${question.until} />
        ${question.conv !== conv &&
        html`
          <button type="button" class="button" onClick=${() => route.chat(question.conv)}>
            ${say("tool.show")}
          </button>
        `}
        <button type="button" class="button" disabled=${busy.value} onClick=${() => answer(false)}>
          ${say("tool.no")}
        </button>
        <button type="button" class="button" disabled=${busy.value} onClick=${() => answer(true)}>
          ${say("tool.yes")}
        </button>
      </div>
    </section>
  `;
}

/** Seconds that are left; nothing when this device's clock cannot be right. */
function Countdown({ until }) {
  const { say } = useApp();
  const now = useSignal(Date.now());
  useEffect(() => {
    const timer = setInterval(() => (now.value = Date.now()), 1000);
    return () => clearInterval(timer);
  }, []);
  const left = until - now.value;
  const shown = left > 0 && left <= ASKED_MS;
  return html`
    <span class="quiet tool-time" role="timer">
      ${shown && say("tool.seconds", { count: Math.ceil(left / 1000) })}
    </span>
  `;
}
