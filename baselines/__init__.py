"""One file per method; `apfl methods` lists them. docs/adding-a-method.md shows how to add one.

Methods that lie beside a study are modules of this package too, from folders that jobs are told in the environment
(`apfl.registry.trees.look_in`).
"""

import os

__path__ += [folder for folder in os.environ.get("APFL_METHODS", "").split(os.pathsep) if folder]
