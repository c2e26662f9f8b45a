// The list of conversations: only the rows in view are in the document, however many there are.

import { ConvKind } from "../sdk/client.js";
import { othersIn } from "./chat_header.js";
import { useApp } from "./context.js";
import { ConversationRow } from "./conversation_row.js";
import { Icon } from "./icons.js";
import { lazy } from "./lazy.js";
import { RowDetails } from "./row_details.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useSignal } from "./ui.js";

const FirstSteps = lazy(() => import("./welcome.js").then((module) => module.FirstSteps));

/** Height of a row, as side.css has it. */
const ROW_PX = 68;
/** Rows beyond the view, above and below. */
const OVERSCAN = 6;
/** Rows whose typing is followed; the open conversation needs a place too. */
const FOLLOWED = 12;
/** The list settles before it is told to the server what is in view, in ms. */
const SETTLE_MS = 200;
/** More of the list is read when so few rows are left below the view. */
const NEAR_END = 12;

/** Everything below the head of the side bar. */
export function ConversationList() {
  const { model, say } = useApp();
  const wanted = useSignal("");
  const isArchive = useSignal(false);
  const shown = chosen(model, isArchive.value, wanted.value);
  const more = isArchive.value ? model.moreArchived.value : model.moreConvs.value;
  return html`
    <${Tools} wanted=${wanted} isArchive=${isArchive} />
    ${isArchive.value && html`<h2 class="conv-heading">${say("conversation.archived_list")}</h2>`}
    <${Rows}
      key=${isArchive.value}
      views=${shown}
      readsAll=${wanted.value !== "" && more}
      more=${more && (() => model.listMore({ archived: isArchive.peek() }))}
    />
    ${shown.length === 0 && html`<${Nothing} isArchive=${isArchive.value} wanted=${wanted.value} more=${more} />`}
  `;
}

/** Those of the list, or of the archive, whose title has the words in it. */
function chosen(model, isArchive, wanted) {
  const open = model.convs.value.filter((view) => Boolean(view.my.archived) === isArchive);
  const all = isArchive ? [...open, ...model.deleted.value] : open;
  const words = folded(wanted).split(/\s+/).filter(Boolean);
  if (words.length === 0) return all;
  return all.filter((view) => {
    const title = folded(`${model.titleOf(view)} ${view.row.title ?? ""}`);
    return words.every((word) => title.includes(word));
  });
}

const folded = (text) => text.normalize("NFKC").toLowerCase();

function Tools({ wanted, isArchive }) {
  const { say } = useApp();
  const archive = say(isArchive.value ? "conversation.list" : "conversation.archived_list");
  const pressed = (event) => {
    if (event.key === "Escape") wanted.value = "";
  };
  return html`
    <div class="conv-tools" role="search">
      <label class="conv-search">
        <${Icon} name="search" />
        <input
          type="search"
          class="input"
          aria-label=${say("conversation.search")}
          placeholder=${say("conversation.search")}
          value=${wanted.value}
          onInput=${(event) => (wanted.value = event.target.value)}
          onKeyDown=${pressed}
        />
      </label>
      <button
        type="button"
        class="icon-button"
        aria-label=${archive}
        title=${archive}
        aria-pressed=${isArchive.value ? "true" : "false"}
        onClick=${() => (isArchive.value = !isArchive.value)}
      >
        <${Icon} name=${isArchive.value ? "back" : "archive"} />
      </button>
    </div>
  `;
}

function Nothing({ isArchive, wanted, more }) {
  const { say } = useApp();
  if (more) return null;
  const key = wanted ? "none_found" : isArchive ? "none_archived" : "none";
  return html`
    <p class=${`conv-nothing quiet ${key === "none" ? "only-wide" : ""}`}>${say(`conversation.${key}`)}</p>
    ${key === "none" && html`<${FirstSteps} />`}
  `;
}

