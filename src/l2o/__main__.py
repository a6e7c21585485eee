"""`python -m l2o` is `l2o`; so is `torchrun -m l2o`, in as many processes as it starts."""

import sys

from l2o.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
