"""Buildpacks of one's own, anything executable, and what they see, may do and print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.installation import REPOSITORY, Home
from fakes.shell_buildpack import SERVER, shell_buildpack

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the shared home is root's")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app"
    path.mkdir()
    (path / "README").write_text("hello\n")
    return path


def test_two_shell_scripts_require_and_provide(home: Home, app: Path, tmp_path: Path) -> None:
    provider = shell_buildpack(
        tmp_path / "provider",
        "test/provider",
        detect='echo "[[provides]]" > $CNB_BUILD_PLAN_PATH; echo "name = \\"tool\\"" >> $CNB_BUILD_PLAN_PATH',
        build=f'grep -q tool "$CNB_BP_PLAN_PATH"\n{SERVER}\n'
        'printf "[types]\\nlaunch = true\\nbuild = true\\n" > "$CNB_LAYERS_DIR/tools.toml"',
    )
    user = shell_buildpack(
        tmp_path / "user",
        "test/user",
        detect='printf "[[requires]]\\nname = \\"tool\\"\\n[requires.metadata]\\nversion = \\"3\\"\\n" '
        '> "$CNB_BUILD_PLAN_PATH"',
        build="say I can use it",
    )
    both = ("--buildpack", provider, "--buildpack", user)
    done = home.run("build", "plan", "--path", app, *both)
    assert done.returncode == 0, done.stderr
    assert "[user] I can use it from /layers/test_provider/tools/bin/say" in done.stderr
    assert home.ok("run", "plan") == "hello from /layers/test_provider/tools/bin/say"
    alone = home.run("build", "plan", "--path", app, "--buildpack", user)
    assert alone.returncode == 20
    assert "tool" in alone.stderr


def test_a_bundled_buildpack_is_had_by_id_and_from_its_source(
    home: Home, sample: Path, sample_id: str, tmp_path: Path
) -> None:
    for name in ("packhorse/nodejs", str(REPOSITORY / "buildpacks" / "nodejs")):
        again = home.ok("build", "--quiet", "sample", "--path", sample, "--buildpack", name)
        assert again == sample_id, name


def test_variables_reach_buildpacks_as_files_of_the_platform(home: Home, app: Path, tmp_path: Path) -> None:
    (tmp_path / "variables").write_bytes(b"# comment\r\nFROM_FILE=1 2\r\n\r\nTAKEN\n")
    buildpack = shell_buildpack(
        tmp_path / "buildpack",
        build='cd "$CNB_PLATFORM_DIR/env"\nfor i in *; do echo "$i is $(cat $i)"; done\n'
        'echo "env $FROM_FILE"',
    )
    arguments = ("--env", "GIVEN=a=b", "--env", "ABSENT", "--env-file", tmp_path / "variables")
    done = home.run(
        *("build", "variables", "--path", app, "--buildpack", buildpack, *arguments), env={"TAKEN": "mine"}
    )
    lines = [line.partition("[shell] ")[2] for line in done.stderr.splitlines() if "[shell]" in line]
    assert lines == ["FROM_FILE is 1 2", "GIVEN is a=b", "TAKEN is mine", "env 1 2"]


def test_nothing_of_the_caller_is_readable_inside(home: Home, app: Path, tmp_path: Path) -> None:
    look = 'cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2> /dev/null | tr "\\0" "\\n"; env; ls /proc'
    buildpack = shell_buildpack(tmp_path / "buildpack", detect=f"{look} >&2", build=f"{look}\n{SERVER}")
    secret = {"SECRET_OF_THE_CALLER": "s3cr3t", "AWS_TOKEN": "s3cr3t"}
    done = home.run("build", "-v", "secret", "--path", app, "--buildpack", buildpack, env=secret)
    assert done.returncode == 0, done.stderr
    assert "CNB_LAYERS_DIR=" in done.stderr
    run = home.run("run", "--entrypoint", "sh", "secret", "-c", look, env=secret)
    assert "CNB_LAYERS_DIR=" in run.stdout
    for said in (done.stderr, run.stdout):
        assert "s3cr3t" not in said and "PACKHORSE_HOME" not in said and str(home.path) not in said


def test_proxies_and_certificates_reach_the_build_and_not_the_image(
    home: Home, app: Path, tmp_path: Path
) -> None:
    authority = tmp_path / "authority.pem"
    authority.write_text("an authority of this test\n")
    buildpack = shell_buildpack(
        tmp_path / "buildpack",
        build=f'cat "$SSL_CERT_FILE"; echo "proxy ${{HTTPS_PROXY-}} ${{https_proxy-}}"\n{SERVER}',
    )
    outside = {"HTTPS_PROXY": "http://proxy.test:1", "SSL_CERT_FILE": str(authority)}
    done = home.run("build", "proxied", "--path", app, "--buildpack", buildpack, env=outside)
    assert "[shell] an authority of this test" in done.stderr
    assert "[shell] proxy http://proxy.test:1 http://proxy.test:1" in done.stderr
    plain = home.ok(
        "build", "--quiet", "plain", "--path", app, "--buildpack", buildpack, env={"HTTPS_PROXY": ""}
    )
    assert home.image_id("proxied") == plain
    inside = home.ok(
        *("run", "--entrypoint", "sh", "proxied", "-c", "env; cat /etc/ssl/certs/ca-certificates.crt"),
        env=outside,
    )
    assert "proxy.test" not in inside and "CERT" not in inside.partition("-----BEGIN")[0]
    assert "an authority of this test" not in inside


def test_hostile_output_cannot_harm_the_terminal_or_hold_up_the_build(
    home: Home, app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(
        tmp_path / "buildpack",
        build="""
