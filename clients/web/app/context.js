// What every view may ask for, without being handed it through all views in between.

import { createContext, useContext } from "./ui.js";

const Context = createContext(null);

/** Gives `app` to everything below it. */
export const AppProvider = Context.Provider;

/**
 * What the page holds, for a view:
 *
 * words    `Words`; `app.say(key, values)` is the same as words.say and draws anew on a change
 * route    `Route`: where the page is
 * session  `Session`: who is signed in
 * client   the SDK's `Client` (null while nobody is signed in)
 * model    `Model`: the client's state as signals (null likewise)
 * drafts   `Drafts`: what is being written in each conversation (null likewise)
 * api      `Api`: requests over HTTP in the name of who is signed in
 * overlay  `Overlay`: dialogs, menus and short messages
 */
export function useApp() {
  return useContext(Context);
}
