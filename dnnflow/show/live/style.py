"""Style the live page: its sheets, and its text as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

CARDS = """
:host { font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; color: #1d2127; width: 100%; }
.bk-clearfix { display: block !important; }
h1 { font-size: 22px; line-height: 1.3; margin: 10px 0 2px; overflow-wrap: anywhere; font-weight: 650; }
h2 { font-size: 15px; margin: 14px 0 4px; font-weight: 600; }
.soft { color: #5c6570; font-size: 13.5px; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.numbers { margin: 14px 0 6px; font-variant-numeric: tabular-nums; }
.numbers > div { background: #f5f6f8; border-radius: 10px; padding: 10px 14px; }
.numbers b { display: block; font-size: 23px; line-height: 1.3; font-weight: 650; }
.state { font-weight: 600; }
.running { color: #2563b8; }
.finished { color: #1f7d5c; }
.failed { color: #b8323f; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; color: #5c6570; white-space: nowrap; }
td { text-align: right; white-space: nowrap; }
th, td { padding: 5px 18px 5px 0; border-bottom: 1px solid #dfe2e7; }
th.t, td.t { text-align: left; overflow-wrap: anywhere; white-space: normal; }
details { margin: 14px 0 30px; }
summary { cursor: pointer; color: #2563b8; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 20px; margin: 8px 0; }
dt { color: #5c6570; }
dd { margin: 0; overflow-wrap: anywhere; }
"""
"""Style sheet of the page's text; Bokeh keeps each piece apart from the page's own."""

PAGE = """
{% block postamble %}
<style>
  html { background: #ffffff; color-scheme: light; }
  body { margin: 0 auto; padding: 14px 26px 60px; max-width: 1320px; box-sizing: border-box; }
  nav { font: 14px/1.5 system-ui, sans-serif; margin-bottom: 10px; color: #5c6570; }
  nav b { color: #1d2127; margin-right: 14px; }
  nav a { color: #2563b8; text-decoration: none; }
</style>
{% endblock %}
{% block contents %}
<nav><b>dnnflow</b><a href="status">Dask dashboard</a></nav>
{{ super() }}
{% endblock %}
"""
"""Blocks of Bokeh's own template."""


def cards(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Return numbers as HTML: name, value, what to know about it."""
    shown = "".join(
        f'<div><span class="soft">{escape(name)}</span><b>{escape(value)}</b>'
        f'<span class="soft">{escape(note)}</span></div>'
        for name, value, note in numbers
    )
    return f'<div class="numbers">{shown}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Sequence[str] = ()) -> str:
    """Return a table as HTML; columns of text are named, others are numbers."""
    kinds = [' class="t"' if name in texts else "" for name in head]
    top = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    lines = [
        "".join(f"<td{kind}>{escape(value)}</td>" for kind, value in zip(kinds, cells, strict=True))
        for cells in rows
    ]
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def facts(about: Iterable[Sequence[str]]) -> str:
    """Return names and values as HTML that unfolds."""
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in about)
    return f"<details><summary>Settings</summary><dl>{pairs}</dl></details>" if pairs else ""
