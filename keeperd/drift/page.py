"""A comparison of two files as one HTML page that needs nothing else; every text in it is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, StrictUndefined

from keeperd.drift import told

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Drift: {{ current }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1 class="{{ 'bad' if told.drifted else 'good' }}">
  {{ "The text has drifted" if told.drifted else "No drift found" }}</h1>
<p class="quiet">{{ current }} ({{ told.rows.current }} rows) beside {{ reference }}
  ({{ told.rows.reference }} rows){% if told.rows.bad %}; {{ told.rows.bad }} rows refused{% endif %}.
  Calibrated on {{ told.calibrated_on }}{% if told.calibrated_on == "rows" %}, {{ exchangeable }}{% endif %};
  the chance of a false alarm is {{ "%.2g"|format(100 * told.alarm_budget) }}&nbsp;%.</p>
<h2>What was looked at</h2>
<div class="wide"><table>
<tr><th>signal</th><th class="n">p</th><th></th></tr>
{% for one in told.signals %}
<tr><td class="{{ 'ask' if one.warning else 'bad' if one.drifted else 'good' }}">{{ one.name }}</td>
<td class="n">{{ "%.2g"|format(one.p_value) if one.p_value is not none else "" }}</td>
<td>{{ one.summary }}</td></tr>
{% endfor %}
</table></div>
{% if told.words %}
<h2>Words that changed most</h2>
<div class="wide"><table>
<tr><th>term</th><th class="n">reference</th><th class="n">current</th><th class="n">z</th></tr>
{% for one in told.words %}
<tr><td><bdi>{{ one.term }}</bdi></td>
<td class="n">{{ "%.1f"|format(100 * one.reference) }} % <meter value="{{ one.reference }}"></meter></td>
<td class="n">{{ "%.1f"|format(100 * one.current) }} % <meter value="{{ one.current }}"></meter></td>
<td class="n">{{ "%+.1f"|format(one.z) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if told.slices %}
<h2>Parts that grew or shrank</h2>
<div class="wide"><table>
<tr><th>part</th><th class="n">reference</th><th class="n">current</th><th class="n">z</th></tr>
{% for one in told.slices %}
<tr><td><bdi>{{ one.name }}</bdi> <span class="quiet">{{ one.kind }}</span></td>
<td class="n">{{ "%.1f"|format(100 * one.reference) }} % <meter value="{{ one.reference }}"></meter></td>
<td class="n">{{ "%.1f"|format(100 * one.current) }} % <meter value="{{ one.current }}"></meter></td>
<td class="n">{{ "%+.1f"|format(one.z) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
<h2>Does it hurt?</h2>
<p>{% if told.harm.abstained %}Not known: {{ told.harm.why }}.{% else %}
Accuracy {{ "%.1f"|format(100 * told.harm.accuracy) }} %, in the reference
{{ "%.1f"|format(100 * told.harm.accepted) }} % (change
{{ "%+.1f"|format(-100 * told.harm.high) }} to {{ "%+.1f"|format(-100 * told.harm.low) }} points):
{{ told.harm.why }}.{% endif %}</p>
{% for side, title in sides if side in told.examples|map(attribute="side")|list %}
<h2>{{ title }}</h2>
{% for one in told.examples if one.side == side %}<blockquote><bdi>{{ one.text }}</bdi></blockquote>
{% endfor %}
{% endfor %}
</body>
</html>
"""


SIDES = (
    ("current", "Rows least like the reference"),
    ("reference", "Rows of the reference that are least like them"),
)


def page(report: Mapping[str, Any], reference: str, current: str) -> str:
    """The page of what `compare.compare` returned, with the names of both files."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(
        told=report,
        reference=reference,
        current=current,
        style=told.STYLE,
        sides=SIDES,
        exchangeable=told.EXCHANGEABLE,
    )
