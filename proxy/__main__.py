"""`kubemux`, the program; `python -m proxy` is the same."""

import signal
import sys


def program() -> None:
    """Run the command of `sys.argv`. The plain form of `connect` runs before all other commands
    are imported.
    """
    if sys.argv[1:2] == ["connect"]:
        # A Ctrl-C for ssh also interrupts its ProxyCommand, and Python would print a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        from proxy.connect.command import attempt

        code = attempt(sys.argv[2:])
        if code is not None:
            sys.exit(code)
    from proxy.cli import program as any_command

    any_command()


if __name__ == "__main__":
    program()
