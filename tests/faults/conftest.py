"""What the tests of faults share with those of the core."""

from ..core.fake import place, places  # noqa: F401
