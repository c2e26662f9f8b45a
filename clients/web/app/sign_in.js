// Coming in: with an account, by making one, or without any.

import { ClientError } from "../sdk/client.js";
import { LanguageChoice, ThemeChoice } from "./appearance.js";
import { useApp } from "./context.js";
import { HAS_KEYS, lengthOf, PasswordField, TextField } from "./field.js";
import { explain } from "./problem.js";
import { html, useEffect, useRef, useSignal } from "./ui.js";

const NAME_MIN = 2;
const NAME_MAX = 32;
const NICK_MAX = 64;
const PASSWORD_MIN = 8;

/** At which field a refusal stands, by the server's word for it; anything else is below the form. */
const FIELD_OF = { "name taken": "name", "bad name": "name", "bad nick": "nick", "bad password": "password" };
/** What this server does not offer, by its word for the refusal. */
const CLOSED = { "may not make an account": "up", "may not come in as a guest": "guest" };

const NOTHING = Object.freeze({ name: "", nick: "", password: "", form: "" });

export function SignIn() {
  const { session, say } = useApp();
  const state = session.state.value;
  const card = useRef(null);
  useEffect(() => {
    if (HAS_KEYS) card.current.querySelector("input")?.focus();
  }, []);
  return html`
    <main class="sign-in">
      <div class="sign-in-card" ref=${card}>
        <header class="brand">
          <img src="/icon.svg" alt="" width="52" height="52" />
          <h1>Parlance</h1>
          <p class="quiet">${say("account.about")}</p>
        </header>
        ${state.name === "out" &&
        state.reason !== "" &&
        html`<p class="note" role="status">${say(state.reason)}</p>`}
        <${Doors} />
      </div>
      <footer class="sign-in-choices">
        <${LanguageChoice} isLabelHidden />
        <${ThemeChoice} isLabelHidden />
      </footer>
    </main>
  `;
}

function Doors() {
  const { session, say, words } = useApp();
  const mode = useSignal("in");
  const closed = useSignal([]);
  const given = useSignal({ name: "", nick: "", password: "" });
  const problems = useSignal(NOTHING);
  const coming = useSignal("");
  const fields = { name: useRef(null), nick: useRef(null), password: useRef(null) };
  const isBusy = coming.value !== "" || session.state.value.name === "starting";

  const tell = (found) => {
    problems.value = { ...NOTHING, ...found };
    const first = Object.keys(fields).find((field) => found[field]);
    if (first) fields[first].current?.focus();
  };
  const refused = (error) => {
    if (!(error instanceof ClientError)) throw error;
    const door = CLOSED[error.tag];
    if (door) closed.value = [...closed.value, door];
    if (door === "up") mode.value = "in";
    const at = FIELD_OF[error.tag] ?? "form";
    tell({ [at]: explain(words, error) });
  };
  const come = async (door, enter) => {
    if (isBusy) return;
    coming.value = door;
    problems.value = NOTHING;
    await enter().catch(refused);
    coming.value = "";
  };
  const sent = (event) => {
    event.preventDefault();
    const { name, nick, password } = given.peek();
    const found = mode.peek() === "up" ? flaws(say, given.peek()) : missing(say, given.peek());
    if (Object.keys(found).length > 0) tell(found);
    else if (mode.peek() === "in") come("in", () => session.login(name.trim(), password));
    else come("up", () => session.register(name.trim(), password, nick.trim()));
  };
  const turn = (to) => {
    mode.value = to;
    problems.value = NOTHING;
    fields.name.current?.focus();
  };
  const field = (name, part) => html`
    <${part.is}
      inputRef=${fields[name]}
      value=${given.value[name]}
      onInput=${(text) => {
        given.value = { ...given.peek(), [name]: text };
        problems.value = { ...problems.peek(), [name]: "", form: "" };
      }}
      problem=${problems.value[name]}
      ...${part}
    />
  `;
  const isNew = mode.value === "up";
  const isKept = session.kept !== null && session.state.value.name === "out";
  const canMake = !closed.value.includes("up");
  return html`
    ${isKept && html`<${Kept} isBusy=${isBusy} come=${come} />`}
    <form class="form" onSubmit=${sent} aria-busy=${isBusy ? "true" : "false"} novalidate>
      ${field("name", {
        is: TextField,
        label: say("account.name"),
        name: "username",
        autocomplete: "username",
        autocapitalize: "off",
        spellcheck: false,
        hint: isNew ? say("account.name_hint") : "",
      })}
      ${isNew &&
      field("nick", {
        is: TextField,
        label: say("account.nick"),
        name: "nickname",
        autocomplete: "nickname",
        max: NICK_MAX,
        hint: say("account.nick_hint"),
      })}
      ${field("password", {
        is: PasswordField,
        label: say("account.password"),
        name: "password",
        autocomplete: isNew ? "new-password" : "current-password",
        hint: isNew ? say("account.password_hint") : "",
      })}
      ${problems.value.form && html`<p class="problem" role="alert">${problems.value.form}</p>`}
      <button class=${isKept ? "button" : "button primary"} disabled=${isBusy}>
        ${["in", "up"].includes(coming.value) ? say("account.coming") : say(isNew ? "account.sign_up" : "account.sign_in")}
      </button>
    </form>
    <div class="sign-in-others">
      ${isNew
        ? html`
            <button type="button" class="button" disabled=${isBusy} onClick=${() => turn("in")}>
              ${say("account.have_one")}
            </button>
          `
        : canMake &&
          html`
            <button type="button" class="button" disabled=${isBusy} onClick=${() => turn("up")}>
              ${say("account.sign_up")}
            </button>
          `}
      ${!closed.value.includes("guest") &&
      html`
        <button
          type="button"
          class="button plain"
          disabled=${isBusy}
          onClick=${() => come("guest", () => session.guest())}
        >
          ${coming.value === "guest" ? say("account.coming") : say("account.demo")}
        </button>
      `}
    </div>
  `;
}

/** Who was signed in when the page stopped for another reason than signing out. */
function Kept({ isBusy, come }) {
  const { session, say } = useApp();
  const { kept } = session;
  const name = kept.nick || kept.name;
  return html`
    <button
      type="button"
      class="button primary"
      disabled=${isBusy}
      onClick=${() => come("kept", () => session.resume())}
    >
      ${say("account.go_on", { name })}
    </button>
  `;
}

function missing(say, { name, password }) {
  const found = {};
  if (!name.trim()) found.name = say("account.name_missing");
  if (!password) found.password = say("account.password_missing");
  return found;
}

/** What the server would refuse, told before it is asked. */
function flaws(say, { name, nick, password }) {
  const found = {};
  const length = lengthOf(name.trim());
  if (length < NAME_MIN || length > NAME_MAX) found.name = say("problem.bad_name");
  if (lengthOf(nick.trim()) > NICK_MAX) found.nick = say("problem.bad_nick");
  if (lengthOf(password) < PASSWORD_MIN) found.password = say("problem.bad_password");
  return found;
}
