"""A variational autoencoder of spectra: what does this spectrum look like, which class is it, and how strange is it.

Read ``model.py`` first (the whole graph, pixels in, named outputs out), then ``preprocess``, ``encoder``, ``decoder``,
``residuals`` (what the reconstruction left over) and ``score`` (how unusual that is at this S/N). ``loss`` and
``artefacts`` are used in training only. Imports torch, nothing of ours.
"""

from models.spectrum_vae.config import NetworkConfig
from models.spectrum_vae.model import SpectrumVAE

__all__ = ["NetworkConfig", "SpectrumVAE"]
