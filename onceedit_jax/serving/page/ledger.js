/** The ledger: search, add, revert, and which edit gave way to which. */

import { byId, chosen, element } from "./elements.js";
import { ask, change } from "./server.js";

const MOST = 200; // edits that are shown at once
const POLL = 500; // milliseconds between two looks at a job

let writes = false; // whether this server lets edits be changed
let revision = -1; // of the ledger that is shown
let newest = 0; // the search that was begun last: an answer to an earlier one comes too late
const followed = new Set(); // ids of the jobs that are shown, or were
let wanted = null; // id of an edit that is shown whatever else is

/** Begins with the ledger as it is. */
export async function begin() {
  const search = byId("search");
  let timer;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    wanted = null;
    timer = setTimeout(reload, 200);
  });
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    reload();
  });
  byId("add").addEventListener("submit", add);
  document.addEventListener("visibilitychange", () => document.hidden || lookAgain());
  try {
    writes = (await ask("GET", "health")).writes;
    byId(writes ? "add" : "read-only").hidden = false;
    await watch();
  } catch (refusal) {
    tell("", refusal.message);
  }
  await reload();
}

async function lookAgain() {
  await Promise.all([reload(), watch().catch(() => {})]); // `reload` tells what is wrong
}

/** Shows the changes on their way, whoever has asked for them, oldest first. */
async function watch() {
  const { data } = await ask("GET", "v1/edits/jobs?open=true");
  for (const job of data.reverse()) follow(job, title(job));
}

/** Shows the ledger anew if it has another revision by now. */
export function notice(now) {
  if (now !== revision) reload();
}

/** Goes to an edit in the ledger, whatever is searched for. */
export async function show(id) {
  wanted = id;
  if (byId(`edit-${id}`) === null) {
    byId("search").reset();
    await reload();
  }
  byId(`edit-${id}`)?.focus();
}

/** A link to an edit in the ledger. */
export function link(id, text = `#${id}`) {
  const go = (event) => {
    event.preventDefault();
    show(id);
  };
  return element("a", { href: `#edit-${id}`, click: go }, text);
}

async function reload() {
  const number = (newest += 1);
  const { about, live } = byId("search").elements;
  const asked = { all: !live.checked, about: about.value.trim(), order: "desc", limit: MOST };
  let list;
  try {
    list = await ask("GET", `v1/edits?${new URLSearchParams(asked)}`);
    // One that is pointed to is shown, however old it is.
    if (wanted !== null && !list.data.some((edit) => edit.id === wanted))
      list.data.push(await ask("GET", `v1/edits/${wanted}`));
  } catch (refusal) {
    if (number === newest) tell("", refusal.message);
    return;
  }
  if (number !== newest) return;
  revision = list.revision;
  byId("count").textContent =
    `${list.total} ${list.total === 1 ? "edit" : "edits"}` +
    (list.has_more ? `; those before the newest ${MOST} are not shown, search for them` : "");
  // Whoever is in the list with the keyboard stays there.
  const focused = document.activeElement.closest("#edits > li")?.id;
  byId("edits").replaceChildren(...list.data.map(card));
  if (focused) byId(focused)?.focus();
}

function card(edit) {
  const meta = [`#${edit.id} · ${edit.state} · `, time(edit.added)];
  if (edit.subject) meta.push(` · about ${edit.subject}`);
  if (edit.supersedes.length) meta.push(" · supersedes ", ...links(edit.supersedes));
  if (edit.superseded_by !== null) meta.push(" · superseded by ", link(edit.superseded_by));
  const item = element(
    "li",
    { id: `edit-${edit.id}`, class: `card edit ${edit.state}`, tabindex: -1 },
    element("p", { class: "fact" }, fact(edit)),
    element("p", { class: "meta" }, ...meta),
  );
  if (writes && edit.state !== "reverted") {
    const label = `Revert edit ${edit.id}: ${fact(edit)}`;
    item.append(element("button", { "aria-label": label, click: () => revert(edit) }, "Revert"));
  }
  return item;
}

/** An edit in words. */
export const fact = (edit) => `${edit.prompt} → ${edit.target}`;

const links = (ids) => ids.flatMap((id, place) => (place ? [", ", link(id)] : [link(id)]));

function time(added) {
  const when = new Date(added);
  if (Number.isNaN(when.valueOf())) return "no time known";
  const format = { dateStyle: "medium", timeStyle: "short" };
  return element("time", { datetime: added }, when.toLocaleString("en-GB", format));
}

async function add(event) {
  event.preventDefault();
  const form = event.target;
  const { prompt, target, subject } = Object.fromEntries(new FormData(form));
  const edit = { prompt: prompt.trim(), target: target.trim() };
  if (subject.trim()) edit.subject = subject.trim();
  const job = await changed("POST", "v1/edits", { edits: [edit] }, `Learning ${fact(edit)}`);
  if (job) form.reset();
}

async function revert(edit) {
  byId("revert-fact").textContent = fact(edit);
  if ((await chosen(byId("revert-dialog"))) === "revert")
    await changed("DELETE", `v1/edits/${edit.id}`, undefined, `Reverting ${fact(edit)}`);
}

async function changed(method, path, body, what) {
  tell("");
  try {
    const job = await change(method, path, body);
    follow(job, what);
    return job;
  } catch (refusal) {
    tell("", refusal.message);
    return null;
  }
}

const title = (job) => `${job.kind === "add" ? "Learning" : "Reverting"} ${job.title}`;

const ended = (job) => job.status === "done" || job.status === "failed";

/** Shows how a change goes on until answers know it. */
async function follow(job, what) {
  if (followed.has(job.id)) return;
  followed.add(job.id);
  const bar = element("progress", { "aria-label": what });
  const stage = element("p", { class: "meta" });
  const item = element("li", { class: "card" }, element("p", {}, what), stage, bar);
  byId("jobs").append(item);
  tell(`${what}: accepted`);
  try {
    while (!ended(job)) {
      stage.textContent = job.status === "queued" ? "waits for another change" : "on its way";
      if (job.progress) {
        const { step, steps, reliability } = job.progress;
        [bar.max, bar.value] = [steps, step];
        stage.textContent = `step ${step} of ${steps}, ${percent(reliability)} learnt`;
      }
      job = await later(job);
    }
    tell(`${what}: ${outcome(job)}`, job.error ?? "");
  } catch (refusal) {
    tell("", refusal.message);
  }
  item.remove();
  reload();
}

/** The job a moment later. A server that is started again goes on with it. */
async function later(job) {
  for (let pause = POLL; ; pause = Math.min(2 * pause, 10_000)) {
    await new Promise((done) => setTimeout(done, document.hidden ? 10 * pause : pause));
    try {
      return await ask("GET", `v1/edits/jobs/${job.id}`);
    } catch (refusal) {
      if (refusal.status !== undefined && refusal.status < 500) throw refusal;
    }
  }
}

const percent = (share) => `${Math.round(100 * share)} %`;

function outcome(job) {
  if (job.status === "failed") return "failed";
  const parts = ["done"];
  if (job.kind === "add" && job.edits.length) parts.push(`edit ${job.edits.join(", ")} answers`);
  if (job.superseded.length) parts.push(`it supersedes ${job.superseded.join(", ")}`);
  if (job.known) parts.push("it was known already");
  return [...parts, ...job.warnings].join("; ");
}

function tell(status, problem = "") {
  byId("ledger-status").textContent = status;
  byId("ledger-problem").textContent = problem;
}
