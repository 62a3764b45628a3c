"""A worker ends when it is told to, whatever the client does."""

from __future__ import annotations

from threading import Event

from pipelines.polling import close


class Stuck:
    """Closes only once it may; `closed` says that it did."""

    def __init__(self) -> None:
        self.may, self.closed = Event(), Event()

    def close(self) -> None:
        self.may.wait()
        self.closed.set()


def test_a_consumer_that_does_not_close_is_not_waited_for() -> None:
    consumer = Stuck()
    assert not close(consumer, 0.05)
    consumer.may.set()
    assert consumer.closed.wait(10)


def test_a_consumer_that_closes_is_waited_for() -> None:
    consumer = Stuck()
    consumer.may.set()
    assert close(consumer)
    assert consumer.closed.is_set()
