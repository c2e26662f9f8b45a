// Light or dark: as on the device, unless the person chose; kept on the device.

const STORED_AS = "parlance.theme";
const THEMES = new Set(["system", "light", "dark"]);

/** The choice that is kept: "system", "light" or "dark". */
export function keptTheme() {
  try {
    const kept = localStorage.getItem(STORED_AS);
    return THEMES.has(kept) ? kept : "system";
  } catch {
    return "system"; // a storage that refuses keeps nothing
  }
}

/** Use a theme from now on, and remember it. */
export function useTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(STORED_AS, theme);
  } catch {
    // It holds until the page is left.
  }
}

/** Call `changed` when the device goes from light to dark or back. */
export function onDeviceTheme(changed) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}
