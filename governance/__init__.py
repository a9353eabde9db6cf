"""May this version go further? Risk scenarios, the people who answer for them, the evidence they saw, the page they read.

``scenario`` + ``risk`` score a release from its own evidence; ``approvers``, ``sshsig`` and ``signoff`` decide whether the right people
said yes; ``evidence`` and ``manifest`` bind everything to digests; ``dossier`` shows it. ``model_keys`` and ``model_signature`` say whether
a folder may be loaded at all: OpenSSF model-signing, whose only door is the latter.
May import ``firstlight.{errors,verdict,digest}`` only: facts from other rooms arrive as plain values. ``cryptography``,
``jinja2`` and ``matplotlib`` stay in ``sshsig``, ``dossier.page`` and ``dossier.charts``.
"""
