// Theme switch, page list on small screens, and search in an index that is loaded with the first key press. No server needed.
"use strict";
const root = document.documentElement, up = document.body.dataset.up;

const themeButton = document.getElementById("theme");
function setTheme(theme) {
  root.dataset.theme = theme;
  themeButton.textContent = theme === "dark" ? "Light" : "Dark";
  themeButton.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
}
setTheme(root.dataset.theme);
themeButton.addEventListener("click", () => {
  setTheme(root.dataset.theme === "dark" ? "light" : "dark");
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* private window: the choice lasts for this page */ }
});

const pageList = document.querySelector("nav.pages details");
const small = matchMedia("(max-width: 52rem)");
const fold = () => { pageList.open = !small.matches; };
fold();
small.addEventListener("change", fold);
const current = document.querySelector("nav.pages [aria-current]");
if (current && !small.matches) {
  const list = document.querySelector("nav.pages");
  list.scrollTop = current.offsetTop - list.clientHeight / 2;
}

// What is wider than the page scrolls; a keyboard can only scroll what it can reach.
function reach() {
  for (const box of document.querySelectorAll("main pre, main .table, main .formula")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
reach();
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);

const query = document.getElementById("query"), hits = document.getElementById("hits"), count = document.getElementById("hit-count");
let loading = null;
function load() {
  loading ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = `${up}assets/search-index.js`;
    script.onload = resolve;
    document.head.append(script);
  });
  return loading;
}

// A section scores for every word of the query: most in its heading, then in its page's title, then in its text.
function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const scored = [];
  for (const entry of window.searchIndex) {
    const [heading, page, body] = [entry.heading.toLowerCase(), entry.page.toLowerCase(), entry.text.toLowerCase()];
    let score = 0;
    for (const word of words) {
      const found = (heading.includes(word) ? 10 : 0) + (page.includes(word) ? 3 : 0) + Math.min(body.split(word).length - 1, 3);
      if (!found) { score = 0; break; }
      score += found;
    }
    if (score) scored.push([score, entry]);
  }
  return scored.sort((a, b) => b[0] - a[0]).slice(0, 12).map(([, entry]) => [entry, words[0]]);
}

function excerpt(text, word) {
  const at = text.toLowerCase().indexOf(word), start = Math.max(0, at - 40);
  return (start ? "…" : "") + text.slice(start, start + 130) + (text.length > start + 130 ? "…" : "");
}

function show(found) {
  hits.replaceChildren(...found.map(([entry, word]) => {
    const item = document.createElement("li"), link = document.createElement("a"), where = document.createElement("small");
    link.href = up + entry.address;
    link.textContent = entry.heading === entry.page ? entry.page : `${entry.heading} · ${entry.page}`;
    where.textContent = excerpt(entry.text, word);
    link.append(where);
    item.append(link);
    return item;
  }));
  hits.hidden = !found.length;
  const asked = query.value.trim().length > 1;
  count.textContent = asked ? `${found.length || "No"} results` : "";
}

query.addEventListener("focus", load);
query.addEventListener("input", async () => {
  await load();
  show(query.value.trim().length > 1 ? search(query.value) : []);
});

// Arrow keys walk from the field through the results and back, Enter in the field opens the first, Escape closes the list.
document.querySelector(".search").addEventListener("keydown", (event) => {
  const stops = [query, ...hits.querySelectorAll("a")], at = stops.indexOf(document.activeElement);
  if (event.key === "ArrowDown") stops[Math.min(at + 1, stops.length - 1)].focus();
  else if (event.key === "ArrowUp") stops[Math.max(at - 1, 0)].focus();
  else if (event.key === "Enter" && at === 0 && stops.length > 1) location.href = stops[1].href;
  else if (event.key === "Escape") { show([]); query.focus(); }
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => { if (!event.target.closest(".search")) show([]); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select")) { event.preventDefault(); query.focus(); }
});
