"""The page a reviewer reads: one self-contained HTML file per release, and an index of all releases.

``charts`` turns plain values into pictures (matplotlib), ``view`` evidence documents into rows, ``page`` puts them into the template (jinja2).
Nothing on the page runs: no scripts, everything escaped, pictures only as images.
"""
