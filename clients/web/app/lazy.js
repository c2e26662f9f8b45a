// Views that are loaded when they are first shown.

import { html, useEffect, useState } from "./ui.js";

/** A component that draws nothing until `load` has brought the real one. */
export function lazy(load) {
  let found = null;
  return function Later(props) {
    const [, draw] = useState(false);
    useEffect(() => {
      let left = false;
      if (found === null) {
        load().then((view) => {
          found = view;
          if (!left) draw(true);
        });
      }
      return () => {
        left = true;
      };
    }, []);
    return found && html`<${found} ...${props} />`;
  };
}
