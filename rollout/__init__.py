"""How a version reaches traffic: what should be true, what is true, and whether the next step may be taken.

``spec`` holds the values, ``analysis`` and ``controller`` decide (pure), ``store`` remembers, ``reconciler`` says what the
stored wish means now, ``backends`` make it so, ``driver`` is the loop around all of them. A new reader starts at ``spec``, then
``controller.advance``, then ``driver``.
The room imports ``firstlight.errors``, ``.verdict``, ``.digest`` and ``.chain`` and nothing else of ours; SQLAlchemy only in ``database``,
``watchdog``, ``tables``, ``migrations``, and ``chronicle``, ``decision_ids`` and the ``*_rows`` modules behind ``store``.
"""
