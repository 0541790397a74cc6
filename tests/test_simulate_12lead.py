"""Virtual people with twelve leads: laws, repeatability, and labels that the truth bears out."""
import numpy as np
import pytest

from biossl.cohorts.registry import get_cohort
from biossl.cohorts.statements import CLASSES
from biossl.data.people_12lead import draw_person
from biossl.data.simulate_12lead import findings, simulate_12lead


@pytest.fixture(scope="module")
def many():
    return simulate_12lead([draw_person(3, k) for k in range(240)])


def test_einthoven_and_goldberger_hold_to_rounding(many):
    one, two, three, avr, avl, avf = np.moveaxis(many.ecg[:, :6].astype(np.float64), 1, 0)
    tiny = 1e-6 * np.abs(many.ecg).max()
    for x, y in ((one + three, two), (avr, -(one + two) / 2), (avl, one - two / 2),
                 (avf, two - one / 2), (avr + avl + avf, 0)):
        np.testing.assert_allclose(x, y, rtol=0, atol=tiny)


def test_every_finding_is_a_scored_class(many):
    assert {o for r in many.readings for o in findings(r)} <= set(CLASSES)


def test_a_person_is_the_same_in_cohorts_of_three_and_of_forty():
    small, large = ([*get_cohort("simulated_12lead", subjects=o, seed=5).recordings()]
                    for o in (3, 40))
    for a, b in zip(small, large):
        assert a.name == b.name and dict(a.labels) == dict(b.labels)
        np.testing.assert_array_equal(a.signal("ecg").samples, b.signal("ecg").samples)
