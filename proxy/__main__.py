"""`python -m proxy` is `kubemux`."""

from proxy.cli import main

if __name__ == "__main__":
    main(prog_name="kubemux")
