"""The command line and the settings, and the four words every room shares.

``firstlight.cli`` is the top layer: it starts flows and reads what they left.
``firstlight.errors``, ``.verdict`` and ``.digest`` are the bottom layer: any room may import them, they import nothing of ours.
"""

__version__ = "0.1.0"
