"""For tests of tools and buildpacks: a registry and a file server in memory, and a workbench for buildpacks.

::

    from packhorse.testing import FakeRegistry, Fault, Workbench, build_image

Called by packhorse's own tests and by those of others; nothing in packhorse imports it. The workbench stands
in `sdk.testing`, because a staged buildpack has only the SDK. docs/reference/testing.md describes everything.
"""

from packhorse.sdk.testing import BuiltLayer, Image, Outcome, Workbench, build_image
from packhorse.testing.file_server import FileRequest, FileServer, serve_files
from packhorse.testing.registry import FakeRegistry, Fault, Request
from packhorse.testing.repositories import Repositories, Response

__all__ = [
    "BuiltLayer",
    "FakeRegistry",
    "Fault",
    "FileRequest",
    "FileServer",
    "Image",
    "Outcome",
    "Repositories",
    "Request",
    "Response",
    "Workbench",
    "build_image",
    "serve_files",
]
