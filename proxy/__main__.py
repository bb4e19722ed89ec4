"""`python -m proxy` is `kubemux`."""

from proxy.cli import program

if __name__ == "__main__":
    program()
