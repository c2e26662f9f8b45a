// Light or dark, before anything is drawn: a plain script in the head, not a module.

(() => {
  const STORED_AS = "parlance.theme";
  const known = new Set(["light", "dark", "system"]);
  const kept = () => {
    try {
      return localStorage.getItem(STORED_AS) ?? "system";
    } catch {
      return "system";
    }
  };
  const apply = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  const theme = {
    /** "light", "dark" or "system". */
    get chosen() {
      return known.has(kept()) ? kept() : "system";
    },
    choose(name) {
      if (!known.has(name)) throw new RangeError(`no theme ${name}`);
      try {
        localStorage.setItem(STORED_AS, name);
      } catch {
        // Full or forbidden: it holds as long as the page.
      }
      apply(name);
    },
  };
  apply(theme.chosen);
  addEventListener("storage", (event) => {
    if (event.key === STORED_AS) apply(theme.chosen);
  });
  Object.defineProperty(globalThis, "parlanceTheme", { value: Object.freeze(theme) });
})();
