"""keeperd: unattended upgrades for text models.

Start with `keeperd/cycle.py`, which is the product; `keeperd/api.py` is all that a plugin may
import.
"""

__version__ = "0.1.0"
