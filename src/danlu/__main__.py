"""`python -m danlu`, as `torchrun -m danlu train` calls it."""

import sys

from danlu.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
