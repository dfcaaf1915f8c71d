"""A multivariate Hawkes process by Ogata's thinning (1981), one candidate after the other."""

import numpy as np


def simulate(
    seed: int, duration: float, baseline: np.ndarray, decay: np.ndarray, branching: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Times [n] and types [n] from 0 to `duration` of a process that starts without a past.

    baseline [E] events/s, decay [K] 1/s, branching [K, E, E] events of type i that one of type j causes.
    """
    rng = np.random.default_rng(seed)
    excited = np.zeros((len(decay), len(baseline)))
    now, seconds, types = 0.0, [], []
    while True:
        # Between events the intensity falls, so that it is now bounds it until the next candidate.
        bound = baseline.sum() + excited.sum()
        wait = rng.exponential(1 / bound)
        now += wait
        if now > duration:
            return np.array(seconds), np.array(types)
        excited = excited * np.exp(-decay * wait)[:, None]
        intensity = baseline + excited.sum(0)
        if rng.random() * bound < intensity.sum():
            event = rng.choice(len(baseline), p=intensity / intensity.sum())
            excited = excited + decay[:, None] * branching[:, :, event]
            seconds.append(now)
            types.append(event)
