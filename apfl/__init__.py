"""AP-FL bench: what "Asynchronous Personalized Federated Learning through Global Memorization" really achieves.

The package imports nothing heavy at import time; start at ``apfl.federation.method`` for the method protocol.
"""

__version__ = "0.1.0"
