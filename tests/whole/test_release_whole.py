import pytest

from tests.whole.house import House, until
from tests.whole import toy

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("plane")]


def test_a_hand_off_becomes_champion_once_the_right_person_signed(house: House) -> None:
    waiting = house.run("release", house.handoff(1.0))
    assert waiting.returncode == 4
    assert waiting.stdout.splitlines()[-1].startswith("waiting for sign-off: ")
    release = house.open_release()
    signed = house.sign(release)
    assert signed.returncode == 0
    print(signed.stdout)
    done = house.run("release", house.handoff(1.0))
    assert done.returncode == 0
