// What every view is drawn with: Preact, its hooks, signals, and templates without a build step.
// The only place that names the versions of these libraries (docs/decisions/0013).

import { h } from "../vendor/preact/11.2.0/preact.mjs";
import htm from "../vendor/htm/3.1.1/htm.mjs";

export { createContext, createRef, Fragment, render } from "../vendor/preact/11.2.0/preact.mjs";
export {
  useCallback,
  useContext,
  useEffect,
  useId,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from "../vendor/preact/11.2.0/hooks.mjs";
export {
  batch,
  computed,
  effect,
  signal,
  untracked,
  useComputed,
  useSignal,
  useSignalEffect,
} from "../vendor/preact-signals/2.11.4/signals.mjs";

/** A template as elements: html`<p class=${name}>${text}<//>`. Text is never read as HTML. */
export const html = htm.bind(h);
