"use strict";
// Search and language tabs. Without JavaScript, the tabs are links.

const languageLinks = [...document.querySelectorAll(".languages a")];

const showLanguage = (language) => {
  for (const figure of document.querySelectorAll("figure.code:has(.languages)")) {
    const shown = figure.querySelector(`pre[data-language="${language}"]`);
    if (!shown) continue;
    for (const block of figure.querySelectorAll("pre")) block.hidden = block !== shown;
    for (const link of figure.querySelectorAll(".languages a")) {
      if (link.dataset.language === language) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    figure.querySelector("[data-copy]").dataset.copy = shown.firstElementChild.id;
  }
};

for (const link of languageLinks) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const before = link.getBoundingClientRect().top;
    showLanguage(link.dataset.language);
    // Examples above may have become longer or shorter. The one that was selected stays in its place.
    scrollBy({ top: link.getBoundingClientRect().top - before, behavior: "instant" });
    document.cookie = `docs-language=${link.dataset.language}; path=/docs; max-age=31536000; samesite=lax`;
  });
}

const field = document.getElementById("docs-search");
const results = document.getElementById("docs-results");
const count = document.getElementById("docs-count");
const RESULTS_MAX = 12;
const SNIPPET = 110;
let index = null;

const load = () => {
  index ??= fetch("/docs/search.json").then((response) => {
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.json();
  }).catch((error) => {
    index = null;
    throw error;
  });
  return index;
};

// A word counts most in a title, then in a heading, then in the text; whole words more than parts.
const score = ([title, heading, , text], words) => {
  let sum = 0;
  for (const word of words) {
    const at = (where, points) => {
      const found = where.toLowerCase().indexOf(word);
      if (found < 0) return 0;
      return found === 0 || /\W|_/.test(where[found - 1]) ? points * 2 : points;
    };
    const points = at(heading || title, 20) + at(title, 8) + at(text, 1);
    if (!points) return 0;
    sum += points;
  }
  return heading ? sum : sum + 1;
};

const marked = (text, words) => {
  const first = Math.min(...words.map((word) => text.toLowerCase().indexOf(word)).filter((at) => at >= 0));
  const start = Number.isFinite(first) ? Math.max(0, first - SNIPPET / 3) : 0;
  const shown = `${start ? "…" : ""}${text.slice(start, start + SNIPPET)}${text.length > start + SNIPPET ? "…" : ""}`;
  const element = document.createElement("span");
  const pattern = new RegExp(`(${words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "i");
  element.append(...shown.split(pattern).map((part, number) => {
    if (number % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  }));
  return element;
};

const message = (text) => {
  const element = document.createElement("p");
  element.textContent = text;
  results.replaceChildren(element);
  count.textContent = text;
};

const show = (found, words) => {
  const list = document.createElement("ul");
  for (const [title, heading, path, text] of found) {
    const link = document.createElement("a");
    const name = document.createElement("b");
    const item = document.createElement("li");
    link.href = path;
    name.textContent = heading ? `${title}: ${heading}` : title;
    link.append(name, marked(text, words));
    item.append(link);
    list.append(item);
  }
  results.replaceChildren(list);
  count.textContent = `${found.length} ${found.length === 1 ? "result" : "results"}`;
};

const search = async () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  results.hidden = !words.length;
  if (!words.length) return;
  let sections;
  try {
    sections = await load();
  } catch {
    message("The search is unavailable. Check the connection and try again.");
    return;
  }
  const found = sections.map((section) => [score(section, words), section]).filter(([points]) => points);
  found.sort(([one], [other]) => other - one);
  if (found.length) show(found.slice(0, RESULTS_MAX).map(([, section]) => section), words);
  else message(`Nothing found for “${field.value.trim()}”.`);
};

const links = () => [...results.querySelectorAll("a")];
const close = () => { results.hidden = true; };

// The first results are then there at once. A failure is reported when there is something to search for.
field.addEventListener("focus", () => load().catch(() => {}));
field.addEventListener("input", search);
field.form.addEventListener("submit", (event) => {
  event.preventDefault();
  links()[0]?.click();
});
field.form.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    close();
    field.focus();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || results.hidden) return;
  event.preventDefault();
  const all = [field, ...links()];
  all[(all.indexOf(document.activeElement) + step + all.length) % all.length].focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  event.preventDefault();
  field.focus();
});
document.addEventListener("click", (event) => { if (!field.form.contains(event.target)) close(); });
results.addEventListener("click", (event) => { if (event.target.closest("a")) close(); });

// The contents show which section is read.
const entries = new Map([...document.querySelectorAll(".docs-contents a[href^='#']")].map((link) => [link.hash.slice(1), link]));
if (entries.size) {
  const headings = [...entries.keys()].map((id) => document.getElementById(id));
  const update = () => {
    const current = headings.filter((heading) => heading.getBoundingClientRect().top < 120).at(-1);
    for (const [id, link] of entries) {
      if (id === current?.id) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", update, { passive: true });
  update();
}
