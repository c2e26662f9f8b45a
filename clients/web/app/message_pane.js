// Keeps the list of a conversation's messages true: which of them are held and shown, what is
// fetched when one scrolls or jumps, what counts as read. Draws through `VirtualList`.

import { ClientError, Code, ServerError } from "../sdk/client.js";
import { AppProvider } from "./context.js";
import { VirtualList } from "./list.js";
import { Row } from "./message.js";
import { plainLine } from "./plain_line.js";
import { ReadMarks } from "./read_marks.js";
import { Referred } from "./referred.js";
import { RunningAnswers } from "./running_answers.js";
import { grown, nearest, newestSpan, spanAround, SPAN_MAX } from "./span.js";
import { sameRow, timeline } from "./timeline.js";
import { batch, effect, html, render, signal, untracked } from "./ui.js";

const PAGE = 60;
/** The newest messages stay held while one reads far back: the way back to them is short. */
const NEWEST_KEPT = 60;
/** More held than shown than this is let go of. */
const SLACK = 120;
/** What is held of a conversation that is not shown. */
const LEFT_KEPT = 100;
/** Around a place that is jumped to, at least so many messages are wanted. */
const AROUND_MIN = 20;
const TARGET_MS = 2_500;
const SEE_MS = 120;
const PATIENCE_MS = 400;

/** The list of one conversation from `attach` to `close`; the views read its signals. */
export class MessagePane {
  #conv;
  #list = null;
  #scroller = null;
  #sources = new Map();
  #keys = new WeakMap();
  #span = null;
  #floor = 1;
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
      else await this.#hold(seq);
    } catch (error) {
      if (!(error instanceof ClientError)) throw error;
      if (this.#closed) return;
      // Offline, what is held is shown all the same.
      const held = this.#view;
      if (isUnknown(error) || !held?.seqs.length) {
        this.phase.value = isUnknown(error) ? "missing" : "failed";
        return;
      }
      this.#span = newestSpan(held.seqs, held.lastSeq);
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
    const view = this.#view;
    const { read, unread, lastSeq } = view;
    this.#line = unread > 0 && read > 0 ? read : 0;
    if (this.#line !== 0 && unread > PAGE / 2) await this.#hold(read);
    if (this.#span !== null || lastSeq === 0) return;
    this.#span = newestSpan(view.seqs, lastSeq, SPAN_MAX);
    if (this.#size >= AROUND_MIN || this.#span?.from <= this.#floor) return;
    const reading = this.#read(0, true);
    // A few are held: more of them at once look better, but are not worth a long wait.
    if (this.#span === null) await reading;
    else await Promise.race([reading.catch(ignoreFailure), pause(PATIENCE_MS)]);
    this.#span = newestSpan(view.seqs, view.lastSeq) ?? this.#span;
  }

  #goToLine() {
    const list = this.#list;
    if (this.#line === 0 || !list.scrollToKey("new", { margin: this.#scroller.clientHeight / 4 })) {
      list.scrollToEnd();
    } else if (this.#isLive && this.#marks.room <= 1) {
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

  get #size() {
    return this.#span === null ? 0 : this.#span.to - this.#span.from + 1;
  }

  /** Whether the newest message is among those shown. */
  get #isLive() {
    return this.#span === null || this.#span.to >= (this.#view?.lastSeq ?? 0);
  }

  #find = (seq) => this.#view.messages.get(seq) ?? this.#referred.get(seq);

  /** Read a page before or after `anchor`; there is nothing below what the last one begins with. */
  async #read(anchor, back) {
    const page = await this.#app.client.history(this.#conv, anchor, { back, limit: PAGE });
    const first = page.msgs[0]?.seq;
    if (back && !page.more && first !== undefined) this.#floor = first;
    return page;
  }

  /** Have message `seq` and what is around it, as the part that is shown. */
  async #hold(seq) {
    let span = spanAround(this.#view.seqs, seq);
    if (span === null || this.#isThin(span)) {
      await this.#read(seq + PAGE / 2, true);
      span = spanAround(this.#view.seqs, nearest(this.#view.seqs, seq));
    }
    if (!this.#closed) this.#span = span;
  }

  #isThin({ from, to }) {
    return to - from < AROUND_MIN && from > this.#floor && to < this.#view.lastSeq;
  }

  /** Read more at the "older" or "newer" side, once at a time. */
  async loadMore(side) {
    const span = this.#span;
    const state = this.sides[side];
    const isThere = side === "older" ? span?.from <= this.#floor : this.#isLive;
    if (span === null || isThere || state.peek() === "loading") return;
    state.value = "loading";
    this.#cut = side === "older" ? "end" : "start";
    try {
      const isOlder = side === "older";
      const page = await this.#read(isOlder ? span.from : span.to, isOlder);
      if (isOlder && page.msgs.length === 0) this.#floor = span.from;
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
    this.#regrow(view);
    const { model } = this.#app;
    const streams = model.streams(this.#conv);
    this.#running.note(streams, this.#find, (stream) => model.askOf(stream));
    const { rows, wanted } = timeline({
      find: this.#find,
      span: this.#span,
      floor: this.#floor,
      lastSeq: view.lastSeq,
      me: model.me,
      line: this.#line,
      streams,
      waiting: model.waiting(this.#conv),
      failed: model.failed(this.#conv),
      ended: model.ended(this.#conv),
      again: this.#running.again,
    });
    const isLive = this.#isLive;
    if (!isLive) this.#list.follows = false;
    this.#show(rows);
    this.#list.follows = isLive;
    const isKnown = view.lastSeq === 0 || this.#span !== null;
    this.phase.value = rows.length > 0 ? "ready" : isKnown ? "empty" : "loading";
    this.#letGo(view);
    this.#referred.want(wanted);
    this.#seeSoon();
  }

  /** The part that is shown, after messages came or went. */
  #regrow(view) {
    const has = (seq) => view.messages.has(seq);
    const span = this.#span;
    if (span !== null && has(span.from) && has(span.to)) {
      this.#span = grown(span, has, this.#cut || (this.#list.atEnd ? "start" : "end"));
      return;
    }
    // What was shown is gone, as after a long absence.
    if (this.#recovers) return;
    const place = span === null || this.#list.atEnd ? null : this.#placeInView();
    this.#span = place === null ? newestSpan(view.seqs, view.lastSeq) : null;
    if (this.#span === null && view.lastSeq > 0) this.#recover(place);
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
      if (place === null) await this.#read(0, true);
      else await this.#hold(place.seq);
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

  #letGo(view) {
    if (view.seqs.length <= this.#size + NEWEST_KEPT + SLACK) return;
    const { from, to } = this.#span;
    this.#app.client.feeds.retain(this.#conv, from, to, NEWEST_KEPT);
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
      await this.#hold(seq);
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
    if (this.#view !== undefined && !this.#isLive) {
      const view = this.#view;
      const isHeld = newestSpan(view.seqs, view.lastSeq) !== null;
      if (!isHeld) await this.#read(0, true).catch(ignoreFailure);
      if (this.#closed) return;
      this.#span = newestSpan(view.seqs, view.lastSeq) ?? this.#span;
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
    if (view === undefined || this.#span === null) return;
    const isRead = this.phase.peek() === "ready";
    this.#marks.look(view, { from: this.#span.from, isLive: this.#isLive, isRead });
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

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function ignoreFailure(error) {
  if (!(error instanceof ClientError)) throw error;
}
