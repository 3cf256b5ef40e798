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

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = await copy(document.getElementById(button.dataset.copy)) ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

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
