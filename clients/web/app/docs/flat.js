// An operation's head is a button; Swagger UI puts a link into it, which screen readers and keys
// meet as one thing inside another. The link did nothing that the button does not do.

/** A plugin of Swagger UI. */
export function flat({ React: { createElement } }) {
  return { wrapComponents: { DeepLink: () => ({ text }) => createElement("span", null, text) } };
}
