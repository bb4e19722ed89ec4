"""The delays between dials, over every sequence of failures."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import RetryClass
from proxy.ssh.governor import ALLOWED_S, REFUSAL_S, STABLE_S, Backoff, LoginPace, Outage

FIRST = {RetryClass.SOON: 0.5, RetryClass.SLOW: 15.0}
LARGEST = {RetryClass.SOON: 15.0, RetryClass.SLOW: 300.0}

failures = st.lists(st.sampled_from(RetryClass), max_size=200)
seeds = st.integers().map(random.Random)


@given(failures, seeds)
def test_delays_are_bounded_and_slow_ones_never_short(kinds: list[RetryClass], rng: random.Random) -> None:
    backoff = Backoff(rng)
    for index, kind in enumerate(kinds):
        count = kinds[:index].count(kind)
        delay = backoff.failed(kind)
        assert 0 <= delay <= min(LARGEST[kind], FIRST[kind] * 2.0**count), (
            "only failures of its own class make a delay longer"
        )
        if kind is RetryClass.SLOW:
            assert delay >= min(7.5 * 2**count, 150), (
                "sshd's penalties add up if failures come faster than one in 5 s"
            )


@settings(deadline=None)  # a busy machine
@given(st.integers(min_value=6, max_value=50), seeds)
def test_many_gateways_do_not_all_dial_at_the_same_time(count: int, rng: random.Random) -> None:
    """After many failures delays are spread over the whole range: the mean of 200 gateways is near the
    middle.
    """
    delays = []
    for _ in range(200):
        backoff = Backoff(rng)
        for _ in range(count):
            backoff.failed(RetryClass.SOON)
        delays.append(backoff.failed(RetryClass.SOON))
    assert min(delays) < 3
    assert max(delays) > 12
    assert 5.5 < sum(delays) / len(delays) < 9.5


@given(failures, st.floats(0, 10 * STABLE_S), seeds)
def test_only_a_link_that_lasted_starts_the_backoff_anew(
    kinds: list[RetryClass], age: float, rng: random.Random
) -> None:
    backoff, fresh = Backoff(rng), Backoff()
    for kind in kinds:
        backoff.failed(kind)
    delay = backoff.lost(age)
    if age >= STABLE_S:
        assert delay <= 0.5
        assert backoff.failed(RetryClass.SOON) <= 1.0
        assert backoff.failed(RetryClass.SLOW) <= 15.0
    else:
        assert delay <= min(15.0, 0.5 * 2.0 ** kinds.count(RetryClass.SOON))
    assert fresh.lost(age) <= 0.5


class Latest(random.Random):
    """A random generator that makes every delay as long as possible."""

    def random(self) -> float:
        return 1.0


def test_each_failure_doubles_the_bound_until_the_largest() -> None:
    backoff = Backoff(Latest())
    assert [backoff.failed(RetryClass.SOON) for _ in range(8)] == [0.5, 1, 2, 4, 8, 15, 15, 15]
    backoff = Backoff(Latest())
    assert [backoff.failed(RetryClass.SLOW) for _ in range(7)] == [15, 30, 60, 120, 240, 300, 300]


def test_each_class_counts_its_own_failures() -> None:
    """The first refused key after an outage counts as a first failure; and neither class resets the other."""
    backoff = Backoff(Latest())
    for _ in range(7):
        backoff.failed(RetryClass.SOON)
    assert [backoff.failed(kind) for kind in (RetryClass.SLOW, RetryClass.SOON, RetryClass.SLOW)] == [
        15,
        15,
        30,
    ]
    assert backoff.lost(STABLE_S - 1) == 15
    assert backoff.lost(STABLE_S) == 0.5
    assert backoff.failed(RetryClass.SLOW) == 15


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.floats(0, 3)), max_size=40))
def test_refused_logins_never_add_up_to_a_penalty_of_sshd(attempts: list[tuple[float, bool, float]]) -> None:
    """The delays, compared with how sshd adds up penalties (srclimit.c).

    `attempts`: for each, the pause before it, whether sshd refuses it, and how long it takes.
    """
    pace, now, forgiven_at, running = LoginPace(), 0.0, 0.0, list[tuple[float, bool]]()

    def end(until: float) -> float:
        nonlocal forgiven_at
        for at, is_refused in sorted(running):
            if at <= until:
                running.remove((at, is_refused))
                pace.trying -= 1
                if is_refused:
                    pace.refused(at, REFUSAL_S)
                    forgiven_at = max(forgiven_at, at) + 5
                    assert forgiven_at - at <= 15, "sshd does not refuse the address"
        return until

    for pause, is_refused, took in attempts:
        now = end(now + pause)
        while (seconds := pace.wait(now)) > 0:
            now = end(min([now + seconds + 1e-6, *(at for at, _ in running)]))
        pace.trying += 1
        running.append((now + took, is_refused))
        assert pace.trying * REFUSAL_S <= ALLOWED_S
    end(now + 10)
    assert pace.trying == 0
    assert pace.is_quiet(now + 10 + ALLOWED_S)


def test_an_outage_outlasts_a_client_once_a_dial_has_failed() -> None:
    outage = Outage(0.0)
    assert not outage.outlasts(5, 100.0), "the first dial may still succeed"
    outage.has_failed = True
    assert not outage.outlasts(5, 5.0)
    assert outage.outlasts(5, 5.1)
    assert outage.seconds(7.0) == 7.0
    outage.link(8.0, is_up=True)
    assert not outage.outlasts(0, 100.0)
    assert outage.seconds(100.0) == 0
    outage.link(200.0, is_up=False)
    outage.link(203.0, is_up=False)
    assert not outage.outlasts(5, 300.0), "there was no dial since"
    outage.has_failed = True
    assert (outage.outlasts(5, 204.0), outage.outlasts(5, 205.5)) == (False, True)
