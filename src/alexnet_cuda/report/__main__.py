import sys

from ..command_line import run
from . import main

if __name__ == "__main__":
    sys.exit(run(main))
