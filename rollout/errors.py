"""What can go wrong on the way to traffic.

firstlight.errors.RefusedError
└── RolloutError              repeating it unchanged cannot succeed
    ├── BadTraffic            weights or versions that mean nothing
    ├── BadEvidence           counts that contradict each other
    ├── StaleGeneration       somebody else changed the desired state since it was read
    ├── StaleChampion         somebody else moved the champion since it was read
    ├── LeaseLapsed           the canary is not out any more: it cannot become champion from there
    ├── Fenced                a newer holder drives the rollout: this one may do nothing any more
    ├── NoRollout             no rollout runs, or not where this order would mean something
    ├── RolloutRunning        a rollout is in the way of an experiment
    ├── ExperimentRunning     an experiment is in the way of a rollout or of another experiment
    ├── NoExperiment          there is no experiment to end
    ├── ReleaseRunning        another release of this model is open in this environment
    ├── ReleaseClosed         the release is finished, or cannot be finished like this
    ├── UnknownRelease        no release has this id
    ├── UnknownVersion        no servable version has this number, or its digest is another one
    ├── UnknownIncident       no incident has this id
    ├── IncidentClosed        the incident is resolved, or cannot be resolved like this
    ├── NoPrevious            there is nothing to roll back to
    └── StoreRefused          the database is read-only, damaged, or of another schema
firstlight.errors.TransientError
├── StoreBusy                 another writer holds the database for longer than the busy timeout
└── StoreUnreachable          the database does not answer, or its disk is full
"""

from firstlight.errors import RefusedError, TransientError


class RolloutError(RefusedError):
    """Base of what this room refuses."""


class BadTraffic(RolloutError):
    """The traffic, desired or observed state contradicts itself."""


class BadEvidence(RolloutError):
    """What was counted of a canary contradicts itself."""


class StaleGeneration(RolloutError):
    """The desired state has moved on: read it again and decide again."""


class StaleChampion(RolloutError):
    """The champion is not the one the caller decided against: decide again against the present one."""


class LeaseLapsed(RolloutError):
    """The canary's lease is over: its traffic is back on stable and its server may be stopped. Put it out again first."""


class Fenced(RolloutError):
    """A newer holder has claimed the rollout since: whoever gets this stops, and touches nothing."""


class NoRollout(RolloutError):
    """No rollout runs that could obey, or it stands where the order means nothing."""


class RolloutRunning(RolloutError):
    """A rollout uses the traffic that an experiment would need."""


class ExperimentRunning(RolloutError):
    """An experiment uses the traffic that is asked for."""


class NoExperiment(RolloutError):
    """No experiment runs."""


class ReleaseRunning(RolloutError):
    """One open release per (environment, model); ``release_id`` is the one in the way."""

    def __init__(self, message: str, *, release_id: str) -> None:
        super().__init__(message)
        self.release_id = release_id


class ReleaseClosed(RolloutError):
    """The release has ended already, or would end as something that did not happen."""


class UnknownRelease(RolloutError):
    """No such release."""


class UnknownVersion(RolloutError):
    """No such servable version, or another digest under its number."""


class UnknownIncident(RolloutError):
    """No such incident."""


class IncidentClosed(RolloutError):
    """The incident is resolved already, or would be without a reason."""


class NoPrevious(RolloutError):
    """There is no earlier champion to go back to."""


class StoreRefused(RolloutError):
    """The database cannot be used as it is: read-only, damaged, foreign."""


class StoreBusy(TransientError):
    """Another process holds the write lock for too long."""


class StoreUnreachable(TransientError):
    """The database server or file does not answer, or the disk is full."""
