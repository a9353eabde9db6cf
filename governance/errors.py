"""What governance refuses.

RefusedError
└── GovernanceError
    ├── ScenarioError       a risk scenario file is not usable
    ├── RegisterError       the framework of the register is not usable
    ├── ApproversError      the approvers file is not usable
    ├── SignatureError      a signature cannot be made or does not verify
    ├── SignOffError        a sign-off cannot be given
    ├── LedgerError         the ledger, its keys or its anchors cannot be read or kept
    └── EvidenceError       evidence is missing, unreadable or of the wrong form
"""

from firstlight.errors import RefusedError


class GovernanceError(RefusedError):
    """Base of everything this room refuses."""


class ScenarioError(GovernanceError):
    """A risk scenario file cannot be used."""


class RegisterError(GovernanceError):
    """The framework of the register, or the lab's labels, cannot be used."""


class PolicyError(GovernanceError):
    """The risk section of a policy file cannot be used."""


class ApproversError(GovernanceError):
    """The approvers file cannot be used."""


class SignatureError(GovernanceError):
    """A signature cannot be made, read or verified."""


class SignOffError(GovernanceError):
    """A sign-off cannot be given or read."""


class EvidenceError(GovernanceError):
    """Evidence is missing, unreadable or not of the stated form."""


class LedgerError(GovernanceError):
    """The ledger, its keys or its anchors cannot be read or kept."""
