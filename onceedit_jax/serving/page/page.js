/** The page at `/` of `onceedit serve`. It asks this server and nobody else. */

import * as chat from "./chat.js";
import { byId } from "./elements.js";
import * as ledger from "./ledger.js";
import { keepToken, showToken } from "./server.js";

const COLOURS = "onceedit-colours";

function paint(colours) {
  if (colours) document.documentElement.dataset.colours = colours;
  else delete document.documentElement.dataset.colours;
}

const colours = byId("colours");
colours.value = localStorage.getItem(COLOURS) ?? "";
paint(colours.value);
colours.addEventListener("change", () => {
  localStorage.setItem(COLOURS, colours.value);
  paint(colours.value);
});
byId("forget").addEventListener("click", () => {
  keepToken(null);
  byId("add").elements.prompt.focus(); // this button is gone now
});
showToken();
await Promise.all([chat.begin(), ledger.begin()]);
document.querySelector("main").removeAttribute("aria-busy");
