/** The chat: each answer before and after the edits, and why they differ. */

import { byId, element } from "./elements.js";
import { fact, link, notice } from "./ledger.js";
import { ask } from "./server.js";

let turns = []; // of the conversation, as they may be sent again
let asking = false;
let conversation = 0; // counts those that were cleared

/** Begins with the models that may be asked. */
export async function begin() {
  const form = byId("ask");
  const { question, model } = form.elements;
  form.addEventListener("submit", answer);
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  byId("clear").addEventListener("click", () => {
    turns = [];
    conversation += 1;
    byId("answers").replaceChildren();
    question.focus();
  });
  try {
    const { data } = await ask("GET", "v1/models");
    const names = data.map((card) => card.id).filter((name) => !name.endsWith(":before"));
    model.append(...names.map((name) => element("option", {}, name)));
  } catch (refusal) {
    tell("", refusal.message);
  }
}

async function answer(event) {
  event.preventDefault();
  const { question, model, earlier } = event.target.elements;
  const content = question.value.trim();
  if (asking || !content) return;
  const own = conversation;
  wait(true);
  tell("Answering …");
  question.value = ""; // what is typed meanwhile is the next question
  const turn = { role: "user", content };
  const messages = earlier.checked ? [...turns, turn] : [turn];
  try {
    const told = await ask("POST", "v1/explain", { model: model.value, messages });
    const { edit } = told.onceedit;
    const meant = edit === null ? null : await ask("GET", `v1/edits/${edit}`).catch(() => null);
    if (own === conversation) {
      byId("answers").prepend(card(content, told, meant));
      turns.push(turn, { role: "assistant", content: told.after.content });
    }
    tell("");
    notice(told.onceedit.revision);
  } catch (refusal) {
    question.value ||= content;
    tell("", refusal.message);
  }
  wait(false);
}

function card(question, told, meant) {
  const { before, after, onceedit, reasons } = told;
  const changed = before.content !== after.content;
  const facts = [
    ["alpha", `${onceedit.alpha.toFixed(2)} (speaks from ${reasons.threshold.toFixed(2)} on)`],
    ["edit", asked(onceedit.edit, meant)],
    ["rule", reasons.rule ?? "none: the target answered by itself"],
  ];
  return element(
    "li",
    { class: "card answer" },
    element("h3", {}, question),
    element(
      "dl",
      { class: "sides" },
      side("Before", before, false),
      side(changed ? "After" : "After: the same", after, changed),
    ),
    element("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => pair(name, value))),
    element("details", {}, element("summary", {}, "Why"), why(reasons)),
    element("p", { class: "meta" }, `${told.model}, revision ${onceedit.revision}`),
  );
}

function asked(id, meant) {
  if (id === null) return "none was meant";
  return link(id, meant ? `#${id} ${fact(meant)}` : `#${id}`);
}

function side(title, { content, finish_reason: reason }, changed) {
  const cut = reason === "length" ? " … (cut here)" : "";
  const shown = (content.trim() || "(nothing)") + cut;
  return element("div", changed ? { class: "changed" } : {}, ...pair(title, shown));
}

const pair = (name, value) => [element("dt", {}, name), element("dd", {}, value)];

function why({ gate, hops, named, beyond, threshold }) {
  const lines = [["gate: ", gate]];
  for (const hop of hops)
    lines.push([`“${hop.phrase}” asks for edit `, link(hop.edit), `; asked instead: ${hop.text}`]);
  if (named?.length === 0) lines.push(["the question names the subject of no edit"]);
  for (const each of named ?? []) {
    const opens = each.likeness >= threshold ? "asks for it" : "does not ask for it";
    const likeness = each.likeness.toFixed(2);
    lines.push([`names “${each.name}” of edit `, link(each.edit), `: ${opens} (${likeness})`]);
  }
  if (beyond) lines.push(["more than the fact is asked: the target read it and answered by itself"]);
  return element("ul", { class: "meta" }, ...lines.map((line) => element("li", {}, ...line)));
}

function wait(now) {
  asking = now;
  byId("ask").querySelector("[type=submit]").setAttribute("aria-disabled", now);
}

function tell(status, problem = "") {
  byId("ask-status").textContent = status;
  byId("ask-problem").textContent = problem;
}
