"""An outcome as steps, and the description of a refused certificate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.model import DIRECT
from proxy.errors import AuthFailed, LinkDown, Stage, Unreachable
from proxy.health.certificate import read
from proxy.health.explain import Verdict, steps
from proxy.health.probe import probe
from proxy.health.result import Outcome, Result, unreached
from proxy.health.tls import Contexts
from tests.health.scripted import NOWHERE, OK, Dialer, Pki, Scripted, answers, cluster, server_context

VIA_SSH = cluster(NOWHERE, None).model_copy(update={"gateway": "eu"})
PLAIN = cluster(NOWHERE, None)


def verdicts(outcome: Outcome, *, direct: bool = False) -> str:
    """One letter per step: o(k), F(ailed), - (not reached)."""
    letters = {Verdict.OK: "o", Verdict.FAILED: "F", Verdict.NOT_REACHED: "-"}
    return "".join(letters[step.verdict] for step in steps(PLAIN if direct else VIA_SSH, outcome))


@pytest.mark.parametrize(
    ("outcome", "through_ssh", "direct"),
    [
        (Outcome(Result.OK, "", "", 1.0, Stage.HTTP), "oooooo", "ooo"),
        (Outcome(Result.UNAUTHORIZED, "", "", 1.0, Stage.HTTP), "oooooo", "ooo"),
        (Outcome(Result.UNHEALTHY, "", "", 1.0, Stage.HTTP), "oooooF", "ooF"),
        (Outcome(Result.TLS_EXPIRED, "", "", 1.0, Stage.TLS), "ooooF-", "oF-"),
        (Outcome(Result.TIMEOUT, "", "", 1.0, Stage.CHANNEL), "oooF--", "F--"),
        (unreached(AuthFailed("no"), 1.0), "ooF---", "F--"),
        (unreached(LinkDown("no"), 1.0), "oF----", "F--"),
        (unreached(Unreachable("no"), 1.0), "F-----", "F--"),
    ],
)
def test_the_steps_before_the_end_passed(outcome: Outcome, through_ssh: str, direct: str) -> None:
    assert verdicts(outcome) == through_ssh
    assert verdicts(outcome, direct=True) == direct
    assert VIA_SSH.gateway != DIRECT


@pytest.mark.parametrize(
    ("outcome", "row"),
    [
        (Outcome(Result.OK, "", "", 1.0, Stage.HTTP), "oooo"),
        (Outcome(Result.TIMEOUT, "", "", 1.0, Stage.CHANNEL), "oF--"),
        (Outcome(Result.LINK_DOWN, "", "", 1.0, Stage.AUTH), "F---"),
    ],
)
def test_the_link_of_a_site_is_one_step(outcome: Outcome, row: str) -> None:
    letters = {Verdict.OK: "o", Verdict.FAILED: "F", Verdict.NOT_REACHED: "-"}
    found = steps(VIA_SSH, outcome, connecting=0.1, by_site=True)
    assert "".join(letters[step.verdict] for step in found) == row
    assert (found[0].title, found[0].seconds) == ("link of site eu", None)


@given(st.sampled_from(Result), st.sampled_from(Stage), st.booleans())
def test_at_most_one_step_fails_and_nothing_passes_after_it(
    result: Result, stage: Stage, direct: bool
) -> None:
    row = verdicts(Outcome(result, "", "", 1.0, stage), direct=direct)
    assert set(row.partition("F")[0]) <= {"o", "-"}
    assert row.count("F") == (0 if result.alive else 1)
    assert "o" not in row.partition("F")[2]


def test_times_are_shown_at_their_step() -> None:
    timings = ((Stage.CHANNEL, 0.2), (Stage.TLS, 0.3))
    outcome = Outcome(Result.TLS_EXPIRED, "", "", 0.5, Stage.TLS, timings=timings)
    assert [step.seconds for step in steps(VIA_SSH, outcome, connecting=0.1)] == [
        None,
        None,
        0.1,
        0.2,
        0.3,
        None,
    ]


@pytest.mark.both_loops
async def test_a_certificate_that_is_refused_is_described(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.wrong_name)) as server:
        outcome = await probe(
            "prod", cluster(server.endpoint, pki.authority.ca.cert), Dialer(server.endpoint), Contexts()
        )
    assert server.request == b""
    assert outcome.refused
    assert outcome.refused.names == ("somebody.example", "192.0.2.1")
    assert outcome.refused.issuer == "CN=kubemux test ca"
    assert outcome.refused.not_after == pki.wrong_name.not_after
    assert str(outcome.refused).startswith(
        "it names somebody.example, 192.0.2.1; issued by CN=kubemux test ca; valid from "
    )


async def test_a_refused_certificate_without_names_is_described_as_such(pki: Pki) -> None:
    async with Scripted(answers(OK), tls=server_context(pki.client)) as server:
        outcome = await probe(
            "prod", cluster(server.endpoint, pki.authority.ca.cert), Dialer(server.endpoint), Contexts()
        )
    assert str(outcome.refused).startswith("it names nothing; ")


async def test_without_a_certificate_problem_no_certificate_is_shown(pki: Pki) -> None:
    async with Scripted(answers(b"plain text\r\n")) as server:
        outcome = await probe(
            "prod", cluster(server.endpoint, pki.authority.ca.cert), Dialer(server.endpoint), Contexts()
        )
    assert outcome.refused is None
    assert read(b"no certificate") is None


@given(st.sampled_from(Result))
def test_every_result_but_ok_has_a_remedy(result: Result) -> None:
    assert bool(result.hint) is (result is not Result.OK)
    assert result.alive is (result in {Result.OK, Result.UNAUTHORIZED})
