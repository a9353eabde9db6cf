"""The hand-off folder: how a trained model passes from the person who trained it to everyone else. See docs/hand-off.md.

The four verbs are here; each lives in a short module of its own.
"""

from models.document import Data, Document, Environment, Epsilon, FileEntry, InputSpec, Model, OutputSpec, Trainer
from models.errors import HandOffError
from models.handoff_check import check
from models.handoff_folder import HandOff, Problem, claimed, data_digest, load, sentence
from models.handoff_write import write

__all__ = [
    "Data",
    "Document",
    "Environment",
    "Epsilon",
    "FileEntry",
    "HandOff",
    "HandOffError",
    "InputSpec",
    "Model",
    "OutputSpec",
    "Problem",
    "Trainer",
    "check",
    "claimed",
    "data_digest",
    "load",
    "sentence",
    "write",
]
