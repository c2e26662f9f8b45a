// A list of which only the part in view is in the document, for thousands of rows of any height.
//
// What is in view stays where it is: one row is the anchor, and whatever changes above it (rows
// added, heights learned, pictures loaded) moves the scroll position by as much. A reader at the
// end stays at the end.

const AT_END_PX = 8;
/** Measuring new rows can bring others into view; more rounds than this are left to the next frame. */
const MAX_ROUNDS = 6;

/**
 * Owns everything inside `scroller`, which needs a height and `overflow-y: auto`.
 *
 * keyOf(item)      what the item is known by: unique, and the same as long as it is in the list
 * render(item)     a new element for the item; called again when it comes back into view
 * onDrop(element)  the element has left the document and is forgotten
 * onStart, onEnd   the first or last row came near: fetch more. Once for each first or last key.
 * estimate         height of a row that was never shown, in pixels
 * overscan         how far beyond the view rows are kept, in pixels
 */
export class VirtualList {
  #scroller;
  #options;
  #top = document.createElement("div");
  #bottom = document.createElement("div");
  #items = [];
  #heights = [];
  #offsets = null;
  #indexes = new Map();
  #rows = new Map();
  #anchor = null;
  #atEnd = true;
  #follows = true;
  #setPosition = -1;
  #asked = { onStart: null, onEnd: null };
  #observer = new ResizeObserver(() => this.#update());
  #onScroll = () => this.#follow();

