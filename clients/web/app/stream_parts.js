// What a model thought and which tools it used on the way to an answer; shut unless it is opened.

import { StreamPart } from "../sdk/client.js";
import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html } from "./ui.js";

const BEGUN = new Set(["running", "confirm"]);
const STATES = {
  running: "step.running",
  confirm: "step.confirm",
  done: "step.done",
  failed: "step.failed",
  refused: "step.refused",
};

/** `stream`: the answer that is or was running, undefined when this page has not seen it run. */
export function StreamParts({ stream, running }) {
  const { say } = useApp();
  if (stream === undefined) return null;
  const thoughts = stream.text(StreamPart.REASONING);
  const steps = toolSteps(stream.text(StreamPart.TOOLS));
  const thinks = running && stream.text() === "";
  return html`
    ${thoughts !== "" &&
    html`
      <details class="parts">
        <summary><${Icon} name="thought" />${say(thinks ? "chat.thinks" : "chat.thoughts")}</summary>
        <div class="parts-text" dir="auto" tabindex="0">${thoughts}</div>
      </details>
    `}
    ${steps.length > 0 &&
    html`
      <details class="parts">
        <summary><${Icon} name="tool" />${say("chat.tools", { names: namesOf(steps) })}</summary>
        <ul class="parts-steps">
          ${steps.map(
            ({ name, state }, index) => html`<li key=${index}><code>${name}</code> ${say(STATES[state])}</li>`,
          )}
        </ul>
      </details>
    `}
  `;
}

const namesOf = (steps) => [...new Set(steps.map((step) => step.name))].join(", ");

/** The lines "state name reason" as one step for each call, with how it stands or ended. */
export function toolSteps(text) {
  const steps = [];
  // The last line may not be whole yet.
  for (const line of text.split("\n").slice(0, -1)) {
    const [state, name = ""] = line.split(" ");
    if (!Object.hasOwn(STATES, state)) continue;
    const open = steps.find((step) => step.name === name && BEGUN.has(step.state));
    if (open !== undefined && !(state === "running" && open.state === "running")) open.state = state;
    else steps.push({ name, state });
  }
  return steps;
}
