// What the answers one asked for have used, and what may be spent.

import { useApp } from "./context.js";
import { Section, useReading, Waiting } from "./settings_section.js";
import { html } from "./ui.js";

export function UsageSettings() {
  const { client, say } = useApp();
  const { reading, again } = useReading(() => client.usage(), [client]);
  const { value, error } = reading.value;
  return html`
    <${Section} title=${say("settings.usage")} hint=${say("settings.usage_hint")}>
      ${value === undefined
        ? html`<${Waiting} error=${error} again=${again} />`
        : html`
            <div class="usage">
              <${Span} title=${say("settings.usage_today")} use=${value.today} />
              <${Span} title=${say("settings.usage_month")} use=${value.month} />
            </div>
          `}
    <//>
  `;
}

function Span({ title, use }) {
  const { say, words } = useApp();
  const number = (value) => new Intl.NumberFormat(words.locale).format(value);
  const { used_in: tokensIn, used_out: tokensOut, spent, quota, resets } = use;
  return html`
    <div class="usage-span">
      <h3>${title}</h3>
      <dl>
        <dt>${say("settings.usage_in")}</dt>
        <dd>${number(tokensIn)}</dd>
        <dt>${say("settings.usage_out")}</dt>
        <dd>${number(tokensOut)}</dd>
        <dt>${say("settings.usage_cost")}</dt>
        <dd>${money(words, spent)}</dd>
      </dl>
      ${quota > 0 &&
      html`
        <progress max=${quota} value=${Math.min(spent, quota)} aria-label=${say("settings.usage_cost")}></progress>
        <p class="hint quiet">
          ${say("settings.usage_quota", { quota: money(words, quota), when: words.time(new Date(resets)) })}
        </p>
      `}
    </div>
  `;
}

/** Micro-dollars as an amount; cents are not enough for a single answer. */
function money(words, micro) {
  const digits = micro > 0 && micro < 10_000 ? 4 : 2;
  return new Intl.NumberFormat(words.locale, {
    style: "currency",
    currency: "USD",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  }).format(micro / 1_000_000);
}
