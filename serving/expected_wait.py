"""How long a call would take that came now, judged by those before it (pure): by Little's law, calls ahead times the time of each.

A bound on how many may wait says nothing about how long they wait: that follows what the machine gives at the moment.
"""

from __future__ import annotations

# Of what the newest call says of the time of each; the rest is what was known before.
_WEIGHT = 0.05


class ExpectedWait:
    """Whether there is time for one more.

    Args:
        bound_s: Calls that would take longer are not let in.
    """

    def __init__(self, bound_s: float) -> None:
        self._bound_s = bound_s
        self._each_s = 0.0
        self.inside = 0

    @property
    def expected_s(self) -> float:
        """What a call that came now would take."""
        return (self.inside + 1) * self._each_s

    def admits(self) -> bool:
        """Whether one more would be done in time; where nobody is inside, always, or nothing would ever be learnt again."""
        return self.inside == 0 or self.expected_s <= self._bound_s

    def enter(self) -> int:
        """One is let in; returns what `leave` is to be told."""
        self.inside += 1
        return self.inside

    def leave(self, entered: int, took_s: float) -> None:
        """It is done.

        Args:
            entered: What `enter` returned.
            took_s: Since then.
        """
        self.inside -= 1
        self._each_s += _WEIGHT * (took_s / entered - self._each_s)
