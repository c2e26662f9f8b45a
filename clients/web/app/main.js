// Where the app begins.

import { Api } from "./api.js";
import { App } from "./shell.js";
import { Words } from "./i18n.js";
import { Overlay } from "./overlay.js";
import { explain } from "./problem.js";
import { Route } from "./route.js";
import { Session } from "./session.js";
import { effect, html, render } from "./ui.js";

const words = new Words();
const session = new Session(words);
const page = {
  words,
  session,
  api: new Api(session),
  overlay: new Overlay((error) => explain(words, error)),
  route: new Route(),
};

// What is open belongs to who was signed in.
effect(() => {
  if (session.state.value.name !== "in") page.overlay.closeAll();
});
await session.resume();
render(html`<${App} page=${page} />`, document.getElementById("app"));
