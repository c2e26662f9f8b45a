// Keeps the list of a conversation's messages true while one scrolls, jumps and reads. Draws through
// `VirtualList`.

import { ClientError, Code, ServerError } from "../sdk/client.js";
import { AppProvider } from "./context.js";
import { PAGE, ShownHistory } from "./history.js";
import { VirtualList } from "./list.js";
import { Row } from "./message.js";
import { plainLine } from "./plain_line.js";
import { ReadMarks } from "./read_marks.js";
import { Referred } from "./referred.js";
import { RunningAnswers } from "./running_answers.js";
import { sameRow, timeline } from "./timeline.js";
import { batch, effect, html, render, signal, untracked } from "./ui.js";

/** What is held of a conversation that is not shown. */
const LEFT_KEPT = 100;
const TARGET_MS = 2_500;
const SEE_MS = 120;

/** The list of one conversation from `attach` to `close`; the views read its signals. */
export class MessagePane {
  #conv;
  #list = null;
  #scroller = null;
  #sources = new Map();
  #keys = new WeakMap();
  #history;
  #line = 0;
  #marks;
  #heard = Infinity;
  #cut = "";
  #referred;
  #running;
  #timers = { see: 0, target: 0 };
  #stops = [];
  #closed = false;
  #recovers = false;
  #follows = false;
  #jumps = 0;

  constructor(app, conv) {
    this.#conv = conv;
    /** What views may ask for (`useApp`); another one when the language is another. */
    this.app = signal(app);
    /** "loading", "ready", "empty", "missing" (no such conversation) or "failed". */
    this.phase = signal("loading");
    this.#history = new ShownHistory(app.client, conv);
    this.#running = new RunningAnswers(conv);
    this.#referred = new Referred(app.client, conv, () => this.#draw());
    this.#marks = new ReadMarks(app.client, conv);
    /** {shown, count}: whether the end is out of view, and how much is new there. */
    this.below = this.#marks.below;
    /** The message that was jumped to, for a moment. */
    this.target = signal(0);
    /** What has come, for those who hear the page. */
    this.said = signal("");
    this.sides = { older: signal("idle"), newer: signal("idle") };
  }

  // for the rows

  get conv() {
    return this.#conv;
  }

  /** "idle", "loading" or "failed". */
  side(side) {
    return this.sides[side].value;
  }

  /** The answer that is or was running, undefined when it was not seen here. */
  stream(sid) {
    return this.#running.stream(sid);
  }

  /** Changes with the text of a running answer, at most once a frame. */
  tick(sid) {
    return this.#running.tick(sid);
  }

