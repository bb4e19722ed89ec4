"""When a site counts as flapping."""

from __future__ import annotations

from proxy.ssh.sites.flapping import AGAIN_S, MANY, WINDOW_S, Flapping


def test_flapping_is_logged_once_and_again_much_later() -> None:
    one = Flapping()
    said = [one.logged_in(float(second)) for second in range(MANY + 20)]
    assert said == [False] * (MANY - 1) + [True] + [False] * 20
    assert one
    later = MANY - 1 + AGAIN_S
    assert one.logged_in(later)
    assert not one.is_over(later + WINDOW_S)
    assert one.is_over(later + WINDOW_S + 1)
    assert not one.is_over(later + WINDOW_S + 2)
    assert not one


def test_a_login_now_and_then_is_no_flapping() -> None:
    one = Flapping()
    assert not any(one.logged_in(number * WINDOW_S / (MANY - 2)) for number in range(100))
    assert not one
