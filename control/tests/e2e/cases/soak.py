"""A short soak in every `make test`; `make soak SECONDS=1800` is the long one."""
from lab import lasts
from soaking import soak


@lasts(200)
def test_soak(lab):
    """Twenty seconds of new flows, expiries and rule changes: memory, descriptors and buffers do not add up."""
    soak(lab, 20)
