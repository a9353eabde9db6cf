"""By how much stable's answers spread: what differences are measured in, and never the candidate's own."""

import numpy as np
import pandas as pd
import pytest

from firstlight.errors import RefusedError
from models.handoff import HandOff, load
from rollout.policy import AnswerRule, RolloutPolicy
from tasks.canary import scales_of
from tests.models.tiny import write_tiny_handoff


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> HandOff:
    return load(write_tiny_handoff(tmp_path_factory.mktemp("scales") / "tiny"))


RULES = RolloutPolicy(answers={"score": AnswerRule(margin=0.5), "nothing of the kind": AnswerRule(margin=0.5)})


def test_differences_are_measured_in_the_standard_deviation_of_stables_answers(papers: HandOff) -> None:
    stable = pd.DataFrame({"score": [1.0, 3.0, 5.0, np.nan]})
    assert scales_of(RULES, papers, papers, stable) == {"score": ("score", pytest.approx(np.std([1.0, 3.0, 5.0])))}


def test_what_never_varies_has_no_deviation_to_be_measured_in(papers: HandOff) -> None:
    assert scales_of(RULES, papers, papers, pd.DataFrame({"score": [2.0, 2.0]})) == {}


def test_where_nobody_knows_how_stables_answers_spread_the_rollout_is_refused_and_the_candidates_are_no_substitute(papers: HandOff) -> None:
    with pytest.raises(RefusedError, match="how widely 'score' of the stable version spreads must be known"):
        scales_of(RULES, papers, papers, pd.DataFrame({"another": [1.0]}))
