"""A replay as one HTML page that needs nothing else: the picture is inside, every text is escaped."""

from __future__ import annotations

import base64
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
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Replay: {{ name }}</title>
<style>{{ style | safe }}
img { width: 100%; max-width: 42rem; background: #fff; border-radius: 6px }
</style>
</head>
<body>
<h1 class="{{ 'bad' if one.alarms else 'good' }}">{{ headline }}</h1>
<p class="quiet">{{ name }}: {{ one.summary.blocks }} blocks of days watched, from
{{ one.blocks[0].from }} to {{ one.blocks[-1].to }}; the {{ one.summary.reference_blocks }} blocks from
{{ one.summary.reference_from }} to {{ one.summary.reference_to }} are the reference{{ refused }}.</p>
<p>{{ beside }}</p>
<p><img alt="How unusual each block was, and where there was an alarm"
  src="data:image/png;base64,{{ png }}"></p>
{% for alarm in one.alarms %}
<h2><time datetime="{{ alarm.at }}">{{ alarm.at }}</time>: {{ alarm.channel }}</h2>
<p>{{ alarm.summary }}</p>
{% if alarm.words %}
<div class="wide"><table>
<tr><th>term</th><th class="n">reference</th><th class="n">then</th><th class="n">z</th></tr>
{% for word in alarm.words %}
<tr><td><bdi>{{ word.term }}</bdi></td>
<td class="n">{{ "%.1f"|format(100 * word.reference) }} %</td>
<td class="n">{{ "%.1f"|format(100 * word.current) }} %</td>
<td class="n">{{ "%+.1f"|format(word.z) }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endfor %}
</body>
</html>
"""


def page(one: Mapping[str, Any], name: str, png: bytes) -> str:
    """The page of what `replay.replay` returned, with the file's name and the picture of it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    refused = told.refused(one["rows"])
    return environment.from_string(TEMPLATE).render(
        one=one,
        name=name,
        style=told.STYLE,
        headline=told.headline(one),
        beside=told.beside(one),
        refused=f" ({refused})" if refused else "",
        png=base64.b64encode(png).decode("ascii"),
    )
