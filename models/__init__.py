"""What a machine-learning model is (not a database model): hand-off, program, golden vectors, evaluation, benchmark, registry.

A model enters through one door only, the hand-off folder (:mod:`models.handoff`, docs/hand-off.md), and runs through one only,
:class:`models.program.Program`. Its bytes are hashed and inspected before torch reads any of them; nothing is ever unpickled.
May import ``spectra`` and ``firstlight.{errors,verdict,digest}``; mlflow only in ``models.registry``; no other domain room, no prefect.
"""