  constructor(scroller, options) {
    this.#scroller = scroller;
    this.#options = { estimate: 72, overscan: 600, ...options };
    // The browser's own anchoring would move what is moved here already.
    scroller.style.overflowAnchor = "none";
    if (!scroller.hasAttribute("tabindex")) scroller.tabIndex = 0;
    for (const spacer of [this.#top, this.#bottom]) spacer.setAttribute("aria-hidden", "true");
    scroller.replaceChildren(this.#top, this.#bottom);
    scroller.addEventListener("scroll", this.#onScroll, { passive: true });
    this.#observer.observe(scroller);
  }

  /** Whether the last row is in view to its end: then new rows are followed. */
  get atEnd() {
    return this.#atEnd;
  }

  get items() {
    return this.#items;
  }

  /**
   * False while more rows are known to come after the last one, as in the middle of a long story:
   * then the end of the list is a place like any other, and what comes after it is not followed.
   */
  get follows() {
    return this.#follows;
  }

  set follows(follows) {
    if (follows === this.#follows) return;
    this.#follows = follows;
    this.#settleAt(this.#scroller.scrollTop);
  }

  /** Show these items. Rows of keys that stay keep their elements; two equal keys are an error. */
  setItems(items) {
    const { keyOf, estimate } = this.#options;
    const indexes = new Map(items.map((item, index) => [keyOf(item), index]));
    if (indexes.size !== items.length) throw new Error("two items have the same key");
    this.#moveAnchor(indexes);
    this.#heights = items.map((item) => {
      const before = this.#indexes.get(keyOf(item));
      return before === undefined ? estimate : this.#heights[before];
    });
    this.#items = [...items];
    this.#indexes = indexes;
    this.#offsets = null;
    this.#update();
  }

  /** Render the row of a key anew, when it is in the document. */
  refresh(key) {
    const row = this.#rows.get(key);
    if (row === undefined) return;
    const old = row.firstElementChild;
    row.replaceChildren(this.#options.render(this.#items[this.#indexes.get(key)]));
    this.#options.onDrop?.(old);
    this.#update();
  }

  /** Bring the row of a key to the top of the view, `margin` pixels below it; false if unknown. */
  scrollToKey(key, { margin = 0 } = {}) {
    if (!this.#indexes.has(key)) return false;
    this.#atEnd = false;
    this.#anchor = { key, offset: margin };
    this.#update();
    return true;
  }

  scrollToEnd() {
    this.#atEnd = true;
    this.#update();
    if (!this.#follows) this.#settleAt(this.#scroller.scrollTop);
  }

  /** Take all rows out and stop watching. */
  destroy() {
    this.#observer.disconnect();
    this.#scroller.removeEventListener("scroll", this.#onScroll);
    for (const key of [...this.#rows.keys()]) this.#remove(key);
    this.#scroller.replaceChildren();
  }

  /** When the anchor leaves the list, the nearest row that stays takes its place. */
  #moveAnchor(indexes) {
    if (this.#anchor === null || indexes.has(this.#anchor.key)) return;
    const { keyOf } = this.#options;
    const offsets = this.#computeOffsets();
    const from = this.#indexes.get(this.#anchor.key);
    const below = this.#items.slice(from).find((item) => indexes.has(keyOf(item)));
    const above = this.#items.slice(0, from).findLast((item) => indexes.has(keyOf(item)));
    const heir = below ?? above;
    if (heir === undefined) {
      this.#anchor = null;
      return;
    }
    const key = keyOf(heir);
    const moved = offsets[this.#indexes.get(key)] - offsets[from];
    this.#anchor = { key, offset: this.#anchor.offset + moved };
  }

  /** Where each row begins; one more at the end for the whole height. */
  #computeOffsets() {
    if (this.#offsets !== null) return this.#offsets;
    const offsets = new Float64Array(this.#heights.length + 1);
    for (let i = 0; i < this.#heights.length; i++) offsets[i + 1] = offsets[i] + this.#heights[i];
    this.#offsets = offsets;
    return offsets;
  }

  /** The reader scrolled: what is in view now is what shall stay. */
  #follow() {
    const position = this.#scroller.scrollTop;
    if (position === this.#setPosition) return;
    this.#setPosition = -1;
    this.#settleAt(position);
    this.#update();
  }

  #settleAt(position) {
    const offsets = this.#computeOffsets();
    const height = this.#scroller.clientHeight;
    const left = offsets[this.#items.length] - position - height;
    this.#atEnd = this.#follows && left <= AT_END_PX;
    this.#anchor = this.#findAnchor(offsets, position, height);
  }

  /** The first row in view; rather one whose height is known. */
  #findAnchor(offsets, position, height) {
    const { keyOf } = this.#options;
    const first = indexAt(offsets, position);
    if (first >= this.#items.length) return null;
    let chosen = first;
    for (let i = first; i < this.#items.length && offsets[i] < position + height; i++) {
      if (this.#rows.has(keyOf(this.#items[i]))) {
        chosen = i;
        break;
      }
    }
    return { key: keyOf(this.#items[chosen]), offset: offsets[chosen] - position };
  }

  #update() {
    const height = this.#scroller.clientHeight;
    if (height === 0) return;
    let position = 0;
    let range = [0, 0];
    for (let round = 0; round < MAX_ROUNDS; round++) {
      position = this.#wantedPosition(height);
      range = this.#rangeAt(position, height);
      this.#space(...range);
      this.#place(...range);
      if (!this.#measure()) break;
    }
    this.#space(...range);
    this.#scrollTo(this.#wantedPosition(height));
    this.#askForMore(range, height);
  }

  #wantedPosition(height) {
    const offsets = this.#computeOffsets();
    const last = Math.max(0, offsets[this.#items.length] - height);
    if (this.#atEnd) return last;
    if (this.#anchor === null) return Math.min(this.#scroller.scrollTop, last);
    const begin = offsets[this.#indexes.get(this.#anchor.key)];
    return Math.min(Math.max(0, begin - this.#anchor.offset), last);
  }

  #rangeAt(position, height) {
    const { overscan } = this.#options;
    const offsets = this.#computeOffsets();
    const begin = indexAt(offsets, position - overscan);
    const end = indexAt(offsets, position + height + overscan) + 1;
    return [begin, Math.min(end, this.#items.length)];
  }

  /** Have exactly the rows of a range in the document, in order. */
  #place(begin, end) {
    const { keyOf } = this.#options;
    const wanted = this.#items.slice(begin, end);
    const keys = new Set(wanted.map(keyOf));
    for (const key of [...this.#rows.keys()]) if (!keys.has(key)) this.#remove(key);
    let next = this.#top.nextSibling;
    for (const item of wanted) {
      const row = this.#rows.get(keyOf(item)) ?? this.#create(item);
      if (row === next) next = next.nextSibling;
      else this.#scroller.insertBefore(row, next);
    }
  }

  #create(item) {
    const row = document.createElement("div");
    // Margins of what is inside count as height of the row.
    row.style.display = "flow-root";
    row.append(this.#options.render(item));
    this.#rows.set(this.#options.keyOf(item), row);
    // Watching begins with the next frame: now the size is measured anyway.
    requestAnimationFrame(() => row.isConnected && this.#observer.observe(row));
    return row;
  }

  #remove(key) {
    const row = this.#rows.get(key);
    this.#rows.delete(key);
    this.#observer.unobserve(row);
    if (row.contains(document.activeElement)) this.#scroller.focus({ preventScroll: true });
    row.remove();
    this.#options.onDrop?.(row.firstElementChild);
  }

  /** Learn the heights of what is in the document; whether any was another than known. */
  #measure() {
    let changed = false;
    for (const [key, row] of this.#rows) {
      const height = row.getBoundingClientRect().height;
      const index = this.#indexes.get(key);
      if (Math.abs(height - this.#heights[index]) > 0.01) {
        this.#heights[index] = height;
        changed = true;
      }
    }
    if (changed) this.#offsets = null;
    return changed;
  }

  #space(begin, end) {
    const offsets = this.#computeOffsets();
    this.#top.style.height = `${offsets[begin]}px`;
    this.#bottom.style.height = `${offsets[this.#items.length] - offsets[end]}px`;
  }

  /** The scroll event of this step is not the reader's. */
  #scrollTo(position) {
    if (Math.abs(this.#scroller.scrollTop - position) >= 1) this.#scroller.scrollTop = position;
    this.#setPosition = this.#scroller.scrollTop;
    const offsets = this.#computeOffsets();
    if (this.#anchor === null) {
      this.#anchor = this.#findAnchor(offsets, this.#setPosition, this.#scroller.clientHeight);
      return;
    }
    // Near an end the row could not be brought where it was wanted: it belongs where it is.
    const offset = offsets[this.#indexes.get(this.#anchor.key)] - this.#setPosition;
    if (Math.abs(offset - this.#anchor.offset) > 1) this.#anchor.offset = offset;
  }

  #askForMore([begin, end], height) {
    if (this.#items.length === 0) return;
    const { keyOf } = this.#options;
    const left = this.#bottom.offsetHeight;
    if (begin === 0 && this.#scroller.scrollTop < height + this.#options.overscan) {
      this.#ask("onStart", keyOf(this.#items[0]));
    }
    if (end === this.#items.length && left === 0) this.#ask("onEnd", keyOf(this.#items.at(-1)));
  }

  #ask(name, key) {
    if (this.#asked[name] === key) return;
    this.#asked[name] = key;
    const callback = this.#options[name];
    // Not within this step: whoever is asked may change the items at once.
    if (callback) queueMicrotask(callback);
  }
}

/** The row at a position: the last that begins at or before it. */
function indexAt(offsets, position) {
  let low = 0;
  let high = Math.max(0, offsets.length - 2);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (offsets[middle] <= position) low = middle;
    else high = middle - 1;
  }
  return low;
}
