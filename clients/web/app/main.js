// Where the app begins.

import { App } from "./shell.js";
import { Words } from "./i18n.js";
import { Overlay } from "./overlay.js";
import { Route } from "./route.js";
import { Session } from "./session.js";
import { html, render } from "./ui.js";

const words = new Words();
const page = { words, overlay: new Overlay(), route: new Route(), session: new Session(words) };

await page.session.resume();
render(html`<${App} page=${page} />`, document.getElementById("app"));
