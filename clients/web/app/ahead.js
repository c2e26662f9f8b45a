// The first module of the page, and it imports nothing: so it runs while all the others are still
// on their way, and the view that will be shown comes along with them.

const VIEWS = { c: "chat", personas: "personas", settings: "settings" };

/** Whether somebody is signed in, as far as one can tell from here; session.js knows better. */
function isSomebodyIn() {
  try {
    return localStorage.getItem("parlance.tokens") !== null;
  } catch {
    return false;
  }
}

const [, place] = location.hash.split("/");
const view = isSomebodyIn() ? (VIEWS[place] ?? "welcome") : "sign_in";
// What fails here is tried again, and told, where it is needed.
import(`./${view}.js`).catch(() => {});
