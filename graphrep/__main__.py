"""`python -m graphrep`, which is what torchrun starts: torchrun ... -m graphrep train ..."""

from __future__ import annotations

from graphrep.cli import main

if __name__ == "__main__":
    main()
