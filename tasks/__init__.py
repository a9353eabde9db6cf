"""The shell: retryable, idempotent steps. With ``flows`` the only code that imports prefect.

A step builds what it needs from the settings, calls one room, writes the report as evidence, and returns a small reference to it.
The rooms do not know each other; where one needs a fact of another, the step adapts with plain values. Tasks do not import
``serving`` (another process) but for its HTTP client.
"""
