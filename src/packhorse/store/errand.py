"""Work that only the root of a sandbox's user namespace can do, given to a child there:
`packhorse.store.inside`.

A user's subordinate ids can be used, and what belongs to them removed, by nobody else; and a hostile tar is
read where there is nothing to gain. Called by trees and removal. What the child does is not here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from packhorse.base import userns
from packhorse.base.userns import Namespace
from packhorse.errors import StoreError

_SOURCE = Path(__file__).parents[2]
_CODE = (
    f"import sys; sys.path.insert(0, {str(_SOURCE)!r}); "
    "from packhorse.store.inside import main; sys.exit(main(sys.argv[1:]))"
)


def run(
    words: Sequence[str], *, namespace: Namespace, directories: Sequence[int], stdin: Iterable[bytes] = ()
) -> dict[str, Any]:
    """Runs `inside` with `words` in `namespace`, feeds it `stdin`, and answers the JSON object it prints.

    `directories` are descriptors it may use by their numbers. Raises StoreError with what the child says.
    """
    with userns.spawn(
        [sys.executable, "-I", "-S", "-c", _CODE, *words],
        namespace=namespace,
        pass_fds=directories,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        try:
            for chunk in stdin:
                child.stdin.write(chunk)
        except BrokenPipeError:
            pass  # it has ended early, and says why
        except BaseException:
            child.kill()
            raise
        answer, said = child.communicate()
    if child.returncode != 0:
        why = said.decode(errors="replace").strip() or f"it ended with status {child.returncode}"
        raise StoreError(f"a file tree of the store cannot be handled ({words[0]})", why=why)
    return cast(dict[str, Any], json.loads(answer))
