"""Found by the Python of a step while a build is to die in its download: see `tests/chaos/downloading.py`."""

from tests.chaos.downloading import arm_this_process

arm_this_process()