  /** Ask once more for an answer that came to nothing. */
  async askAgain({ sid, ask, persona }) {
    const { client, model, overlay } = this.#app;
    const isBeside = this.#running.again.has(sid);
    model.forgetEnded(this.#conv, sid);
    try {
      if (isBeside) await client.regenerate(this.#conv, ask, { persona });
      else await client.reply(this.#conv, ask, { persona });
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      overlay.complain(error);
    }
  }

  // from the beginning to the end

  /** Draw into `scroller` from now on, and show message `seq`, or what is new (0). */
  attach(scroller, seq) {
    const { client } = this.#app;
    this.#scroller = scroller;
    this.#marks.watch(scroller);
    this.#list = new VirtualList(scroller, {
      keyOf: (row) => row.key,
      render: (row) => this.#create(row),
      onDrop: (element) => this.#drop(element),
      onStart: () => this.loadMore("older"),
      onEnd: () => this.loadMore("newer"),
    });
    const listen = (target, type, listener, options) => {
      target.addEventListener(type, listener, options);
      this.#stops.push(() => target.removeEventListener(type, listener, options));
    };
    listen(client, "streamText", (event) => this.#running.take(event));
    listen(client, "messageAdded", (event) => this.#came(event));
    listen(client, "sendQueued", (event) => event.conv === this.#conv && this.#sends());
    listen(scroller, "scroll", () => this.#seeSoon(), { passive: true });
    listen(document, "visibilitychange", () => this.#turned());
    this.open(seq);
  }

  close() {
    this.#closed = true;
    for (const stop of this.#stops.splice(0)) stop();
    this.#running.close();
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#list?.destroy();
    this.#app.client.feeds.trim(this.#conv, LEFT_KEPT);
  }

  /** Begin, or once more after it failed. */
  async open(seq = 0) {
    const { client, model } = this.#app;
    this.phase.value = "loading";
    try {
      await model.load(this.#conv);
      if (this.#closed) return;
      if (seq === 0) await this.#openNewest();
      else await this.#history.hold(seq);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      if (this.#closed) return;
      // Offline, what is held is shown all the same.
      const held = this.#view;
      if (isUnknown(error) || !held?.seqs.length) {
        this.phase.value = isUnknown(error) ? "missing" : "failed";
        return;
      }
      this.#history.showNewest();
    }
    if (this.#closed) return;
    this.#heard = client.feeds.convs.get(this.#conv)?.lastSeq ?? 0;
    if (this.#follows) this.#draw();
    else this.#stops.push(effect(() => this.#follow()));
    this.#follows = true;
    if (seq !== 0) this.#bring(seq);
    else this.#goToLine();
  }

  /** What is new begins in view; without anything new, the end is. */
  async #openNewest() {
    const { read, unread } = this.#view;
    this.#line = unread > 0 && read > 0 ? read : 0;
    if (this.#line !== 0 && unread > PAGE / 2) await this.#history.hold(read);
    await this.#history.begin();
  }

  #goToLine() {
    const list = this.#list;
    if (this.#line === 0 || !list.scrollToKey("new", { margin: this.#scroller.clientHeight / 4 })) {
      list.scrollToEnd();
    } else if (this.#history.isLive && this.#marks.room <= 1) {
      list.scrollToEnd();
    }
    this.#seeSoon();
  }

  // what is held

  get #app() {
    return this.app.peek();
  }

  get #view() {
    return this.#app.client.feeds.convs.get(this.#conv);
  }

  #find = (seq) => this.#view.messages.get(seq) ?? this.#referred.get(seq);

  /** Read more at the "older" or "newer" side, once at a time. */
  async loadMore(side) {
    const history = this.#history;
    const state = this.sides[side];
    const isThere = side === "older" ? history.isWhole : history.isLive;
    if (history.span === null || isThere || state.peek() === "loading") return;
    state.value = "loading";
    this.#cut = side === "older" ? "end" : "start";
    try {
      await history.readMore(side);
      state.value = "idle";
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      state.value = "failed";
    }
    if (this.#closed) return;
    this.#draw();
    this.#cut = "";
  }

  // drawing

  /** Whatever of this is another than before, the rows are made anew. */
  #follow() {
    const { model } = this.#app;
    model.view(this.#conv);
    model.streams(this.#conv);
    untracked(() => this.#draw());
  }

  #draw() {
    const view = this.#view;
    if (view === undefined || this.#closed) return;
    this.#regrow();
    const history = this.#history;
    const { model } = this.#app;
    const streams = model.streams(this.#conv);
    this.#running.note(streams, this.#find, (stream) => model.askOf(stream));
    const { rows, wanted } = timeline({
      find: this.#find,
      span: history.span,
      floor: history.floor,
      lastSeq: view.lastSeq,
      me: model.me,
      line: this.#line,
      streams,
      waiting: model.waiting(this.#conv),
      failed: model.failed(this.#conv),
      ended: model.ended(this.#conv),
      again: this.#running.again,
    });
    const { isLive } = history;
    if (!isLive) this.#list.follows = false;
    this.#show(rows);
    this.#list.follows = isLive;
    const isKnown = view.lastSeq === 0 || history.span !== null;
    this.phase.value = rows.length > 0 ? "ready" : isKnown ? "empty" : "loading";
    history.letGo();
    this.#referred.want(wanted);
    this.#seeSoon();
  }

  /** The part that is shown, after messages came or went. */
  #regrow() {
    const history = this.#history;
    const wasShown = history.span !== null;
    if (history.regrow(this.#cut || (this.#list.atEnd ? "start" : "end"))) return;
    // What was shown is gone, as after a long absence.
    if (this.#recovers) return;
    const place = wasShown && !this.#list.atEnd ? this.#placeInView() : null;
    const isShown = place === null && history.showNewest();
    if (!isShown && this.#view.lastSeq > 0) this.#recover(place);
  }

  /** The message at the top of the view: {seq, top}, null when none is in view. */
  #placeInView() {
    const begin = this.#scroller.getBoundingClientRect().top;
    for (const article of this.#scroller.querySelectorAll("[data-place]")) {
      const { top, bottom } = article.getBoundingClientRect();
      if (bottom > begin) return { seq: Number(article.dataset.place), top: top - begin };
    }
    return null;
  }

  /** Read what is to be shown: around a place where somebody reads, or the newest. */
  async #recover(place) {
    this.#recovers = true;
    try {
      if (place === null) await this.#history.readNewest();
      else await this.#history.hold(place.seq);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      this.phase.value = "failed";
      return;
    } finally {
      this.#recovers = false;
    }
    this.#draw();
    const key = this.#list.items.find((row) => row.place === place?.seq)?.key;
    if (key === undefined) this.#list.scrollToEnd();
    else this.#list.scrollToKey(key, { margin: place.top });
  }

  #show(rows) {
    batch(() => {
      for (const row of rows) {
        const source = this.#sources.get(row.key);
        if (source !== undefined && !sameRow(source.peek(), row)) source.value = row;
      }
    });
    this.#list.setItems(rows);
  }

  #create(row) {
    const element = document.createElement("div");
    const source = signal(row);
    this.#sources.set(row.key, source);
    this.#keys.set(element, row.key);
    render(html`<${Root} source=${source} pane=${this} />`, element);
    return element;
  }

  #drop(element) {
    this.#sources.delete(this.#keys.get(element));
    render(null, element);
  }

  // what happens

  /** Tell those who hear the page of a new message, in a few words. */
  #came({ conv, msg }) {
    if (conv !== this.#conv || msg.seq <= this.#heard) return;
    this.#heard = msg.seq;
    const { model } = this.#app;
    if (msg.sender === model.me || document.hidden) return;
    this.said.value = `${model.nameOf(msg.sender, this.#view)}: ${plainLine(msg.text)}`;
  }

  /** One's own message is on its way: one wants to see it, and what was new is known. */
  #sends() {
    this.#line = 0;
    this.toEnd();
  }

  /** What comes while nobody looks is new to who comes back. */
  #turned() {
    if (document.hidden && this.#list.atEnd) this.#line = this.#view?.lastSeq ?? 0;
    else this.#seeSoon();
  }

  // going somewhere

  /** Lead to message `seq`: the address says so too. */
  goTo(seq) {
    const { route } = this.#app;
    if (route.at.peek().seq === seq) this.jump(seq);
    else route.chat(this.#conv, { seq, replace: true });
  }

  /** Bring message `seq` into view and mark it for a moment. */
  async jump(seq) {
    const jump = ++this.#jumps;
    if (this.#view === undefined) return;
    try {
      await this.#history.hold(seq);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      this.#app.overlay.complain(error);
      return;
    }
    if (this.#closed || jump !== this.#jumps) return;
    this.#draw();
    this.#bring(seq);
  }

  #bring(seq) {
    const key = this.#list.items.find((row) => showsMessage(row, seq))?.key;
    if (key === undefined || !this.#list.scrollToKey(key, { margin: this.#scroller.clientHeight / 4 })) {
      this.#app.overlay.say(this.#app.say("chat.no_such_message"), "error");
      return;
    }
    this.#point(seq);
    this.#seeSoon();
  }

  #point(seq) {
    clearTimeout(this.#timers.target);
    this.target.value = seq;
    this.#timers.target = setTimeout(() => (this.target.value = 0), TARGET_MS);
    this.#scroller.querySelector(`article[data-seq="${seq}"]`)?.focus({ preventScroll: true });
  }

  /** Show the newest message; from then on the end is followed. */
  async toEnd() {
    this.#jumps += 1;
    if (this.#view !== undefined && !this.#history.isLive) {
      await this.#history.goToNewest();
      if (this.#closed) return;
      this.#draw();
    }
    this.#list.scrollToEnd();
    this.#seeSoon();
  }

  // what was read

  #seeSoon() {
    this.#timers.see ||= setTimeout(() => {
      this.#timers.see = 0;
      if (!this.#closed) this.#see();
    }, SEE_MS);
  }

  #see() {
    const view = this.#view;
    const { span, isLive } = this.#history;
    if (view === undefined || span === null) return;
    const isRead = this.phase.peek() === "ready";
    this.#marks.look(view, { from: span.from, isLive, isRead });
  }
}

/** What one row is drawn by; it is drawn anew when its row or the language is another. */
function Root({ source, pane }) {
  return html`
    <${AppProvider} value=${pane.app.value}>
      <${Row} row=${source.value} list=${pane} />
    <//>
  `;
}

function showsMessage({ place, msg, branch }, seq) {
  return place === seq || msg?.seq === seq || Boolean(branch?.seqs.includes(seq));
}

function isUnknown(error) {
  if (!(error instanceof ServerError)) return false;
  return error.code === Code.NOT_FOUND || error.code === Code.NOT_PERMITTED;
}
