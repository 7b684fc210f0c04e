"""`python -m scenewise` is the command, so that torchrun can start it."""

from __future__ import annotations

from scenewise.cli import main

if __name__ == "__main__":
    main()
