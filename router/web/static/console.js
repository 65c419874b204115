// The console: what `dicom-router status` shows, every two seconds, and the few actions that cannot wait.
// Everything from the router goes into the page as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok && answer.status !== 422) throw new Error(value.error || answer.statusText);
  return value;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const cell of cells) {
    if (cell instanceof Node) {
      const box = document.createElement("td");
      box.append(cell);
      made.append(box);
    } else {
      made.append(element("td", cell.text, cell.className));
    }
  }
  return made;
}

const text = (value, className) => ({ text: value === undefined || value === null ? "" : value, className });
const number = (value) => text(Number(value || 0).toLocaleString(), "number");

function size(bytes) {
  let value = Number(bytes || 0);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

function age(seconds) {
  const value = Number(seconds || 0);
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "");

function button(label, act) {
  const made = element("button", label);
  made.type = "button";
  made.addEventListener("click", async () => {
    made.disabled = true;
    try { await act(); await refresh(); } catch (error) { byId("summary").textContent = error.message; } finally { made.disabled = false; }
  });
  return made;
}

const COLOURS = { up: "good", resting: "bad", "not configured": "bad", probing: "warn", paused: "warn" };

function showStatus(status) {
  byId("node").textContent = `${status.node || ""} ${status.version || ""}`;
  const spool = status.spool || {};
  byId("summary").textContent = `${status.state || ""} · ${status.held || 0} held · ${status.dead_letters || 0} dead letters · `
    + `spool ${size(spool.bytes)}, ${size(spool.free_bytes)} free`;
  const rules = status.rules || {};
  byId("version").textContent = rules.version || "";
  byId("problems").replaceChildren(...(rules.problems || []).map((problem) => element("li", problem)));
  byId("destinations").replaceChildren(...(status.destinations || []).map((lane) => {
    const path = `/api/v1/destinations/${encodeURIComponent(lane.name)}`;
    const action = lane.state === "not configured" ? text("")
      : lane.state === "up" || lane.state === "probing" ? button("Pause", () => ask(`${path}/pause`, { reason: "console" }))
      : button("Resume", () => ask(`${path}/resume`, {}));
    return row(text(lane.name), text(lane.state, COLOURS[lane.state]), number(lane.waiting), text(size(lane.bytes), "number"),
      text(lane.waiting ? age(lane.oldest_seconds) : "", "number"), number(lane.dead_letters), text(lane.reason), action);
  }));
}

function showDead(letters) {
  byId("dead").replaceChildren(...(letters.dead_letters || []).map((letter) => row(
    text(letter.sop_instance), text(letter.destination), number(letter.attempts), text(letter.last_error), text(when(letter.updated)),
    button("Try again", () => ask("/api/v1/dead-letters/retry", { deliveries: [letter.delivery] })))));
}

function showStory(story) {
  byId("story").replaceChildren(...(story.instances || []).flatMap((instance) => {
    const list = document.createElement("ul");
    for (const delivery of instance.deliveries || []) {
      list.append(element("li", `${delivery.destination}: ${delivery.state}, attempts ${delivery.attempts || 0} ${delivery.last_error || ""}`));
    }
    const head = `${instance.sop_instance}: received ${when(instance.received)} from ${instance.calling}, `
      + `${instance.verdict} by ${(instance.rules || []).join(", ") || "no rule"}`;
    return [element("p", head), list];
  }));
  const more = (story.total || 0) - (story.instances || []).length;
  if (more > 0) byId("story").append(element("p", `${more} more, and what is not settled came first`));
}

async function refresh() {
  try {
    showStatus(await ask("/api/v1/status"));
    showDead(await ask("/api/v1/dead-letters?limit=50"));
  } catch (error) {
    byId("summary").textContent = `No answer from the router: ${error.message}`;
  }
}

byId("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    showStory(await ask(`/api/v1/trace?selector=${encodeURIComponent(byId("selector").value.trim())}`));
  } catch (error) {
    byId("story").replaceChildren(element("p", error.message, "bad"));
  }
});
byId("reload").addEventListener("click", async () => {
  try { await ask("/-/reload", {}); } catch (error) { byId("summary").textContent = error.message; }
  refresh();
});
byId("release").addEventListener("click", async () => {
  try { await ask("/api/v1/release", {}); } catch (error) { byId("summary").textContent = error.message; }
  refresh();
});
setInterval(() => { if (!document.hidden) refresh(); }, 2000);
refresh();
