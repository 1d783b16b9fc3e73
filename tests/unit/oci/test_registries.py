"""registries.conf: which rule holds for a name, and where its images are then."""

from __future__ import annotations

from pathlib import Path

import pytest

from packhorse.errors import InputError
from packhorse.oci.reference import Reference
from packhorse.oci.registry.mirrors import Registries, RegistrySource, config_files

DIGEST = "sha256:" + "a" * 64


def registries(directory: Path, *texts: str) -> Registries:
    paths = [directory / f"{number}.conf" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return Registries.read(paths)


def test_a_name_without_a_rule_has_none(tmp_path):
    found = registries(tmp_path, 'unqualified-search-registries = ["quay.example"]\n')
    assert found.find(Reference.parse("debian")) is None


def test_the_longest_prefix_holds_and_ends_where_a_part_of_the_name_does(tmp_path):
    found = registries(
        tmp_path,
        '[[registry]]\nlocation = "registry.example"\n'
        '[[registry]]\nprefix = "registry.example/team"\nlocation = "other.example/x"\n',
    )
    for name, location in {
        "registry.example/team/app": "other.example/x",
        "registry.example/team": "other.example/x",
        "registry.example/teams/app": "registry.example",
        "registry.example/app": "registry.example",
    }.items():
        rule = found.find(Reference.parse(name))
        assert rule is not None and rule.source.location == location
    assert found.find(Reference.parse("registry.example.org/app")) is None


@pytest.mark.parametrize(
    ("prefix", "location", "name", "there"),
    [
        ("docker.io", "mirror.example:5000/hub", "debian:12", "mirror.example:5000/hub/library/debian:12"),
        ("docker.io/library", "mirror.example", "debian", "mirror.example/debian:latest"),
        ("a.example/b", "c.example/d", f"a.example/b/e@{DIGEST}", f"c.example/d/e@{DIGEST}"),
        ("*.a.example", "c.example", "x.a.example/e:1", "c.example/e:1"),
        ("*.a.example", "", "x.a.example/e:1", "x.a.example/e:1"),
    ],
)
def test_a_name_is_another_where_the_source_is_another(tmp_path, prefix, location, name, there):
    found = registries(tmp_path, f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\n')
    rule = found.find(Reference.parse(name))
    assert rule is not None
    assert str(rule.rewrite(rule.source, Reference.parse(name))) == there


def test_mirrors_are_in_their_order_and_say_what_they_are_asked_for(tmp_path):
    found = registries(
        tmp_path,
        """
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "one.example"
        insecure = true
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "two.example/cache"
        """,
    )
    rule = found.find(Reference.parse("debian"))
    assert rule is not None
    assert rule.mirrors == (
        RegistrySource("one.example", insecure=True, pulls="digest-only"),
        RegistrySource("two.example/cache"),
    )
    assert found.is_insecure("one.example")
    assert not found.is_insecure("two.example")


def test_a_later_file_replaces_the_rule_of_an_earlier_one(tmp_path):
    first = '[[registry]]\nlocation = "a.example"\nblocked = true\n'
    found = registries(tmp_path, first, '[[registry]]\nlocation = "a.example"\n')
    rule = found.find(Reference.parse("a.example/x"))
    assert rule is not None and not rule.blocked


def test_all_that_is_wrong_is_said_at_once_with_its_line(tmp_path):
    with pytest.raises(InputError) as caught:
        registries(
            tmp_path,
            """
            [[registry]]
            location = "http://a.example"
            blocked = "yes"
            [[registry]]
            prefix = "b.example"
            [[registry.mirror]]
            location = ""
            pull-from-mirror = "never"
            """,
        )
    where = tmp_path / "0.conf"
    assert sorted(caught.value.issues) == [
        f"{where}:3: registry.location must be HOST[:PORT][/PART], without a scheme",
        f"{where}:4: registry.blocked must be true or false",
        f"{where}:5: registry.location is missing",
        f"{where}:8: registry.mirror.location is empty",
        f"{where}:9: registry.mirror.pull-from-mirror must be all, digest-only or tag-only",
    ]


@pytest.mark.parametrize("text", ["registry = 1", "[registries.search]\nregistries = []", ""])
def test_what_is_of_another_version_has_no_rules(tmp_path, text):
    assert registries(tmp_path, text).rules == ()


def test_what_is_not_toml_is_said_with_its_file(tmp_path):
    with pytest.raises(InputError, match=r"0\.conf is not valid TOML"):
        registries(tmp_path, "[[registry")


def test_files_are_found_as_containers_do(tmp_path):
    own = tmp_path / ".config/containers"
    (own / "registries.conf.d").mkdir(parents=True)
    for name in ("registries.conf", "registries.conf.d/b.conf", "registries.conf.d/a.conf"):
        (own / name).write_text("")
    found = [path for path in config_files({"HOME": str(tmp_path)}) if path.is_relative_to(tmp_path)]
    assert [path.name for path in found] == ["registries.conf", "a.conf", "b.conf"]
    named = tmp_path / "named.conf"
    named.write_text("")
    environ = {"HOME": str(tmp_path), "CONTAINERS_REGISTRIES_CONF": str(named)}
    assert config_files(environ)[0] == named
    with pytest.raises(InputError):
        config_files({"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "missing")})
