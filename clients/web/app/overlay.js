// What lies above the page: dialogs, menus, and short messages that go by themselves.

import { useApp } from "./context.js";
import { Icon } from "./icons.js";
import { html, signal, useId, useLayoutEffect, useRef, useSignal } from "./ui.js";

const TOAST_MS = 5_000;
const TOASTS_MAX = 4;
const MENU_GAP_PX = 4;

/** What is open; `OverlayLayer` draws it. One dialog stands above another, the last on top. */
export class Overlay {
  #next = 1;
  #explain;

  /** `explain(error)`: what to tell people about it. */
  constructor(explain = (error) => error.detail || error.reason || error.message || String(error)) {
    this.#explain = explain;
    this.dialogs = signal([]);
    this.toasts = signal([]);
  }

  /**
   * Show `view` (a function that is given `close` and returns elements) until it calls
   * `close(result)`; resolves with the result, undefined when the dialog was put away.
   */
  open(view) {
    return new Promise((resolve) => {
      const id = this.#next++;
      const close = (result) => {
        this.dialogs.value = this.dialogs.peek().filter((dialog) => dialog.id !== id);
        resolve(result);
      };
      this.dialogs.value = [...this.dialogs.peek(), { id, view, close }];
    });
  }

  /** Put everything away. */
  closeAll() {
    for (const { close } of this.dialogs.peek()) close();
  }

  /** Ask for a yes; resolves with true or false. `danger`: it cannot be taken back. */
  async confirm({ title, text = "", yes, no, danger = false }) {
    const answer = await this.open(
      (close) => html`
        <${Dialog} title=${title} close=${close} role="alertdialog">
          ${text && html`<p>${text}</p>`}
          <div class="dialog-actions">
            <button type="button" class="button" onClick=${() => close(false)}>${no}</button>
            <button
              type="button"
              class=${danger ? "button danger" : "button primary"}
              onClick=${() => close(true)}
            >
              ${yes}
            </button>
          </div>
        <//>
      `,
    );
    return answer === true;
  }

