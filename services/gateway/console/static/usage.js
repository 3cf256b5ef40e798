"use strict";
// Adds requests to the list as they end. Without JavaScript, the list is as old as the page.
const live = document.querySelector("[data-live]");
const ROWS_MAX = 200;
const RETRY_SECONDS = 15;

const insert = (body, { id, html }) => {
  if (body.querySelector(`[data-id="${CSS.escape(id)}"]`)) return false;
  const template = document.createElement("template");
  template.innerHTML = html;
  const row = template.content.querySelector("tr");
  // Ids sort by time, and the list is newest first. Requests older than the page's last one are on the next page.
  const next = [...body.rows].find((one) => one.dataset.id < id);
  if (next) next.before(row);
  else if ("hasOlder" in body.dataset) return false;
  else body.append(row);
  row.classList.add("new");
  return true;
};

// What the server answers to a stream that the browser does not open again by itself.
const statusOf = async (address) => {
  const aborted = new AbortController();
  try {
    return (await fetch(address, { signal: aborted.signal })).status;
  } catch {
    return 0;
  } finally {
    aborted.abort();
  }
};

const follow = () => {
  const table = document.getElementById("requests");
  const body = table.querySelector("tbody");
  const status = live.querySelector("[role=status]");
  const button = live.querySelector("button");
  const ends = { 401: "Your session has ended. Log in again.", 403: "Not live: the browser sent another origin.",
    429: "Not live: too many pages with live updates are open." };
  let source = null;
  let timer = 0;
  let isPaused = "paused" in live.dataset;
  let isOver = false;

  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const close = () => { clearTimeout(timer); source?.close(); source = null; };
  const stop = (text) => { isOver = true; close(); say(text); button.hidden = true; };
  const show = (rows) => {
    say("Live");
    if (!rows.filter((one) => insert(body, one)).length) return;
    table.hidden = false;
    document.getElementById("no-requests")?.remove();
    while (body.rows.length > ROWS_MAX) { body.rows[body.rows.length - 1].remove(); body.dataset.hasOlder = ""; }
  };
  const open = () => {
    close();
    if (isPaused || isOver || document.hidden) return;
    source = new EventSource(live.dataset.live);
    source.addEventListener("open", () => say("Live"));
    source.addEventListener("message", (event) => show(JSON.parse(event.data)));
    source.addEventListener("unavailable", () => say("Not live: the usage records cannot be read at the moment."));
    source.addEventListener("available", () => say("Live"));
    source.addEventListener("session-ended", () => stop(ends[401]));
    source.addEventListener("error", async () => {
      say("Connecting…");
      if (source?.readyState !== EventSource.CLOSED) return;
      const ended = ends[await statusOf(live.dataset.live)];
      if (ended) stop(ended);
      else timer = setTimeout(open, RETRY_SECONDS * 1000);
    });
  };
  const update = () => {
    button.setAttribute("aria-pressed", String(isPaused));
    if (isPaused) say("Paused");
    open();
  };

  button.addEventListener("click", () => {
    isPaused = !isPaused;
    const address = new URL(location.href);
    if (isPaused) address.searchParams.set("live", "off");
    else address.searchParams.delete("live");
    history.replaceState(null, "", address);
    update();
  });
  // A page that nobody looks at does not keep a connection open.
  document.addEventListener("visibilitychange", open);
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  live.hidden = false;
  update();
};
if (live) follow();
