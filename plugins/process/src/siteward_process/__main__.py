"""The keeper's program: ``python -I -S -E …/siteward_process DIRECTORY`` with the standard library alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Running a folder puts it first on the path, where its modules would shadow the standard library's.
    sys.path[0:1] = []
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    from siteward_process.keeper import main

    main(sys.argv[1])
