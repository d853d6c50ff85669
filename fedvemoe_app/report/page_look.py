"""How the page of a run looks and sorts: its style sheet and its one script."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5c6370; --line: #d9dce1; --paper: #fff;
  --card: #f5f6f8; --accent: #0b63a8; --warn: #a84300; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #a3abb8; --line: #3a404a; --paper: #15181d; --card: #1f242b;
    --accent: #7cbcf0; --warn: #ffab70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 82rem; margin: 0 auto; padding: 1.25rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); } .warn { color: var(--warn); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: .75rem; }
a { color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
  gap: .75rem; margin: 1.5rem 0; padding: 0; }
.cards div { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .6rem .8rem; }
.cards dt { color: var(--soft); font-size: .82rem; }
.cards dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
.pictures .broad { grid-column: 1 / -1; }
figure { margin: 0; overflow-x: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 8px; padding: .5rem; }
figure img { display: block; width: 100%; max-width: 62rem; margin: 0 auto; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; max-height: 34rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .55rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.name { white-space: nowrap; } td.text { min-width: 14rem; overflow-wrap: anywhere; }
thead th { position: sticky; top: 0; background: var(--card); padding: 0; white-space: nowrap; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  cursor: pointer; padding: .4rem .55rem; width: 100%; text-align: inherit; }
th button::after { content: "\\2195"; opacity: .35; margin-left: .2rem; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
th button:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: -2px; }
code { font: .92em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: .75rem 0; }
@media (max-width: 50rem) {
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); } .pictures { display: block; }
  figure { margin-bottom: 1rem; } figure img { min-width: 26rem; }
  .broad img { min-width: 36rem; }
  figure::after { content: "drag sideways \\2194"; position: sticky; left: 0; color: #5c6370;
    font-size: .8rem; }
  .wide :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
  .wide thead th:first-child { background: var(--card); z-index: 1; }
  .wide td.name:first-child { white-space: normal; min-width: 5.5rem; max-width: 38vw;
    overflow-wrap: anywhere; }
  .wide td.text { min-width: 34rem; } }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --card: #fff; --accent: #000;
    --warn: #000; }
  main { max-width: none; padding: 0; } nav, th button::after, figure::after { display: none; }
  .wide { max-height: none; overflow: visible; } thead th { position: static; }
  figure { overflow: visible; } figure img { min-width: 0; }
  .pictures { display: block; } h2 { break-after: avoid; }
  figure, .cards div, tr { break-inside: avoid; }
  table { font-size: 8.5pt; } th, td, th button { padding: .15rem .35rem; } }
"""

SCRIPT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => {
      const cell = row.cells[head.cellIndex];
      return "v" in cell.dataset ? Number(cell.dataset.v) : cell.textContent.trim();
    };
    const unknown = (one) => one === "-" || one === "";
    const compare = (one, two) => {
      if (unknown(one) || unknown(two)) return unknown(one) - unknown(two);
      const order = typeof one === "number" && typeof two === "number"
        ? one - two : String(one).localeCompare(String(two), undefined, { numeric: true });
      return down ? -order : order;
    };
    const rows = [...body.rows].sort((one, two) => compare(value(one), value(two)));
    body.append(...rows);
  });
}
"""