/** `more`: reads on, or false when all is here; `readsAll`: read on although nobody scrolls. */
function Rows({ views, more, readsAll }) {
  const app = useApp();
  const { model, client, route, say } = app;
  const scroller = useRef(null);
  const range = useSignal([0, 20]);
  const stop = useSignal(0);
  const focusOn = useRef(0);
  const details = useMemo(() => new RowDetails(client, model), [client, model]);
  const measure = () => {
    const { scrollTop, clientHeight } = scroller.current;
    const first = Math.max(0, Math.floor(scrollTop / ROW_PX) - OVERSCAN);
    const end = Math.ceil((scrollTop + clientHeight) / ROW_PX) + OVERSCAN;
    const [oldFirst, oldEnd] = range.peek();
    if (first !== oldFirst || end !== oldEnd) range.value = [first, end];
  };
  useLayoutEffect(() => {
    const observer = new ResizeObserver(measure);
    observer.observe(scroller.current);
    measure();
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (focusOn.current === 0) return;
    scroller.current.querySelector(`[data-conv="${focusOn.current}"]`)?.focus({ preventScroll: true });
    focusOn.current = 0;
  });
  const [first, end] = range.value;
  const places = placesOf(views, first, end, stop.value);
  const inView = places.map((place) => views[place]);
  useEffect(() => details.want(inView));
  useFollowing(model, inView);
  useEffect(() => {
    if (more && (readsAll || end >= views.length - NEAR_END)) more().catch(() => {});
  });
  const current = route.at.value.conv;
  const stopAt = views.some((view) => view.conv === stop.value) ? stop.value : (views[0]?.conv ?? 0);
  const pressed = (event) => {
    const to = targetOf(event, views);
    if (to === undefined) return;
    event.preventDefault();
    stop.value = focusOn.current = views[to].conv;
    reveal(scroller.current, to);
    measure();
  };
  return html`
    <div class="conv-scroll" ref=${scroller} onScroll=${measure} onKeyDown=${pressed}>
      <ul class="conv-list" role="list" aria-label=${say("conversation.list")} style=${{ height: `${views.length * ROW_PX}px` }}>
        ${places.map(
          (place) => html`
            <${ConversationRow}
              key=${views[place].conv}
              conv=${views[place].conv}
              isCurrent=${views[place].conv === current}
              stop=${views[place].conv === stopAt}
              place=${place + 1}
              total=${more ? -1 : views.length}
              top=${place * ROW_PX}
            />
          `,
        )}
      </ul>
    </div>
  `;
}

/** The rows to be drawn; the one where Tab stops stays, so that the focus is not lost. */
function placesOf(views, first, end, stop) {
  const last = Math.min(end, views.length);
  const places = Array.from({ length: Math.max(0, last - first) }, (_, i) => first + i);
  const kept = stop === 0 ? -1 : views.findIndex((view) => view.conv === stop);
  if (kept >= 0 && kept < first) places.unshift(kept);
  else if (kept >= last) places.push(kept);
  return places;
}

/** Where a key leads from the row that has the focus; undefined for nowhere. */
function targetOf(event, views) {
  if (event.defaultPrevented || !event.target.matches(".conv-link")) return undefined;
  const here = views.findIndex((view) => view.conv === Number(event.target.dataset.conv));
  const last = views.length - 1;
  const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: last }[event.key];
  return to === undefined || here < 0 ? undefined : Math.min(Math.max(0, to), last);
}

function reveal(scroller, place) {
  const top = place * ROW_PX;
  const { scrollTop, clientHeight } = scroller;
  if (top < scrollTop) scroller.scrollTop = top;
  else if (top + ROW_PX > scrollTop + clientHeight) scroller.scrollTop = top + ROW_PX - clientHeight;
}

/** Follow who types in the first rows in view, and who of them is there. */
function useFollowing(model, views) {
  const convs = views.slice(0, FOLLOWED).map((view) => view.conv);
  const direct = views.filter((view) => view.row.kind === ConvKind.DIRECT);
  const people = direct.flatMap((view) => othersIn(model, view));
  useEffect(() => {
    const timer = setTimeout(() => model.follow("list", convs, people), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [convs.join(), people.join()]);
}
