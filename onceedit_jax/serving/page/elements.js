/** Elements of the page, and dialogs. */

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element. Functions are listeners, other properties are attributes, and texts among the
 * children stay texts: nothing that a fact or a model says is read as HTML.
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Opens a dialog, and gives the value of the button that closes it; "" for none. */
export function chosen(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener("close", () => done(dialog.returnValue), { once: true });
  });
}
