// What the pages do: sections of the sidebar that open, search, a filter of claims, and stops for the keyboard.
"use strict";
const up = document.currentScript.dataset.up;

// Quarto marks up what opens as Bootstrap wants it; this is the part of Bootstrap's 80 kB that the pages use.
const toggles = [...document.querySelectorAll("[data-bs-toggle=collapse]")];
for (const toggle of toggles) toggle.addEventListener("click", () => {
  const target = toggle.dataset.bsTarget, boxes = document.querySelectorAll(target);
  const open = !boxes[0].classList.contains("show");
  for (const box of boxes) box.classList.toggle("show", open);
  for (const other of toggles.filter((other) => other.dataset.bsTarget === target)) {
    other.classList.toggle("collapsed", !open);
    if (other.ariaExpanded !== null) other.ariaExpanded = String(open);
  }
});

// The words of all sections and MiniSearch are loaded when the field is used for the first time; as scripts, not by
// requests, so that a site in a folder on disk can be searched as well.
const query = document.getElementById("query"), hits = document.getElementById("hits");
const count = document.getElementById("hit-count");

function script(name) {
  return new Promise((resolve, reject) => {
    const tag = document.createElement("script");
    tag.src = up + name;
    tag.onload = resolve;
    tag.onerror = reject;
    document.head.append(tag);
  });
}

let index = null;
async function build() {
  await Promise.all([script("minisearch.js"), script("search-documents.js")]);
  const made = new MiniSearch({
    fields: ["name", "heading", "page", "text", "code"], storeFields: ["address", "heading", "page", "text"],
    // `lambda_schedule` is one word and three: whole, and in its parts
    tokenize: (text) => text.split(/[^\p{L}\p{N}_]+/u).flatMap((word) => word.includes("_") ? [word, ...word.split("_")] : [word]),
    searchOptions: {
      boost: { name: 5, heading: 6, page: 3, code: 0.4 },
      prefix: (word) => word.length > 2,
      fuzzy: (word) => word.length > 3 && !word.includes("_") ? 0.25 : false,
      weights: { prefix: 0.4, fuzzy: 0.25 },
    },
  });
  await made.addAllAsync(window.searchDocuments.map(([address, heading, page, text, code], id) =>
    ({ id, address, heading, page, text, code, name: address.startsWith("api/") ? heading : "" })), { chunkSize: 200 });
  return made;
}

// the sections with the most words of the query; the weight of one word alone never outranks two. Who writes several
// words and no `name_of_a_function` looks for a subject: then the reference, whose names repeat the words, stands back.
function search(made, text) {
  const found = made.search(text);
  const words = new Set(text.toLowerCase().match(/[\p{L}\p{N}_]+/gu)).size, subject = words > 1 && !text.includes("_");
  const rank = (hit) => hit.score * (hit.queryTerms.length / words) ** 2
    * (subject && hit.address.startsWith("api/") ? 0.4 : 1);
  return found.sort((a, b) => rank(b) - rank(a)).slice(0, 12);
}

function excerpt(hit) {
  const places = hit.terms.map((term) => hit.text.toLowerCase().indexOf(term)).filter((place) => place >= 0);
  const start = Math.max(0, Math.min(...(places.length ? places : [0])) - 40);
  return (start ? "…" : "") + hit.text.slice(start, start + 130) + (hit.text.length > start + 130 ? "…" : "");
}

function show(found) {
  hits.replaceChildren(...found.map((hit) => {
    const item = document.createElement("li"), link = document.createElement("a"), where = document.createElement("small");
    link.href = up + hit.address;
    link.textContent = hit.heading === hit.page ? hit.page : `${hit.heading} · ${hit.page}`;
    where.textContent = excerpt(hit);
    link.append(where);
    item.append(link);
    return item;
  }));
  hits.hidden = !found.length;
  count.textContent = query.value.trim() ? `${found.length || "No"} results` : "";
}

query.addEventListener("focus", () => { index ??= build(); });
query.addEventListener("input", async () => {
  const made = await (index ??= build());
  show(query.value.trim() ? search(made, query.value) : []);
});

// Arrow keys walk from the field through the results and back, Enter in the field opens the first, Escape closes the list.
document.querySelector(".site-search").addEventListener("keydown", (event) => {
  const stops = [query, ...hits.querySelectorAll("a")], at = stops.indexOf(document.activeElement);
  if (event.key === "ArrowDown") stops[Math.min(at + 1, stops.length - 1)].focus();
  else if (event.key === "ArrowUp") stops[Math.max(at - 1, 0)].focus();
  else if (event.key === "Enter" && at === 0 && stops.length > 1) location.href = stops[1].href;
  else if (event.key === "Escape") { show([]); query.focus(); }
  else return;
  event.preventDefault();
});
document.addEventListener("click", (event) => { if (!event.target.closest(".site-search")) show([]); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select")) { event.preventDefault(); query.focus(); }
});

// A link to a cell, as the reference has them, opens what is folded there.
function unfold() {
  const there = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (const fold of there ? there.querySelectorAll(":scope > details.code-fold") : []) fold.open = true;
}
unfold();
addEventListener("hashchange", unfold);

// The list of all claims can be narrowed to a chapter, a verdict, and what each paper is known for, which is in bold.
const claims = document.getElementById("all-claims-chapter-by-chapter");
const rows = claims ? [...claims.querySelectorAll("tbody tr")] : [];
if (rows.length) {
  const text = (element) => element.textContent.trim();
  const choice = (label, options) => {
    const made = document.createElement("label"), select = document.createElement("select");
    select.append(new Option("all", ""), ...options.map((text) => new Option(text)));
    made.append(`${label} `, select);
    return [made, select];
  };
  const [byChapter, chapter] = choice("Chapter", [...claims.querySelectorAll("h3")].map(text));
  const [byVerdict, verdict] = choice("Verdict", [...new Set(rows.map((row) => text(row.cells[0]).split(" (")[0]))]);
  const byFame = document.createElement("label"), headline = document.createElement("input");
  headline.type = "checkbox";
  byFame.append(headline, " headline claims only");
  const number = document.createElement("span"), form = document.createElement("p");
  number.setAttribute("role", "status");
  form.className = "claims-filter";
  form.append(byChapter, byVerdict, byFame, number);
  claims.querySelector("h2").after(form);
  const narrow = () => {
    let shown = 0;
    for (const row of rows) {
      const section = text(row.closest("section.level3").querySelector("h3"));
      const fits = (!chapter.value || section === chapter.value)
        && text(row.cells[0]).startsWith(verdict.value)
        && (!headline.checked || row.cells[1].querySelector("strong") !== null);
      row.hidden = !fits;
      shown += fits;
    }
    for (const part of claims.querySelectorAll("section")) part.hidden = !part.querySelector("tbody tr:not([hidden])");
    number.textContent = `${shown} of ${rows.length} claims`;
  };
  form.addEventListener("change", narrow);
  narrow();
}

// Pages make everything that may be wider than they are reachable by keyboard; what fits needs no stop.
const wide = document.querySelectorAll("main pre[tabindex], .table-responsive, .formula");
function reach() {
  for (const box of wide) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
reach();
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);
