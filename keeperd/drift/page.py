"""A comparison of two files as one HTML page that needs nothing else; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Drift: {{ current }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c1e21; background: #fff }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.05rem; margin-top: 2rem }
.quiet { color: #6b7178 } .bad { color: #c23b34 } .good { color: #1f8a57 } .ask { color: #a86a00 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #8883; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
meter { width: 7rem; vertical-align: middle }
blockquote { margin: .5rem 0; padding-left: .8rem; border-left: 3px solid #8886; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #e6e8ea; background: #16181b } }
</style>
</head>
<body>
<h1 class="{{ 'bad' if told.drifted else 'good' }}">
  {{ "The text has drifted" if told.drifted else "No drift found" }}</h1>
<p class="quiet">{{ current }} ({{ told.rows.current }} rows) beside {{ reference }}
  ({{ told.rows.reference }} rows){% if told.rows.bad %}; {{ told.rows.bad }} rows refused{% endif %}.
  Calibrated on {{ told.calibrated_on }}{% if told.calibrated_on == "rows" %}, which holds if the rows of
  both are independent of one another{% endif %}.</p>
<h2>What was looked at</h2>
<table>
<tr><th>signal</th><th class="n">p</th><th></th></tr>
{% for one in told.signals %}
<tr><td class="{{ 'ask' if one.warning else 'bad' if one.drifted else 'good' }}">{{ one.name }}</td>
<td class="n">{{ "%.2g"|format(one.p_value) if one.p_value is not none else "" }}</td>
<td>{{ one.summary }}</td></tr>
{% endfor %}
</table>
{% if told.words %}
<h2>Words that changed most</h2>
<table>
<tr><th>term</th><th class="n">reference</th><th class="n">current</th><th class="n">z</th></tr>
{% for one in told.words %}
<tr><td><bdi>{{ one.term }}</bdi></td>
<td class="n">{{ "%.1f"|format(100 * one.reference) }} % <meter value="{{ one.reference }}"></meter></td>
<td class="n">{{ "%.1f"|format(100 * one.current) }} % <meter value="{{ one.current }}"></meter></td>
<td class="n">{{ "%+.1f"|format(one.z) }}</td></tr>
{% endfor %}
</table>
{% endif %}
<h2>Does it hurt?</h2>
<p>{% if told.harm.abstained %}Not known: {{ told.harm.why }}.{% else %}
Accuracy {{ "%.1f"|format(100 * told.harm.accuracy) }} %, in the reference
{{ "%.1f"|format(100 * told.harm.accepted) }} % (change
{{ "%+.1f"|format(-100 * told.harm.high) }} to {{ "%+.1f"|format(-100 * told.harm.low) }} points):
{{ told.harm.why }}.{% endif %}</p>
{% if told.examples %}
<h2>Rows least like the reference</h2>
{% for one in told.examples %}<blockquote><bdi>{{ one.text }}</bdi></blockquote>
{% endfor %}
{% endif %}
</body>
</html>
"""


def page(told: Mapping[str, Any], reference: str, current: str) -> str:
    """The page of what `compare.compare` returned, with the names of both files."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(told=told, reference=reference, current=current)
