// The frame of the page: who is signed in, which view is shown, and whether we are connected.

import { AppProvider } from "./context.js";
import { lazy } from "./lazy.js";
import { LinkBanner } from "./link_banner.js";
import { OverlayLayer } from "./overlay.js";
import { SideBar } from "./side_bar.js";
import { html, useEffect, useMemo, useSignal } from "./ui.js";

// Each visit needs one or two of them: ahead.js knows early which is the first.
const Chat = lazy(() => import("./chat.js").then((module) => module.Chat));
const Personas = lazy(() => import("./personas.js").then((module) => module.Personas));
const RoomPanel = lazy(() => import("./room_panel.js").then((module) => module.RoomPanel));
const Settings = lazy(() => import("./settings.js").then((module) => module.Settings));
const SignIn = lazy(() => import("./sign_in.js").then((module) => module.SignIn));
const Welcome = lazy(() => import("./welcome.js").then((module) => module.Welcome));

/** Everything there is to see. `page`: {words, overlay, route, session}. */
export function App({ page }) {
  const language = useSignal(page.words.language);
  useEffect(() => {
    const changed = () => {
      language.value = page.words.language;
      document.documentElement.lang = page.words.locale;
    };
    changed();
    page.words.addEventListener("change", changed);
    return () => page.words.removeEventListener("change", changed);
  }, [page]);
  const state = page.session.state.value;
  const app = useMemo(() => appOf(page, state), [page, state, language.value]);
  return html`
    <${AppProvider} value=${app}>
      ${state.name === "in" ? html`<${Signed} app=${app} />` : html`<${SignIn} />`}
      <${OverlayLayer} />
    <//>
  `;
}

/** What views may ask for; another object when the language or the person is another. */
function appOf(page, state) {
  const { client = null, model = null, drafts = null } = state;
  return { ...page, client, model, drafts, say: (key, values) => page.words.say(key, values) };
}

const VIEWS = {
  home: () => html`<${Welcome} />`,
  chat: ({ conv, seq, info }) => html`<${Chat} key=${conv} conv=${conv} seq=${seq} info=${info} />`,
  personas: () => html`<${Personas} />`,
  settings: () => html`<${Settings} />`,
};

/** On a narrow screen, the side bar, the view and its panel take turns: the class says which. */
function Signed({ app }) {
  const at = app.route.at.value;
  // Who is signed in wants to talk, wherever the visit begins.
  useEffect(Chat.ahead, []);
  return html`
    <div class=${`app view-${at.view}${at.info ? " with-panel" : ""}`}>
      <${LinkBanner} />
      <${SideBar} />
      <main class="view" id="view">${VIEWS[at.view](at)}</main>
      ${at.info && html`<${RoomPanel} key=${at.conv} conv=${at.conv} />`}
    </div>
  `;
}
