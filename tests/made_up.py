"""Cohorts made up for tests: small, quick, and without a publisher."""
from dataclasses import asdict, dataclass

import numpy as np

from biossl.data.recordings import Interval, Recording, Signal


def noise(rng, seconds, rate, leads=("I",), unit="mV", offset=0.0):
    "A signal of white noise."
    samples = rng.normal(size=(len(leads), int(round(seconds * rate))))
    return Signal(samples, rate, leads, unit, offset)


@dataclass(frozen=True)
class Noise:
    "People with an ECG and a PPG of noise; every second one has `af`."
    people: int = 6
    seconds: float = 70.0
    seed: int = 0
    name = "noise"

    def recordings(self, folder=None):
        "One recording a person, the same whatever the cohort's size."
        for i in range(self.people):
            rng = np.random.default_rng([self.seed, i])
            signals = dict(ecg=noise(rng, self.seconds, 125, ("II",)),
                           ppg=noise(rng, self.seconds, 125, ("PLETH",), "NU"))
            yield Recording(f"r{i:04}", f"s{i:04}", signals,
                            dict(af=i % 2, rhythm=("SR", "AF")[i % 2], age=50.0 + i,
                                 codes=("a", "b")[:i % 3]), cohort=self.name,
                            intervals=[Interval(0, 35, "rest", True)])

    def fingerprint(self, folder=None):
        "What determines the recordings."
        return dict(cohort=self.name, options=asdict(self))


@dataclass(frozen=True)
class Given:
    "A cohort of recordings that the test has in its hand."
    given: tuple
    name = "given"

    def recordings(self, folder=None):
        "The recordings."
        yield from self.given

    def fingerprint(self, folder=None):
        "Their names."
        return dict(cohort=self.name, names=[o.name for o in self.given])
