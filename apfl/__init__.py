"""AP-FL bench: what "Asynchronous Personalized Federated Learning through Global Memorization" really achieves.

The package imports nothing heavy at import time; start at ``apfl.federation.method`` for the method protocol.
"""

import sys

try:
    import fcntl  # noqa: F401
    import resource  # noqa: F401
except ImportError:
    print(f"apfl: error: needs Linux, macOS or WSL, and this is {sys.platform}; run it in one of them", file=sys.stderr)
    raise SystemExit(2) from None