printf '\\033]0;title\\007\\033[2J\\033[31mred\\033[0m \\b\\b\\xc2\\x9b5A done\\n'
printf 'progress 1%%\\rprogress 100%%\\r\\n'
printf '\\xff\\xfe\\x00binary\\n'
head -c 10M /dev/zero | tr '\\0' x; echo
head -c 100k /dev/urandom
printf '\\nno end'
""",
    )
    done = home.run("build", "hostile", "--path", app, "--buildpack", buildpack, errors="replace")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "[shell] red  done" in done.stderr
    assert "[shell] progress 100%\n" in done.stderr
    assert done.stderr.count("x") > 10_000_000
    assert "[shell] no end\n" in done.stderr
    assert not set(map(chr, range(32))) - {"\n", "\t"} & set(done.stderr)


def test_a_shell_script_cannot_write_where_a_reference_build_could_not(
    home: Home, app: Path, tmp_path: Path
) -> None:
    buildpack = shell_buildpack(
        tmp_path / "buildpack",
        build='for i in /cnb/x /etc/x "$CNB_PLATFORM_DIR/x" /proc/sys/kernel/core_pattern; '
        'do if (echo x > "$i") 2> /dev/null; then echo "wrote $i"; fi; done; echo x > /workspace/new; id -u; '
        "grep CapEff /proc/self/status",
    )
    done = home.run("build", "writes", "--path", app, "--buildpack", buildpack)
    assert done.returncode == 0, done.stderr
    assert "wrote" not in done.stderr
    assert "[shell] 1000\n" in done.stderr
    assert "CapEff:\t0000000000000000" in done.stderr
    assert not (app / "new").exists()


def test_any_number_of_buildpacks_see_each_other_and_replace_those_of_the_builder(
    home: Home, app: Path, tmp_path: Path
) -> None:
    """Nothing is left of what the builder has under the same name and version."""
    lists = "cd /cnb/buildpacks; find . -path './test_p*' -type f -o -path './packhorse_nodejs/*'; exit 100"
    folders = [
        shell_buildpack(tmp_path / f"p{number}", f"test/p{number}", detect=lists if number == 11 else "")
        for number in range(12)
    ]
    (folders[3] / "large").write_bytes(bytes(2_000_000))
    folders.append(shell_buildpack(tmp_path / "same", "packhorse/nodejs", version="0.1.0"))
    words = [word for folder in folders for word in ("--buildpack", folder)]
    done = home.run("--verbose", "build", "none", "--path", app, *words)
    assert done.returncode == 20, done.stderr
    starts = ("./test_p", "./packhorse_nodejs")
    seen = {
        line.split("./", 1)[1] for line in done.stderr.splitlines() if any(each in line for each in starts)
    }
    files = ("bin/build", "bin/detect", "buildpack.toml")
    expected = [f"test_p{number}/1.0.0/{file}" for number in range(12) for file in files]
    expected += ["test_p3/1.0.0/large"]
    expected += [f"packhorse_nodejs/0.1.0{rest}" for rest in ("", "/bin", *(f"/{file}" for file in files))]
    assert seen == set(expected)
