"""The lifecycle label, read back as it was written, and read from anybody."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from packhorse.lifecycle.labels import BuildpackRecord, LayerRecord, LayersMetadata, RunImageRecord
from packhorse.spec.buildpack_files import StoreToml

words = st.text(st.sampled_from("ab<&>é\u2028\"'\\/\n"), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.floats(-9, 9) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
data = st.none() | st.dictionaries(words, values, max_size=2)
layer_names = st.sampled_from(["a", "b.c", "d-e", "é"])
records = st.builds(LayerRecord, words, data, st.booleans(), st.booleans(), st.booleans())
buildpacks = st.builds(
    BuildpackRecord,
    words,
    words,
    st.dictionaries(layer_names, records, max_size=2),
    st.none() | st.builds(StoreToml, data),
)
labels = st.builds(
    LayersMetadata,
    st.lists(words, max_size=2).map(tuple),
    words,
    st.lists(buildpacks, max_size=2).map(tuple),
    words,
    words,
    words,
    st.builds(RunImageRecord, words, words, words, st.lists(words, max_size=2).map(tuple)),
)


@given(labels)
def test_a_label_is_read_back_as_it_was_written(label: LayersMetadata) -> None:
    assert LayersMetadata.parse(label.encode_label()) == label


@given(labels)
def test_metadata_of_a_cache_is_read_back_without_what_it_does_not_have(label: LayersMetadata) -> None:
    assert LayersMetadata.parse(label.encode_cache()) == LayersMetadata(
        sbom=label.sbom, buildpacks=label.buildpacks
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["app", "sha", "sbom", "buildpacks", "key", "layers", "store", "metadata", "runImage"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_label_can_be_read(value: object) -> None:
    label = LayersMetadata.parse(json.dumps(value))
    assert LayersMetadata.parse(label.encode_label()).buildpacks == label.buildpacks


@given(st.binary(max_size=30))
def test_any_bytes_can_be_read(value: bytes) -> None:
    LayersMetadata.parse(value)


def test_a_buildpack_is_found_by_its_id_whatever_its_version() -> None:
    record = BuildpackRecord("a", "1")
    assert LayersMetadata(buildpacks=(record,)).buildpack("a") is record
    assert LayersMetadata(buildpacks=(record,)).buildpack("b") is None
