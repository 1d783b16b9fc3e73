"""What an image of the Node.js buildpack says that it is made of, as the formats' own libraries read it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from fakes.installation import Home
from fakes.sbom import check_cyclonedx, check_spdx

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")

_MODULES = "/layers/sbom/launch/packhorse_nodejs"
_NODE = "/layers/packhorse_nodejs/node/bin/node"
_WALK = """
const fs = require('fs')
const found = []
const walk = (folder) => {
  for (const name of fs.readdirSync(folder).filter((name) => !name.startsWith('.'))) {
    const path = folder + '/' + name
    if (name.startsWith('@')) {
      walk(path)
    } else if (fs.existsSync(path + '/package.json')) {
      const manifest = JSON.parse(fs.readFileSync(path + '/package.json'))
      found.push(manifest.name + '@' + manifest.version)
      if (fs.existsSync(path + '/node_modules')) walk(path + '/node_modules')
    }
  }
}
walk('/workspace/node_modules')
console.log(JSON.stringify(found))
"""


def _read(home: Home, path: str) -> str:
    return home.ok("run", "--entrypoint", "cat", "sample", path)


def test_the_modules_and_node_are_in_valid_bills(home: Home, sample_id: str, tmp_path: Path) -> None:
    for name in ("sbom", "node/sbom"):
        check_cyclonedx(_read(home, f"{_MODULES}/{name}.cdx.json").encode())
        path = tmp_path / "x.spdx.json"
        path.write_text(_read(home, f"{_MODULES}/{name}.spdx.json"))
        check_spdx(path)


def test_every_module_of_the_image_and_no_other_is_in_the_bill(home: Home, sample_id: str) -> None:
    text = _read(home, f"{_MODULES}/sbom.cdx.json")
    bill = json.loads(text)
    listed = {f"{part['name']}@{part['version']}" for part in bill["components"]}
    there = json.loads(home.ok("run", "--entrypoint", _NODE, "sample", "--eval", _WALK))
    assert listed == set(there) and len(listed) > 50
    assert bill["metadata"]["component"]["type"] == "application"
    hosts = {word for word in text.split('"') if "://" in word} - {bill["$schema"]}
    assert not hosts
    with_checksum = [part for part in bill["components"] if part["hashes"][0]["alg"] == "SHA-512"]
    assert len(with_checksum) == len(bill["components"])


def test_one_bill_has_the_modules_the_launcher_and_the_packages_of_the_base(
    home: Home, sample_id: str, tmp_path: Path
) -> None:
    bill = home.ok("sbom", "sample")
    check_cyclonedx(bill.encode())
    path = tmp_path / "x.spdx.json"
    home.ok("sbom", "sample", "--format", "spdx", "--output", path)
    check_spdx(path)
    names = {part["name"] for part in json.loads(bill)["components"]}
    assert {"debian", "libc6", "express", "node", "launcher"} <= names
    listed = home.ok("sbom", "download", "sample", "--output-dir", tmp_path).splitlines()
    written = tmp_path / "layers/sbom/launch/packhorse_nodejs/sbom.cdx.json"
    assert str(written) in listed and written.read_text().strip() == _read(home, f"{_MODULES}/sbom.cdx.json")


@pytest.mark.torture
def test_a_bill_is_kept_with_the_modules_and_is_the_one_that_would_be_made(
    home: Home, sample: Path, sample_id: str, tmp_path: Path
) -> None:
    app = tmp_path / "app"
    shutil.copytree(sample, app)
    manifest = json.loads((app / "package.json").read_text())

    def built(*options: str) -> tuple[str, str]:
        (app / "package.json").write_text(json.dumps(manifest))
        done = home.run("build", "bills", "--path", app, *options)
        assert done.returncode == 0, done.stderr
        clean = home.ok("build", "bills-clean", "--quiet", "--path", app, "--clear-cache", *options)
        assert home.image_id("bills") == clean
        (why,) = re.findall(r"layer bill (.*)", done.stderr)
        return why.partition(":")[0], clean

    assert built()[0] == "new"
    assert built()[0] == "kept"
    manifest["version"] = "7.7.7"
    assert built()[0] == "replaced"
    assert "7.7.7" in home.ok("sbom", "bills")
    assert built("-e", "BP_DISABLE_SBOM=1")[0] == "replaced"
    assert built("-e", "BP_DISABLE_SBOM=1")[0] == "kept"
    del manifest["dependencies"]["express"]
    (app / "package-lock.json").unlink()
    manifest["dependencies"]["ms"] = "2.1.3"
    assert built()[0] == "replaced"
    assert '"ms"' in home.ok("sbom", "bills") and '"express"' not in home.ok("sbom", "bills")
