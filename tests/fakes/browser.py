"""A real browser without a window, which opens pages of ours and answers questions about them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

_ASKING = """<!doctype html><meta charset="utf-8"><title>asking</title>
<iframe src="PAGE" style="width:WIDTHpx;height:900px;border:0"></iframe>
<script>
addEventListener('load', () => {
  const window = document.querySelector('iframe').contentWindow
  const answer = ((document, window) => (QUESTION))(window.document, window)
  const element = document.createElement('pre')
  element.textContent = 'ANSWER' + JSON.stringify(answer) + 'END'
  document.body.replaceChildren(element)
})
</script>
"""


def program() -> str:
    """Debian's chromium, which the tests cannot do without."""
    found = shutil.which("chromium")
    assert found, "chromium is missing: make test installs it"
    return found


def ask(page: Path, question: str, *, width: int, dark: bool) -> Any:
    """The value of a JavaScript expression over `document` and `window` of a page shown `width` pixels
    wide.
    """
    asking = page.with_name(f"asking-{width}-{dark}.html")
    text = _ASKING.replace("PAGE", page.name).replace("WIDTH", str(width)).replace("QUESTION", question)
    asking.write_text(text)
    words = [
        program(),
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        "--allow-file-access-from-files",
        f"--user-data-dir={page.parent / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        "--window-size=1400,1000",
        "--dump-dom",
        f"file://{asking}",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    found = done.stdout.partition("ANSWER")[2].partition("END</pre>")[0]
    assert found, f"the page gave no answer\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