  /** Say something in passing; `kind` is "info" or "error". */
  say(text, kind = "info") {
    const toast = { id: this.#next++, text, kind };
    this.toasts.value = [...this.toasts.peek(), toast].slice(-TOASTS_MAX);
    setTimeout(() => this.dismiss(toast.id), TOAST_MS);
  }

  /** Tell of an error of the SDK. */
  complain(error) {
    this.say(this.#explain(error), "error");
  }

  dismiss(id) {
    this.toasts.value = this.toasts.peek().filter((toast) => toast.id !== id);
  }
}

/** A modal dialog with a title; Escape, the cross and a click beside it call `close()`. */
export function Dialog({ title, close, children, wide = false, role = "dialog" }) {
  const { words } = useApp();
  const element = useRef(null);
  const label = useId();
  useLayoutEffect(() => {
    const before = document.activeElement;
    const dialog = element.current;
    dialog.showModal();
    return () => {
      // As long as it is open, nothing outside takes the focus.
      dialog.close();
      before?.focus?.();
    };
  }, []);
  const besides = (event) => {
    if (event.target === element.current) close();
  };
  const cancelled = (event) => {
    event.preventDefault();
    close();
  };
  return html`
    <dialog
      ref=${element}
      role=${role}
      class=${wide ? "dialog wide" : "dialog"}
      aria-labelledby=${label}
      onCancel=${cancelled}
      onMouseDown=${besides}
    >
      <div class="dialog-box">
        <header class="dialog-head">
          <h2 id=${label}>${title}</h2>
          <button
            type="button"
            class="icon-button"
            aria-label=${words.say("action.close")}
            onClick=${() => close()}
          >
            <${Icon} name="close" />
          </button>
        </header>
        ${children}
      </div>
    </dialog>
  `;
}

/**
 * A button that opens a list of things to do: [{id, label, icon, run, danger}].
 *
 * Arrow keys move, Escape closes and gives the focus back.
 */
export function MenuButton({ label, icon = "more", items, className = "icon-button", tabIndex = 0 }) {
  const isOpen = useSignal(false);
  const root = useRef(null);
  useLayoutEffect(() => {
    if (!isOpen.value) return undefined;
    const [button, menu] = root.current.children;
    // In the top layer no box that scrolls cuts it off.
    menu.showPopover();
    placeMenu(menu, button.getBoundingClientRect());
    menu.querySelector("[role=menuitem]")?.focus({ preventScroll: true });
    const outside = (event) => {
      if (!root.current.contains(event.target)) isOpen.value = false;
    };
    const scrolled = () => placeMenu(menu, button.getBoundingClientRect());
    document.addEventListener("pointerdown", outside);
    document.addEventListener("scroll", scrolled, { capture: true, passive: true });
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("scroll", scrolled, { capture: true });
    };
  }, [isOpen.value]);
  const shut = () => {
    isOpen.value = false;
    root.current.querySelector("button").focus();
  };
  const pressed = (event) => {
    const entries = [...root.current.querySelectorAll("[role=menuitem]")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape" && isOpen.value) {
      event.stopPropagation();
      event.preventDefault();
      shut();
    } else if (event.key === "Tab" && isOpen.value) {
      shut();
    } else if (step !== undefined && entries.length > 0) {
      event.preventDefault();
      const at = entries.indexOf(document.activeElement) + step;
      entries[(at + entries.length) % entries.length].focus();
    }
  };
  const chosen = (item) => {
    shut();
    item.run();
  };
  return html`
    <span class="menu-root" ref=${root} onKeyDown=${pressed}>
      <button
        type="button"
        class=${className}
        tabindex=${tabIndex}
        aria-label=${label}
        title=${label}
        aria-haspopup="menu"
        aria-expanded=${isOpen.value ? "true" : "false"}
        onClick=${() => (isOpen.value = !isOpen.value)}
      >
        <${Icon} name=${icon} />
      </button>
      ${isOpen.value &&
      html`
        <div class="menu" role="menu" popover="manual" aria-label=${label}>
          ${items.map(
            (item) => html`
              <button
                type="button"
                role="menuitem"
                tabindex="-1"
                key=${item.id}
                class=${item.danger ? "menu-item danger" : "menu-item"}
                onClick=${() => chosen(item)}
              >
                ${item.icon && html`<${Icon} name=${item.icon} />`}${item.label}
              </button>
            `,
          )}
        </div>
      `}
    </span>
  `;
}

/** Below its button, or above where there is no room; never beyond the edge of the window. */
function placeMenu(menu, button) {
  const { width, height } = menu.getBoundingClientRect();
  const isLow = button.bottom + MENU_GAP_PX + height > innerHeight;
  const top = isLow ? button.top - MENU_GAP_PX - height : button.bottom + MENU_GAP_PX;
  const isRight = button.left + button.right > innerWidth;
  const left = isRight ? button.right - width : button.left;
  menu.style.top = `${Math.max(MENU_GAP_PX, top)}px`;
  menu.style.left = `${Math.max(MENU_GAP_PX, Math.min(left, innerWidth - width - MENU_GAP_PX))}px`;
}

/** Draws what is open. */
export function OverlayLayer() {
  const { overlay, words } = useApp();
  return html`
    ${overlay.dialogs.value.map(({ id, view, close }) => html`<${Opened} key=${id} view=${view} close=${close} />`)}
    <div class="toasts" role="status" aria-live="polite">
      ${overlay.toasts.value.map(
        ({ id, text, kind }) => html`
          <div class=${`toast ${kind}`} key=${id}>
            <span>${text}</span>
            <button
              type="button"
              class="icon-button"
              aria-label=${words.say("action.close")}
              onClick=${() => overlay.dismiss(id)}
            >
              <${Icon} name="close" />
            </button>
          </div>
        `,
      )}
    </div>
  `;
}

function Opened({ view, close }) {
  return view(close);
}
