"use strict";
// Copy buttons and countdowns. Pages work without JavaScript, except the playground.

const copy = async (field) => {
  try {
    await navigator.clipboard.writeText(field.value ?? field.textContent);
    return true;
  } catch {
    // The clipboard API is not available over plain HTTP. Select the text for execCommand or Ctrl-C.
    if (field.select) field.select();
    else getSelection().selectAllChildren(field);
    return document.execCommand("copy");
  }
};

const showCopyButtons = (root) => {
  for (const button of root.querySelectorAll("[data-copy]")) button.hidden = false;
};
showCopyButtons(document);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  button.dataset.label ??= button.textContent;
  button.textContent = await copy(document.getElementById(button.dataset.copy)) ? "Copied" : "Press Ctrl-C";
  setTimeout(() => { button.textContent = button.dataset.label; }, 2000);
});

// A request opens beside the list. Without JavaScript, or with Ctrl, the link opens its page.
const panel = document.getElementById("panel");
document.addEventListener("click", async (event) => {
  const link = event.target.closest("[data-panel]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const response = await fetch(`${link.getAttribute("href")}?panel=1`);
  if (!response.ok || response.redirected) { location.assign(link.href); return; }
  panel.innerHTML = await response.text();
  showCopyButtons(panel);
  panel.showPopover({ source: link });
  panel.scrollTop = 0;
  document.getElementById("panel-title").focus();
});

for (const element of document.querySelectorAll("[data-until]")) {
  const until = Number(element.dataset.until) * 1000;
  const update = () => {
    const seconds = Math.max(0, Math.round((until - Date.now()) / 1000));
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    element.textContent = parts.map((part) => String(part).padStart(2, "0")).join(":");
  };
  update();
  setInterval(update, 1000);
}
