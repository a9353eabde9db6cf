"""The policy file: complete, checked, and one digest over every rule."""

import itertools
from pathlib import Path

import pytest
import yaml

from firstlight.errors import RefusedError
from tasks import policy
from tasks.policy import Policy

ROOT = Path(__file__).parent.parent
LOCAL = ROOT / "deployments" / "policies" / "local.yaml"
OURS = {
    ("rollout", "latency_ratio_limit"): 3.0,
    ("rollout", "error_margin"): 0.02,
    ("rollout", "watch_seconds"): 10.0,
    ("rollout", "step_deadline_seconds"): 300.0,
    ("rollout", "drill"): {"required": True, "valid_hours": 48.0, "limit_seconds": 60.0},
    ("rollout", "answers"): {"anomaly_score": {"margin": 0.5, "tolerance": 0.4}},
    ("rollout", "flags_margin"): 0.1,
    ("rollout", "budget"): {
        "healthy_turned_back": 0.01,
        "worse_promoted": 0.01,
        "shares": {"errors": 0.3, "latency": 0.05, "quality": 0.05, "answers": 0.35, "flags": 0.05, "classes": 0.2},
    },
}
"""Where the local environment differs from the defaults of the code: its machines are shared and jitter, going back is rehearsed, and the demo's models are trained
on so few spectra that good ones differ by more than a survey's would."""


def test_the_local_policy_names_every_rule_with_the_value_in_force() -> None:
    written = yaml.safe_load(LOCAL.read_text())
    defaults = Policy().model_dump(mode="json")
    assert {section: set(rules) for section, rules in written.items()} == {section: set(rules) for section, rules in defaults.items()}
    differing = {
        (section, name): value for section, rules in written.items() for name, value in rules.items() if value != defaults[section][name]
    }
    assert differing == OURS


def test_every_rule_is_explained_above_it() -> None:
    lines = LOCAL.read_text().splitlines()
    rules = {name for rules in yaml.safe_load(LOCAL.read_text()).values() for name in rules}
    explained = {
        line.strip().partition(":")[0] for above, line in itertools.pairwise(lines) if above.startswith("  # ") and line.startswith("  ")
    }
    assert rules <= explained


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rollout: {lease_seconds: -1}", "rollout.lease_seconds"),
        ("nonsense: {}", "nonsense"),
        ("bias: {alfa: 0.05}", "alfa"),
        ("a: [", "YAML"),
    ],
)
def test_a_wrong_rule_is_a_sentence_that_names_it(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(RefusedError, match=said):
        policy.read(file)


def test_a_policy_file_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="FIRSTLIGHT_POLICY_FILE"):
        policy.read(tmp_path / "nowhere.yaml")


def test_any_changed_rule_changes_the_digest() -> None:
    plain = Policy()
    changed = {"data": {"min_reference_rows": 101}, "drift": {"alpha": 0.02}, "risk": {"validity_days": 29}, "benchmark": {"rounds": 6}}
    digests = {Policy.model_validate({section: rules}).digest for section, rules in changed.items()}
    assert len(digests | {plain.digest}) == len(changed) + 1
    assert Policy.model_validate({"data": {"min_reference_rows": 100}}).digest == plain.digest
