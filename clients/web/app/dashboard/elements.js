// Elements made by hand: text is always text, so nothing that anybody wrote is read as markup.

/** An element with properties, and `data-`, `aria-` and `role` attributes, around its children. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (/^(?:data-|aria-|role$)/.test(key)) element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** Write a text, and leave the document alone when it is there already. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Rows of a table that change where they are, so that what is focused stays focused.
 *
 * `columns` are [key, title] pairs; `none` is said when there are no rows.
 */
export class Table {
  #rows = new Map();
  #body = make("tbody", { role: "rowgroup" });
  #columns;
  #none;
  #root;

  constructor(root, label, columns, none) {
    this.#columns = columns;
    this.#none = make("p", { className: "quiet", textContent: none });
    const titles = columns.map(([key, title]) =>
      make("th", { role: "columnheader", scope: "col", className: key, textContent: title }),
    );
    // On a phone the rows are blocks, which would take the meaning of a table from them: the
    // roles give it back.
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...titles));
    this.table = make("table", { role: "table", "aria-label": label }, head, this.#body);
    this.#root = root;
    root.tabIndex = -1;
    root.replaceChildren(this.table, this.#none);
    this.show([]);
  }

  /**
   * Show these items: {id, state, cells}. `state` is for the style sheet; `cells` has a text for
   * each column, or a function that makes the element of a new row.
   */
  show(items) {
    const wanted = new Set(items.map(({ id }) => id));
    let lost = false;
    for (const [id, row] of this.#rows) {
      if (wanted.has(id)) continue;
      lost ||= row.contains(document.activeElement);
      row.remove();
      this.#rows.delete(id);
    }
    let before = this.#body.firstChild;
    for (const { id, state, cells } of items) {
      const row = this.#row(id);
      row.dataset.state = state;
      this.#fill(row, cells);
      if (row === before) before = row.nextSibling;
      else this.#body.insertBefore(row, before);
    }
    this.table.hidden = items.length === 0;
    this.#none.hidden = items.length > 0;
    // Who was on a row that has gone goes on from here, not from the top of the page.
    if (lost) this.#root.focus();
  }

  #row(id) {
    let row = this.#rows.get(id);
    if (row === undefined) {
      const cells = this.#columns.map(([key, title]) =>
        make("td", { role: "cell", className: key, "data-title": title }),
      );
      row = make("tr", { role: "row" }, ...cells);
      this.#rows.set(id, row);
    }
    return row;
  }

  #fill(row, cells) {
    cells.forEach((content, at) => {
      const cell = row.children[at];
      if (typeof content === "string") write(cell, content);
      else if (cell.firstChild === null) cell.append(content());
    });
  }
}
