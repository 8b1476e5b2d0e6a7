/** Requests to the server, and the token that changes need. */

import { byId, chosen } from "./elements.js";

const TOKEN = "onceedit-token";
const PATIENCE = 150_000; // ms; the server ends a request before

/** What the server refuses, in its own words. */
export class Refusal extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The answer to a request, as JSON. */
export async function ask(method, path, body, headers = {}) {
  const options = { method, headers, signal: AbortSignal.timeout(PATIENCE) };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { ...headers, "Content-Type": "application/json" };
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refusal("the server does not answer");
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) {
    const message = answer?.error?.message ?? `the server answered with status ${response.status}`;
    throw new Refusal(message, response.status);
  }
  return answer;
}

/** The same for a change of the edits: asks for the token if there is none, or a wrong one. */
export async function change(method, path, body) {
  const usual = byId("token-why").textContent;
  let why = usual;
  for (;;) {
    const token = sessionStorage.getItem(TOKEN) ?? (await askedToken(why, usual));
    if (token === null) throw new Refusal("nothing was changed, as no token was given");
    try {
      const answer = await ask(method, path, body, { Authorization: `Bearer ${token}` });
      keepToken(token);
      return answer;
    } catch (refusal) {
      // The token is looked at first: any other refusal is none of the token.
      if (refusal.status !== 401) {
        if (refusal.status !== undefined) keepToken(token);
        throw refusal;
      }
      keepToken(null);
      why = refusal.message;
    }
  }
}

/** Keeps the token as long as the tab, or forgets it. */
export function keepToken(token) {
  if (token === null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, token);
  showToken();
}

/** Shows whether there is a token to forget. */
export function showToken() {
  byId("forget").hidden = sessionStorage.getItem(TOKEN) === null;
}

async function askedToken(why, usual) {
  const dialog = byId("token-dialog");
  const field = dialog.querySelector("input");
  byId("token-why").textContent = why;
  const given = (await chosen(dialog)) === "given";
  const token = field.value;
  field.value = "";
  byId("token-why").textContent = usual;
  return given ? token : null;
}
