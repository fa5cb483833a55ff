"""The no-drop search of RFC 2544 (section 26.1): trials at one rate each, halving what is left between them."""
from dataclasses import asdict, dataclass

# An offered rate that misses the asked one by more says something about the generator only.
HONEST = 0.98


@dataclass
class Trial:
    """One rate for one time. Rates are packets a second."""
    asked: float
    sent: float
    received: float
    seconds: float
    queue_full: int = 0

    @property
    def loss(self):
        return max(0.0, 1 - self.received / self.sent) if self.sent else 1.0

    @property
    def offered(self):
        """Whether the generator kept up."""
        return self.sent >= HONEST * self.asked

    def as_row(self):
        return {**asdict(self), "loss": self.loss, "generator_kept_up": self.offered}


@dataclass
class Found:
    """The highest rate that passed; `limit` says what ended the search: "loss", "generator", "ceiling" or "nothing passed"."""
    best: Trial
    limit: str
    trials: list


def no_drop(trial, ceiling, loss=0.0, steps=0.01, retries=1):
    """Finds the highest rate up to `ceiling` with at most `loss` lost. `trial(rate)` runs one. The search ends when what is
    left is less than `steps` of the ceiling. A failed trial is repeated before it counts."""
    trials, best, limit = [], None, "ceiling"

    def passes(rate):
        nonlocal best, limit
        for _ in range(1 + retries):
            done = trial(rate)
            trials.append(done)
            if done.offered and done.loss <= loss:
                if best is None or done.sent > best.sent:
                    best = done
                return True
            limit = "loss" if done.loss > loss else "generator"
        return False

    low, high = 0.0, ceiling
    if passes(ceiling):
        return Found(best, "ceiling", trials)
    while high - low > steps * ceiling:
        middle = (low + high) / 2
        if passes(middle):
            low = middle
        else:
            high = middle
    if best is None:
        return Found(trials[-1], "nothing passed", trials)
    return Found(best, limit, trials)
