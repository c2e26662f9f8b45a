// The choice of the language and of light or dark; both are kept on the device.

import { useApp } from "./context.js";
import { Segments } from "./field.js";
import { LANGUAGES } from "./i18n.js";
import { html, useSignal } from "./ui.js";

export function LanguageChoice({ isLabelHidden }) {
  const { words, say } = useApp();
  const options = Object.entries(LANGUAGES).map(([id, label]) => ({ id, label, lang: id }));
  return html`
    <${Segments}
      label=${say("settings.language")}
      isLabelHidden=${isLabelHidden}
      options=${options}
      value=${words.language}
      onChange=${(language) => words.choose(language)}
    />
  `;
}

export function ThemeChoice({ isLabelHidden }) {
  const { say } = useApp();
  const theme = globalThis.parlanceTheme;
  const chosen = useSignal(theme.chosen);
  const options = ["system", "light", "dark"].map((id) => ({ id, label: say(`settings.${id}`) }));
  const choose = (name) => {
    theme.choose(name);
    chosen.value = name;
  };
  return html`
    <${Segments}
      label=${say("settings.theme")}
      isLabelHidden=${isLabelHidden}
      options=${options}
      value=${chosen.value}
      onChange=${choose}
    />
  `;
}
