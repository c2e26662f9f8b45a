// Messages shown by the system while the page is out of sight; only after the person asked for it.

import { useApp } from "./context.js";
import { isMuted } from "./conversation_actions.js";
import { plainLine } from "./plain_line.js";
import { html, signal, useEffect, useId } from "./ui.js";

const STORED_AS = "parlance.notifications";
/** What is older is no news: it came by catching up. */
const FRESH_MS = 60_000;

/**
 * The person's choice, kept on this device.
 *
 * state: signal of "on", "off", "denied" (the browser was told never to ask again), "insecure"
 * (the page came without https, where browsers forbid it) or "unsupported".
 */
class Notifications {
  constructor(page = globalThis) {
    this.isSecure = page.isSecureContext === true;
    this.supported = this.isSecure && "Notification" in page;
    this.state = signal(this.#read());
  }

  /** Ask the browser's permission; call it from a click. Resolves with the new state. */
  async ask() {
    if (!this.supported) return this.state.peek();
    const answer = await Notification.requestPermission();
    if (answer === "granted") this.#keep("on");
    this.state.value = this.#read();
    return this.state.peek();
  }

  off() {
    this.#keep("");
    this.state.value = this.#read();
  }

  /** Show one; `tag`: a newer one of the same takes its place. */
  show(title, { body, tag, onClick }) {
    if (this.state.peek() !== "on") return;
    try {
      const shown = new Notification(title, { body, tag, icon: "/icon.svg" });
      shown.onclick = () => {
        focus();
        onClick();
        shown.close();
      };
    } catch {
      // Phones want a service worker for this; there is none.
      this.supported = false;
      this.state.value = "unsupported";
    }
  }

  #read() {
    if (!this.isSecure) return "insecure";
    if (!this.supported) return "unsupported";
    if (Notification.permission === "denied") return "denied";
    return Notification.permission === "granted" && this.#kept() ? "on" : "off";
  }

  #kept() {
    try {
      return localStorage.getItem(STORED_AS) === "on";
    } catch {
      return false;
    }
  }

  #keep(choice) {
    try {
      if (choice) localStorage.setItem(STORED_AS, choice);
      else localStorage.removeItem(STORED_AS);
    } catch {
      // Full or forbidden: notifications stay off.
    }
  }
}

/** The one of this page. */
export const notifications = new Notifications();

/** Draws nothing; shows what others write while the page is hidden. */
export function Notifier() {
  const { client, model, route } = useApp();
  useEffect(() => {
    const added = ({ conv, msg }) => {
      const view = client.feeds.convs.get(conv);
      if (document.visibilityState === "visible" || !isNews(model, view, msg)) return;
      const title = model.titleOf(view);
      const name = msg.sender ? model.nameOf(msg.sender, view) : "";
      const text = plainLine(msg.text);
      const body = name && name !== title ? `${name}: ${text}` : text;
      notifications.show(title, { body, tag: `parlance.${conv}`, onClick: () => route.chat(conv) });
    };
    client.addEventListener("messageAdded", added);
    return () => client.removeEventListener("messageAdded", added);
  }, [client]);
  return null;
}

function isNews(model, view, { seq, sender, ts }) {
  if (sender === model.me || seq <= view.read || Date.now() - ts > FRESH_MS) return false;
  return !isMuted(view) && !view.my.archived && !view.left;
}

/** The part of the settings that switches it on and off. */
export function NotificationSetting() {
  const { say } = useApp();
  const state = notifications.state.value;
  const isOn = state === "on";
  const id = useId();
  const change = () => (isOn ? notifications.off() : notifications.ask());
  return html`
    <div class="field">
      <label class="switch-line">
        <input
          type="checkbox"
          checked=${isOn}
          aria-describedby=${id}
          disabled=${!isOn && state !== "off"}
          onChange=${change}
        />
        <span class="label">${say("notifications.label")}</span>
      </label>
      <span class="hint" id=${id}>${say(`notifications.${state}`)}</span>
    </div>
  `;
}
