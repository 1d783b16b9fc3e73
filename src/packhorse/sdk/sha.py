"""SHA-256 that a program does not wait for; for buildpacks, which begin anew in every build.

See `packhorse.base.sha`.
"""

from packhorse.base.sha import sha256

__all__ = ["sha256"]
