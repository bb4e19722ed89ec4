"""The errors of a file that cannot be used: a report of problems, each with its place."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors.base import ProxyError
from proxy.errors.names import UnknownName
from proxy.errors.reasons import Reason

MAX_PROBLEMS = 200
"""The most problems in one report. 30,000 problems would make a log line of 11 MB, which nobody reads."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file: where, what, and the remedy.

    `line` counts from 1 and is 0 if unknown; `key` looks like `clusters.prod.listen`.
    """

    line: int
    key: str
    message: str
    hint: str = ""

    def at(self, path: object) -> str:
        """`FILE:LINE: KEY: what is wrong`, then `  hint: remedy`."""
        where = f"{path}:{self.line}" if self.line else str(path)
        said = f"{where}: {self.key + ': ' if self.key else ''}{self.message}"
        return f"{said}\n  hint: {self.hint}" if self.hint else said


class ConfigError(ProxyError):
    """A configuration or kubeconfig that cannot be used. It holds the first MAX_PROBLEMS problems."""

    reason = Reason.CONFIG

    def __init__(self, path: str, problems: list[Problem]) -> None:
        super().__init__(f"{path}: {len(problems)} problem{'s' if len(problems) != 1 else ''}")
        self.path = path
        self.problems = problems[:MAX_PROBLEMS]
        if (more := len(problems) - MAX_PROBLEMS) > 0:
            self.problems.append(Problem(0, "", f"{more} more problems are not shown"))

    def render(self) -> str:
        """The whole report, with the text of `Problem.at` for each problem."""
        return "\n".join(problem.at(self.path) for problem in self.problems)


class UnknownNames(ConfigError):
    """A command names clusters or gateways that the file does not have. Exit code 2, as for UnknownName."""

    reason = UnknownName.reason
