"""The policy file of an environment: one YAML document, each section read by the room that decides by it, one digest over all."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from expectations import BiasPolicy, DataPolicy
from firstlight import settings as settings_module
from firstlight.digest import canonical_json, sha256_bytes
from firstlight.errors import RefusedError
from governance.risk import RiskPolicy
from models.benchmark import BenchmarkPolicy
from models.evaluation import EvaluationPolicy
from monitoring.drift import DriftPolicy
from rollout.spec import RolloutPolicy


class Policy(BaseModel):
    """By which rules this environment decides. A missing section means that room's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataPolicy = DataPolicy()
    evaluation: EvaluationPolicy = EvaluationPolicy()
    bias: BiasPolicy = BiasPolicy()
    benchmark: BenchmarkPolicy = BenchmarkPolicy()
    risk: RiskPolicy = RiskPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    drift: DriftPolicy = DriftPolicy()

    @property
    def digest(self) -> str:
        """sha256 of every rule in force, defaults included: a default that changes with the code changes it too."""
        return sha256_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Every rule in force as canonical JSON (which is YAML too): what a release keeps a copy of."""
        return canonical_json(self.model_dump(mode="json"))


@lru_cache(maxsize=8)
def read(path: Path) -> Policy:
    """Read and check a policy file. Raises RefusedError that names every wrong field."""
    try:
        values: Any = yaml.safe_load(path.read_text()) or {}
        return Policy.model_validate(values)
    except OSError as error:
        raise RefusedError(f"the policy file must be readable, {path} is not ({error.strerror}): set FIRSTLIGHT_POLICY_FILE") from None
    except yaml.YAMLError as error:
        raise RefusedError(f"the policy file must be YAML, {path} is not: {error}") from None
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise RefusedError(f"the policy in {path} must be valid, found {wrong}: mend these fields") from None


def current() -> Policy:
    """Return the policy of this process's environment."""
    return read(settings_module.current().policy_path)
