from __future__ import annotations

import threading
import time
import weakref

import pytest

from schemas.timed_calls import GRACE_S, Overran, StillHanging, TimedCalls


def nothing() -> None:
    pass


def test_a_call_returns_what_it_returns_and_raises_what_it_raises() -> None:
    calls: TimedCalls[int] = TimedCalls(5.0)
    assert [calls("v1", lambda n=n: n, nothing) for n in range(3)] == [0, 1, 2]  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        calls("v1", lambda: 1 // 0, nothing)
    assert calls("v1", lambda: 7, nothing) == 7
    assert calls.hanging() == ()
    calls.close()


def test_a_call_that_can_be_ended_is_ended_and_the_thread_goes_on() -> None:
    calls: TimedCalls[int] = TimedCalls(0.05)
    told = threading.Event()

    def hang() -> int:
        assert told.wait(10)
        return 1

    with pytest.raises(Overran, match="more than 50 ms") as raised:
        calls("v1", hang, told.set)
    assert not raised.value.left
    assert calls("v1", lambda: 2, nothing) == 2
    calls.close()


def test_a_call_that_cannot_be_ended_is_left_behind_and_the_others_go_on() -> None:
    calls: TimedCalls[int] = TimedCalls(0.05)
    free = threading.Event()

    def hang() -> int:
        assert free.wait(20)
        return 1

    began_s = time.monotonic()
    with pytest.raises(Overran) as raised:
        calls("v1", hang, nothing)
    assert raised.value.left
    assert time.monotonic() - began_s < 0.05 + GRACE_S + 2
    assert calls.hanging() == ("v1",)
    with pytest.raises(StillHanging):
        calls("v1", lambda: 2, nothing)
    assert calls("v2", lambda: 3, nothing) == 3

    free.set()
    deadline_s = time.monotonic() + 10
    while calls.hanging() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert calls("v1", lambda: 4, nothing) == 4
    calls.close()


def test_what_a_call_closes_over_goes_with_it() -> None:
    class Producer: ...

    calls: TimedCalls[str] = TimedCalls(5.0)
    producer = Producer()
    seen = weakref.ref(producer)
    calls("v1", lambda held=producer: repr(held), nothing)  # type: ignore[misc]
    del producer
    assert seen() is None
    calls.close()


def test_its_thread_goes_when_it_is_closed() -> None:
    calls: TimedCalls[threading.Thread] = TimedCalls(5.0)
    thread = calls("v1", threading.current_thread, nothing)
    assert thread.is_alive()
    assert thread is not threading.current_thread()
    calls.close()
    thread.join(10)
    assert not thread.is_alive()
