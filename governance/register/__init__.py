"""The register of a risk framework (NIST AI RMF 1.0), filled from the evidence of one release; see docs/risk-register.md.

``framework`` reads the framework and the lab's labels from data files; ``filling`` answers its subcategories from evidence. Both pure but for reading.
"""

from governance.register.filling import ANSWERED, CONTRADICTED, NOTHING, STATES, Answer, Register, Row, fill
from governance.register.framework import Framework, framework_of, load_framework

__all__ = [
    "ANSWERED",
    "CONTRADICTED",
    "NOTHING",
    "STATES",
    "Answer",
    "Framework",
    "Register",
    "Row",
    "fill",
    "framework_of",
    "load_framework",
]
