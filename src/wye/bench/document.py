"""A page that stands alone: its style, its script and everything on it are in the file.

Marks with `data-tip` show it under the pointer and the keyboard's focus.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #111827; --soft: #6b7280; --line: #e5e7eb; --back: #fff;
  --best: #111827; --single: #5b6470; }
@media (prefers-color-scheme: dark) { :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151;
  --back: #111827; --best: #f9fafb; --single: #9ca3af; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; margin: 0 0 .3rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
.verdict { padding: .7rem 1rem; border-left: 4px solid #b8860b; background: #b8860b1a }
.verdict.pays { border-color: #009e73; background: #009e731a }
figure { margin: 1rem 0; position: relative; overflow-x: auto }
svg { width: 100%; min-width: 640px }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft) }
svg text.strong { font-weight: 600; fill: var(--ink) }
[data-tip] { cursor: default } [data-tip]:focus, [data-tip]:hover { stroke: var(--ink);
  stroke-width: 2; outline: none }
#tip { position: fixed; display: none; pointer-events: none; padding: .35rem .6rem; font-size: 13px;
  background: var(--ink); color: var(--back); border-radius: 4px; white-space: pre-line }
.legend { margin: 0; font-size: 14px } .legend span { margin-right: 1.4rem; white-space: nowrap }
.legend i { display: inline-block; width: 28px; margin-right: .5rem; vertical-align: middle }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 14px }
th, td { text-align: right; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap }
th:first-child, td:first-child { text-align: left } .note { color: var(--soft); font-size: 14px }
"""

_SCRIPT = """
const tip = document.getElementById('tip');
const show = (mark, x, y) => {
  tip.textContent = mark.dataset.tip; tip.style.display = 'block';
  tip.style.left = Math.min(x + 14, innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = Math.max(8, y - tip.offsetHeight - 10) + 'px';
};
const hide = () => { tip.style.display = 'none'; };
for (const mark of document.querySelectorAll('[data-tip]')) {
  mark.addEventListener('pointermove', e => show(mark, e.clientX, e.clientY));
  mark.addEventListener('pointerleave', hide);
  mark.addEventListener('focus', () => {
    const at = mark.getBoundingClientRect(); show(mark, at.right, at.top);
  });
  mark.addEventListener('blur', hide);
}
"""


def document(title: str, body: str) -> str:
    """The whole page as text.

    Args:
        title: plain text, shown as the heading too.
        body: HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<div id="tip" role="status"></div>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain texts; the first column is a label."""
    head = "".join(f"<th>{escape(h)}</th>" for h in heads)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
