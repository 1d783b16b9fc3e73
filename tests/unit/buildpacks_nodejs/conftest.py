"""Puts the buildpack's own package on the path, as its main.py does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "buildpacks/nodejs"))
